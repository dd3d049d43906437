//! How people write where a resolver is.
//!
//! What always holds: a link's name is kept as it is written, and looked up when it is needed. Its index is another one after the next
//! boot, or when the link is made anew.

use std::fmt;
use std::net::{IpAddr, SocketAddr, SocketAddrV6};
use std::str::FromStr;

/// Port of a resolver that names none.
const DNS_PORT: u16 = 53;
/// Of a link: `IFNAMSIZ` without the end.
const LONGEST_NAME: usize = 15;

/// An address and a port, and for IPv6 perhaps the link to it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ResolverAddress {
    ip: IpAddr,
    port: u16,
    /// Its name, or its index where that was written.
    link: Option<Box<str>>,
}

impl ResolverAddress {
    /// The address.
    pub fn ip(&self) -> IpAddr {
        self.ip
    }

    /// The port.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// True where the address is on a link that is named.
    pub fn has_link(&self) -> bool {
        self.link.is_some()
    }

    /// Where to send to now; nothing while there is no such link.
    pub fn socket(&self) -> Option<SocketAddr> {
        let (IpAddr::V6(ip), Some(link)) = (self.ip, &self.link) else {
            return Some((self.ip, self.port).into());
        };
        let index = link.parse().or_else(|_| nix::net::if_::if_nametoindex(&**link)).ok()?;
        Some(SocketAddrV6::new(ip, self.port, 0, index).into())
    }

    /// `10.0.0.1`, `fd00::1`, `fe80::1%eth0`: at the usual port, as resolv.conf(5) has it.
    pub(super) fn without_port(text: &str) -> Option<Self> {
        let (ip, link) = match text.split_once('%') {
            Some((ip, link)) => (ip, Some(link)),
            None => (text, None),
        };
        let ip: IpAddr = ip.parse().ok()?;
        let may_be_a_link = |link: &str| {
            // The kernel would pass over a colon and what follows.
            let is_odd = |c: char| c.is_whitespace() || c.is_control() || "%[]/:".contains(c);
            ip.is_ipv6() && (1..=LONGEST_NAME).contains(&link.len()) && !link.contains(is_odd)
        };
        let link = match link {
            Some(link) if may_be_a_link(link) => Some(link.into()),
            Some(_) => return None,
            None => None,
        };
        Some(Self { ip, port: DNS_PORT, link })
    }

    /// `10.0.0.1:53`, `[fe80::1%eth0]:53`.
    fn with_port(text: &str) -> Option<Self> {
        let (address, port) = text.rsplit_once(':')?;
        let port = port.parse().ok()?;
        let found = match address.strip_prefix('[') {
            Some(rest) => Self::without_port(rest.strip_suffix(']')?).filter(|found| found.ip.is_ipv6()),
            None => Self::without_port(address).filter(|found| found.ip.is_ipv4()),
        };
        found.map(|found| Self { port, ..found })
    }
}

impl From<SocketAddr> for ResolverAddress {
    fn from(at: SocketAddr) -> Self {
        let link = match at {
            SocketAddr::V6(at) if at.scope_id() != 0 => Some(at.scope_id().to_string().into()),
            _ => None,
        };
        Self { ip: at.ip(), port: at.port(), link }
    }
}

/// Nobody's address.
#[derive(Debug, PartialEq, Eq)]
pub struct NoAddress;

impl FromStr for ResolverAddress {
    type Err = NoAddress;

    /// With or without a port.
    fn from_str(text: &str) -> Result<Self, NoAddress> {
        Self::without_port(text).or_else(|| Self::with_port(text)).ok_or(NoAddress)
    }
}

impl fmt::Display for ResolverAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { ip, port, link } = self;
        let link = link.as_ref().map_or_else(String::new, |link| format!("%{link}"));
        match ip {
            _ if *port == DNS_PORT => write!(f, "{ip}{link}"),
            IpAddr::V4(_) => write!(f, "{ip}:{port}"),
            IpAddr::V6(_) => write!(f, "[{ip}{link}]:{port}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_is_kept_by_its_name_and_looked_up_when_it_is_needed() {
        let check = |text: &str, shown: &str, socket: Option<&str>| {
            let address: ResolverAddress = text.parse().unwrap();
            assert_eq!(address.to_string(), shown);
            assert_eq!(shown.parse().as_ref(), Ok(&address));
            assert_eq!(address.socket().map(|at| at.to_string()).as_deref(), socket, "{text}");
        };
        check("192.0.2.53", "192.0.2.53", Some("192.0.2.53:53"));
        check("192.0.2.53:5353", "192.0.2.53:5353", Some("192.0.2.53:5353"));
        check("2001:db8::53", "2001:db8::53", Some("[2001:db8::53]:53"));
        check("[2001:db8::53]:5353", "[2001:db8::53]:5353", Some("[2001:db8::53]:5353"));
        check("fe80::53%lo", "fe80::53%lo", Some("[fe80::53%1]:53"));
        check("[fe80::53%lo]:53", "fe80::53%lo", Some("[fe80::53%1]:53"));
        check("[fe80::53%lo]:5353", "[fe80::53%lo]:5353", Some("[fe80::53%1]:5353"));
        check("fe80::53%3", "fe80::53%3", Some("[fe80::53%3]:53"));
        check("fe80::53%no-such-link", "fe80::53%no-such-link", None);
    }

    #[test]
    fn what_is_no_address_is_none() {
        for text in [
            "",
            "dns.example",
            "192.0.2.53%lo",
            "fe80::53%",
            "fe80::53%a/b",
            "fe80::53%eth0:5353",
            "fe80::53%a-name-too-long-",
            "[192.0.2.53]:53",
            "[2001:db8::53]",
            "192.0.2.53:x",
            "192.0.2.53:65536",
            "[fe80::53%a%b]:53",
        ] {
            assert_eq!(text.parse::<ResolverAddress>(), Err(NoAddress), "{text}");
        }
    }
}
