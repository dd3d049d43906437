//! A resolver of `dns.upstreams`.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use weft_dns::forward::ResolverAddress;

/// Where questions for other names go: `ADDRESS` or `ADDRESS:PORT`, and `ADDRESS%LINK` where only a link leads there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Resolver(ResolverAddress);

impl Resolver {
    /// Its address and port.
    pub fn address(&self) -> &ResolverAddress {
        &self.0
    }
}

impl FromStr for Resolver {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let of_one =
            |at: &ResolverAddress| at.port() != 0 && !at.ip().is_unspecified() && !at.ip().is_multicast();
        match text.parse::<ResolverAddress>() {
            Ok(at) if of_one(&at) => Ok(Self(at)),
            Ok(_) => Err(format!("{text:?} is no machine's port; write ADDRESS or ADDRESS:PORT")),
            Err(_) => Err(format!(
                "{text:?} is no address; write ADDRESS or ADDRESS:PORT, such as 192.0.2.53, [2001:db8::53]:53 or fe80::53%eth0"
            )),
        }
    }
}

impl TryFrom<String> for Resolver {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl fmt::Display for Resolver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

impl From<Resolver> for String {
    fn from(resolver: Resolver) -> Self {
        resolver.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_with_or_without_a_port() {
        let check = |text: &str, expected: Result<&str, &str>| {
            let found = text.parse::<Resolver>();
            match (&found, expected) {
                (Ok(found), Ok(expected)) => {
                    assert_eq!(found.to_string(), expected);
                    assert_eq!(found.to_string().parse().as_ref(), Ok(found), "{text}");
                }
                (Err(found), Err(expected)) => assert!(found.contains(expected), "{found}"),
                _ => panic!("{text}: {found:?}"),
            }
        };
        check("192.0.2.53", Ok("192.0.2.53"));
        check("192.0.2.53:5353", Ok("192.0.2.53:5353"));
        check("2001:db8::53", Ok("2001:db8::53"));
        check("[2001:db8::53]:5353", Ok("[2001:db8::53]:5353"));
        // By name: the link's index is another one after the next boot.
        check("fe80::53%eth0", Ok("fe80::53%eth0"));
        check("[fe80::53%eth0]:5353", Ok("[fe80::53%eth0]:5353"));
        check("fe80::53%3", Ok("fe80::53%3"));
        check("[fe80::53%3]:53", Ok("fe80::53%3"));
        check("dns.example", Err("\"dns.example\" is no address; write ADDRESS"));
        for none in ["1.1.1.1:0", "0.0.0.0", "224.0.0.251:5353"] {
            check(none, Err("is no machine's port"));
        }
    }
}
