//! An address with the length of its prefix, as CNI writes it: `10.1.2.3/24`.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// An address and its prefix length in bits. Bits below the prefix may be set: it is an address, not a block.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct IpPrefix {
    /// The address.
    pub address: IpAddr,
    /// Bits of prefix: at most 32 or 128.
    pub prefix: u8,
}

impl IpPrefix {
    /// The address alone: /32 or /128.
    pub fn host(address: IpAddr) -> Self {
        Self { address, prefix: full(address) }
    }

    /// The route of last resort of the address's family: `0.0.0.0/0` or `::/0`.
    pub fn default_route(family_of: IpAddr) -> Self {
        let address = match family_of {
            IpAddr::V4(_) => IpAddr::from([0; 4]),
            IpAddr::V6(_) => IpAddr::from([0; 16]),
        };
        Self { address, prefix: 0 }
    }
}

fn full(address: IpAddr) -> u8 {
    if address.is_ipv4() { 32 } else { 128 }
}

/// Text that is no address with a prefix length.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InvalidPrefix(String);

impl fmt::Display for InvalidPrefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} is no address with a prefix length; write it as 10.1.2.3/24 or fd00::3/64", self.0)
    }
}

impl std::error::Error for InvalidPrefix {}

impl FromStr for IpPrefix {
    type Err = InvalidPrefix;
    /// Takes `ADDRESS/BITS`, and a bare `ADDRESS` as the host itself.
    fn from_str(text: &str) -> Result<Self, InvalidPrefix> {
        let invalid = || InvalidPrefix(text.to_owned());
        let Some((address, prefix)) = text.split_once('/') else {
            return text.parse().map(Self::host).map_err(|_| invalid());
        };
        let address: IpAddr = address.parse().map_err(|_| invalid())?;
        let prefix = prefix.parse().ok().filter(|bits| *bits <= full(address)).ok_or_else(invalid)?;
        Ok(Self { address, prefix })
    }
}

impl TryFrom<String> for IpPrefix {
    type Error = InvalidPrefix;
    fn try_from(text: String) -> Result<Self, InvalidPrefix> {
        text.parse()
    }
}

impl From<IpPrefix> for String {
    fn from(prefix: IpPrefix) -> String {
        prefix.to_string()
    }
}

impl fmt::Display for IpPrefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.prefix)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prefixes_parse_and_print() {
        let check = |text: &str, expected: Option<&str>| {
            assert_eq!(text.parse::<IpPrefix>().ok().map(|p| p.to_string()).as_deref(), expected, "{text}");
        };
        check("10.1.2.3/24", Some("10.1.2.3/24"));
        check("10.1.2.3", Some("10.1.2.3/32"));
        check("fd00::3/64", Some("fd00::3/64"));
        check("fd00::3", Some("fd00::3/128"));
        for bad in ["", "10.1.2.3/33", "10.1.2.3/", "fd00::/129", "10.1.2/24", "10.1.2.3/-1", "x/1"] {
            check(bad, None);
        }
    }
}
