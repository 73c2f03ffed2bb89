//! Why a question or a wish was refused: status, stable code, a sentence.

use axum::Json;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde::Serialize;

use crate::{journal, telemetry};

/// A refusal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Problem {
    pub(super) status: StatusCode,
    pub(super) code: &'static str,
    pub(super) message: String,
}

/// A refusal as it is answered.
#[derive(Serialize, utoipa::ToSchema)]
pub(super) struct Refused {
    /// A stable code.
    code: &'static str,
    /// What is wrong, and what to do.
    message: String,
}

impl Problem {
    pub(super) fn new(status: StatusCode, code: &'static str, message: impl Into<String>) -> Self {
        Self { status, code, message: message.into() }
    }

    pub(super) fn viewer() -> Self {
        let words = "your role is `viewer`, which may look and not change: ask for `admin`";
        Self::new(StatusCode::FORBIDDEN, "console.viewer", words)
    }

    pub(super) fn bad_filter(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "console.bad_filter", message)
    }

    pub(super) fn bad_id(message: &str) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "console.bad_id", message)
    }

    pub(super) fn not_found(message: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, "console.not_found", message)
    }

    pub(super) fn refused(message: impl Into<String>) -> Self {
        Self::new(StatusCode::CONFLICT, "console.refused", message)
    }
}

impl From<journal::Error> for Problem {
    fn from(error: journal::Error) -> Self {
        telemetry::host_fault("console", &error);
        let words = "the journal can't be read or written now: the host's log says why";
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "console.store", words)
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let body = Refused { code: self.code, message: self.message };
        (self.status, Json(body)).into_response()
    }
}
