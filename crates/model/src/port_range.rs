//! A range of ports, as in `services.nodePortRange`.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::net::{InvalidNet, Port, invalid};

/// Ports from the first to the last, both included; written `FIRST-LAST`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct PortRange {
    first: Port,
    last: Port,
}

impl PortRange {
    /// Checks the order.
    ///
    /// # Errors
    /// When the last is below the first.
    pub fn new(first: Port, last: Port) -> Result<Self, InvalidNet> {
        if first > last {
            return Err(invalid("range of ports", format!("{first}-{last}"), "write the lower port first"));
        }
        Ok(Self { first, last })
    }

    /// True for its ports.
    pub fn contains(&self, port: Port) -> bool {
        (self.first..=self.last).contains(&port)
    }
}

impl FromStr for PortRange {
    type Err = InvalidNet;
    fn from_str(value: &str) -> Result<Self, InvalidNet> {
        let port = |text: &str| text.parse().ok().and_then(|number| Port::new(number).ok());
        match value.split_once('-').map(|(first, last)| (port(first), port(last))) {
            Some((Some(first), Some(last))) => Self::new(first, last),
            _ => Err(invalid("range of ports", value, "write FIRST-LAST, such as 30000-32767")),
        }
    }
}

impl TryFrom<String> for PortRange {
    type Error = InvalidNet;
    fn try_from(value: String) -> Result<Self, InvalidNet> {
        value.parse()
    }
}

impl From<PortRange> for String {
    fn from(range: PortRange) -> String {
        range.to_string()
    }
}

impl fmt::Display for PortRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.first, self.last)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_has_both_its_ends() {
        let check =
            |text: &str, expected: Result<[bool; 3], &str>| match (text.parse::<PortRange>(), expected) {
                (Ok(range), Ok(expected)) => {
                    assert_eq!(range.to_string(), text);
                    let has = [29_999, 30_000, 30_001].map(|port| range.contains(Port::new(port).unwrap()));
                    assert_eq!(has, expected, "{text}");
                }
                (Err(error), Err(expected)) => assert!(error.to_string().contains(expected), "{error}"),
                (parsed, _) => panic!("{text}: {parsed:?}"),
            };
        check("30000-32767", Ok([false, true, true]));
        check("30000-30000", Ok([false, true, false]));
        check("1-30000", Ok([true, true, false]));
        check("30001-30000", Err("the lower port first"));
        check("0-30000", Err("30000-32767"));
        check("30000", Err("30000-32767"));
        check("30000-70000", Err("30000-32767"));
        check("a-b", Err("30000-32767"));
    }
}
