//! What a plugin says of itself (its manifest), and what it may do (its grants).
//!
//! - A manifest is read without running any code; an unknown key is an error.
//! - A call needs two keys: the manifest asks, the configuration grants. A refusal names the key that is missing.
//! - Nothing is granted by default.

pub mod calls;
mod grants;
mod limits;
mod manifest;
pub mod near;
pub mod origin;

pub use grants::{Grants, Refusal, Unchosen};
pub use limits::{KINDS, Kind, Limits, LimitsPatch, RAISE};
pub use manifest::{Manifest, ManifestError, Pattern, Permissions};

use std::fmt;

use serde::{Deserialize, Serialize};

/// A plugin's name: lower-case letters, digits and `-`, 1 to 64 characters.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(try_from = "String", into = "String")]
#[schema(value_type = String)]
pub struct PluginName(String);

impl PluginName {
    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for PluginName {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

impl From<PluginName> for String {
    fn from(name: PluginName) -> Self {
        name.0
    }
}

impl TryFrom<String> for PluginName {
    type Error = String;

    fn try_from(name: String) -> Result<Self, String> {
        let allowed = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
        if name.is_empty() || name.len() > 64 || name.starts_with('-') || !name.bytes().all(allowed) {
            return Err(format!(
                "`{}` is not a plugin's name: use 1 to 64 lower-case letters, digits and `-`",
                name.chars().take(64).collect::<String>().escape_debug()
            ));
        }
        Ok(Self(name))
    }
}
