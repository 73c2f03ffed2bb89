//! What the sender is told when an event is not accepted: a status, a stable code, a sentence that says what to do.
//!
//! Nothing of the event, the token or the host's inside gets into it: the CRM keeps the answer in its webhook log.

use axum::Json;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::json;

use super::decode;
use crate::text::Invisible;

/// Why an event is not accepted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Problem {
    /// No account has this token.
    #[error("the token is unknown: use the `token` of a `[crm.NAME]` section, in the address or as a bearer token")]
    UnknownToken,
    /// The account takes events from other addresses only.
    #[error("events of this account are not taken from this address: add it to `allow` of its `[crm.NAME]` section")]
    Address,
    /// A key that can't be kept.
    #[error("the header `Idempotency-Key` must have 1 to 128 visible characters")]
    BadKey,
    /// The key of another event.
    #[error(
        "the header `Idempotency-Key` names another event that is stored already: give each event a key of its own"
    )]
    KeyReused,
    /// A path of the intake's that leads nowhere.
    #[error("send events to `/events/<token>`, or to `/events` with `Authorization: Bearer <token>`")]
    Path,
    /// Neither `GET` nor `POST`.
    #[error("send events with GET or POST")]
    Method,
    /// A `GET` with a body.
    #[error("a GET carries its event in the query string, and no body: send a body with POST")]
    BodyOnGet,
    /// Neither form nor JSON, or not UTF-8.
    #[error("send `application/x-www-form-urlencoded`, `application/json` or `multipart/form-data`, in UTF-8")]
    ContentType,
    /// Packed in a way that is not known.
    #[error("send the body as it is, or packed once with `gzip` or `deflate`")]
    ContentEncoding,
    /// Packed, and can't be unpacked.
    #[error("the packed body is cut or damaged: send it again, or as it is")]
    Packed,
    /// Parts that can't be read.
    #[error("the multipart body can't be read: {0}")]
    Multipart(String),
    /// A part with a file.
    #[error("the part `{0}` holds a file: events have fields only")]
    File(String),
    /// The body is over the limit.
    #[error("the body is over the limit of {0} bytes: raise `server.max_body_kib`")]
    TooLarge(usize),
    /// The body did not come in time, or broke off.
    #[error("the body did not arrive whole and in time: send it again")]
    Incomplete,
    /// The body or query can't be read.
    #[error("{0}")]
    Undecodable(#[from] decode::Error),
    /// There is no `event`.
    #[error("there is no field `event` with the event's name, such as `client.add`")]
    NoEvent,
    /// `event` is not a name.
    #[error("the field `event` is not a name: use 1 to 128 letters, digits, dots, `_` and `-`")]
    BadEvent,
    /// A number of a record, or of a user, with a character that nobody sees.
    #[error("the field `{0}` holds {1}: type it anew")]
    Invisible(&'static str, Invisible),
    /// Too many senders at once.
    #[error("too many events at once: send again in a moment")]
    Busy,
    /// There is no room on the disk.
    #[error("the host's disk is full or nearly full: make room there, then send again")]
    DiskFull,
    /// The host is not ready yet.
    #[error("the host is starting: send again in a moment")]
    Starting,
    /// The journal can't take it.
    #[error("the event can't be stored now: send it again later; the host's log says why")]
    NotStored,
}

impl Problem {
    /// The stable code.
    pub fn code(&self) -> &'static str {
        match self {
            Self::UnknownToken => "ingress.unknown_token",
            Self::Address => "ingress.address",
            Self::BadKey => "ingress.bad_key",
            Self::KeyReused => "ingress.key_reused",
            Self::Path => "ingress.path",
            Self::Method => "ingress.method",
            Self::BodyOnGet => "ingress.body_on_get",
            Self::ContentType => "ingress.content_type",
            Self::ContentEncoding => "ingress.content_encoding",
            Self::Packed => "ingress.packed",
            Self::Multipart(_) => "ingress.multipart",
            Self::File(_) => "ingress.file",
            Self::TooLarge(_) => "ingress.too_large",
            Self::Incomplete => "ingress.incomplete",
            Self::Undecodable(error) => match error {
                decode::Error::Percent(_) => "ingress.percent_encoding",
                decode::Error::Utf8(_) => "ingress.utf8",
                decode::Error::Invisible(..) => "ingress.invisible",
                decode::Error::Brackets => "ingress.brackets",
                decode::Error::Duplicate(_) => "ingress.duplicate_field",
                decode::Error::Depth => "ingress.too_deep",
                decode::Error::Count => "ingress.too_many_fields",
                decode::Error::Json(_) => "ingress.json",
                decode::Error::NotObject => "ingress.not_an_object",
            },
            Self::NoEvent => "ingress.no_event",
            Self::BadEvent => "ingress.bad_event",
            Self::Invisible(..) => "ingress.invisible",
            Self::Busy => "ingress.busy",
            Self::DiskFull => "ingress.disk_full",
            Self::Starting => "ingress.starting",
            Self::NotStored => "ingress.not_stored",
        }
    }

    /// The status.
    pub fn status(&self) -> StatusCode {
        match self {
            Self::UnknownToken => StatusCode::UNAUTHORIZED,
            Self::Address => StatusCode::FORBIDDEN,
            Self::Method => StatusCode::METHOD_NOT_ALLOWED,
            Self::ContentType | Self::ContentEncoding => StatusCode::UNSUPPORTED_MEDIA_TYPE,
            Self::KeyReused => StatusCode::UNPROCESSABLE_ENTITY,
            Self::Path => StatusCode::NOT_FOUND,
            Self::TooLarge(_) => StatusCode::PAYLOAD_TOO_LARGE,
            Self::Incomplete => StatusCode::REQUEST_TIMEOUT,
            Self::BadKey
            | Self::BodyOnGet
            | Self::Packed
            | Self::Multipart(_)
            | Self::File(_)
            | Self::Undecodable(_)
            | Self::NoEvent
            | Self::BadEvent
            | Self::Invisible(..) => StatusCode::BAD_REQUEST,
            Self::Busy => StatusCode::TOO_MANY_REQUESTS,
            Self::DiskFull | Self::Starting | Self::NotStored => StatusCode::SERVICE_UNAVAILABLE,
        }
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let body = json!({ "status": "refused", "code": self.code(), "message": self.to_string() });
        let mut response = (self.status(), Json(body)).into_response();
        if self == Self::ContentEncoding {
            response.headers_mut().insert(header::ACCEPT_ENCODING, HeaderValue::from_static("gzip, deflate"));
        }
        response
    }
}
