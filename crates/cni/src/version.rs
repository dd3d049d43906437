//! Versions of the CNI protocol that we speak.
//!
//! What always holds: an answer has the version of the configuration that asked (CNI specification 1.1.0 §2).
//! Versions before 0.3.1 have another shape of result and are refused with code 1.

use std::fmt;

use serde_json::Value;

use crate::error::{CniError, Code};

/// A version of the specification, oldest first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Version {
    /// 0.3.1: ADD, DEL, VERSION.
    V0_3_1,
    /// 0.4.0: adds CHECK, and `prevResult` for DEL.
    V0_4_0,
    /// 1.0.0: drops the family from `ips`.
    V1_0_0,
    /// 1.1.0: adds GC and STATUS, and fields to the result.
    V1_1_0,
}

impl Version {
    /// All of them, oldest first.
    pub const ALL: [Version; 4] = [Version::V0_3_1, Version::V0_4_0, Version::V1_0_0, Version::V1_1_0];
    /// The newest; also what we answer in where the input names none.
    pub const LATEST: Version = Version::V1_1_0;

    /// As written in `cniVersion`.
    pub fn as_str(self) -> &'static str {
        match self {
            Version::V0_3_1 => "0.3.1",
            Version::V0_4_0 => "0.4.0",
            Version::V1_0_0 => "1.0.0",
            Version::V1_1_0 => "1.1.0",
        }
    }

    /// The version that is written exactly so.
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|version| version.as_str() == text)
    }

    /// The version to use for a configuration with these `cniVersion` and `cniVersions`: the first where we speak
    /// it, since the runtime has chosen already; otherwise the highest of the second.
    ///
    /// # Errors
    /// [`Code::INCOMPATIBLE_VERSION`] where we speak none of them.
    pub fn negotiate(single: Option<&str>, list: &[&str]) -> Result<Self, CniError> {
        if let Some(version) = single.and_then(Self::parse) {
            return Ok(version);
        }
        list.iter().filter_map(|text| Self::parse(text)).max().ok_or_else(|| {
            let asked = single.unwrap_or("none");
            CniError::new(
                Code::INCOMPATIBLE_VERSION,
                format!("cniVersion {asked:?} is not supported"),
                format!("set cniVersion to one of {}", Self::list()),
            )
        })
    }

    /// The version for the error's own `cniVersion`, from an input that may be broken.
    pub fn of_input(stdin: &[u8]) -> Self {
        let Ok(value) = serde_json::from_slice::<Value>(stdin) else { return Self::LATEST };
        let single = value.get("cniVersion").and_then(Value::as_str);
        single.and_then(Self::parse).unwrap_or(Self::LATEST)
    }

    /// All versions as text for a person: `0.3.1, 0.4.0, …`.
    pub fn list() -> String {
        Self::ALL.map(Self::as_str).join(", ")
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_runtimes_choice_wins_and_the_list_is_second() {
        let check = |single: Option<&str>, list: &[&str], expected: Option<Version>| {
            assert_eq!(Version::negotiate(single, list).ok(), expected, "{single:?} {list:?}");
        };
        check(Some("0.4.0"), &["1.1.0"], Some(Version::V0_4_0));
        check(Some("2.0.0"), &["1.0.0", "1.1.0", "2.0.0"], Some(Version::V1_1_0));
        check(None, &["0.3.1"], Some(Version::V0_3_1));
        check(Some("0.2.0"), &[], None);
        check(None, &[], None);
    }

    #[test]
    fn an_error_names_what_was_asked_and_what_we_speak() {
        let error = Version::negotiate(Some("0.2.0"), &[]).unwrap_err();
        assert_eq!(error.code, Code(1));
        assert_eq!(error.msg, "cniVersion \"0.2.0\" is not supported");
        assert_eq!(error.details, "set cniVersion to one of 0.3.1, 0.4.0, 1.0.0, 1.1.0");
    }
}
