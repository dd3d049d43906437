//! The error that a plugin answers with: a code, a message and details, as JSON on standard output.
//!
//! Source: CNI specification 1.1.0, §2 "Errors". The same three fields are the error body on the agent's socket.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::Version;

/// A CNI error code. 0–99 belong to the specification, 100 and above to the plugin.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Code(pub u32);

impl Code {
    /// The version of the configuration is not spoken.
    pub const INCOMPATIBLE_VERSION: Code = Code(1);
    /// A field of the configuration can't be honoured; the message names key and value.
    pub const UNSUPPORTED_FIELD: Code = Code(2);
    /// The container does not exist; the runtime need not clean up.
    pub const UNKNOWN_CONTAINER: Code = Code(3);
    /// An environment variable is missing or wrong; the message names it.
    pub const INVALID_ENVIRONMENT: Code = Code(4);
    /// Reading, writing or talking to the agent failed.
    pub const IO_FAILURE: Code = Code(5);
    /// Something is not JSON, or JSON of another shape.
    pub const DECODING_FAILURE: Code = Code(6);
    /// The configuration is well formed and wrong.
    pub const INVALID_CONFIG: Code = Code(7);
    /// A passing state: the runtime should try again.
    pub const TRY_AGAIN_LATER: Code = Code(11);
    /// STATUS: no ADD can be served now.
    pub const NOT_AVAILABLE: Code = Code(50);
    /// STATUS: no ADD can be served now, and existing containers may have lost their network.
    pub const NOT_AVAILABLE_LIMITED: Code = Code(51);
    /// Ours: no address is free.
    pub const ADDRESSES_EXHAUSTED: Code = Code(100);
    /// Ours: an address, port or MAC that was asked for belongs to another attachment.
    pub const CONFLICT: Code = Code(101);
    /// Ours: the kernel refused a change.
    pub const KERNEL_REFUSED: Code = Code(102);
    /// Ours: CHECK found the container's network other than it should be.
    pub const CHECK_FAILED: Code = Code(103);
    /// Ours: a defect in the plugin or the agent.
    pub const DEFECT: Code = Code(999);
}

/// What failed, on what, and what to do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CniError {
    /// The specification's number for it.
    pub code: Code,
    /// One line: what failed, on what.
    pub msg: String,
    /// What to do about it, or the cause; may be empty.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub details: String,
}

impl CniError {
    /// An error of this code, message and details.
    pub fn new(code: Code, msg: impl Into<String>, details: impl Into<String>) -> Self {
        Self { code, msg: msg.into(), details: details.into() }
    }

    /// As the plugin prints it: one line of JSON with `cniVersion`, `code`, `msg` and `details`.
    pub fn render(&self, version: Version) -> String {
        let mut object = serde_json::Map::new();
        object.insert("cniVersion".to_owned(), version.as_str().into());
        object.insert("code".to_owned(), self.code.0.into());
        object.insert("msg".to_owned(), self.msg.as_str().into());
        if !self.details.is_empty() {
            object.insert("details".to_owned(), self.details.as_str().into());
        }
        serde_json::Value::Object(object).to_string()
    }
}

impl fmt::Display for CniError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (CNI code {})", self.msg, self.code.0)?;
        if self.details.is_empty() { Ok(()) } else { write!(f, ": {}", self.details) }
    }
}

impl std::error::Error for CniError {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_renders_as_one_line_in_the_inputs_version() {
        let error = CniError::new(Code::INVALID_ENVIRONMENT, "CNI_IFNAME is \"a/b\"", "no slashes");
        insta::assert_snapshot!(error.render(Version::V0_4_0), @r#"{"cniVersion":"0.4.0","code":4,"details":"no slashes","msg":"CNI_IFNAME is \"a/b\""}"#);
        let bare = CniError::new(Code::IO_FAILURE, "broken", "");
        insta::assert_snapshot!(bare.render(Version::V1_1_0), @r#"{"cniVersion":"1.1.0","code":5,"msg":"broken"}"#);
        insta::assert_snapshot!(error, @r#"CNI_IFNAME is "a/b" (CNI code 4): no slashes"#);
    }
}
