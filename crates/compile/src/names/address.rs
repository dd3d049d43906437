//! Addresses spelled as labels and as names, and blocks of addresses as zones.

use std::fmt::{self, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use weft_model::Cidr;
use weft_plan::{DnsName, Record};

/// The label that spells an address: `10-1-2-3`, `2001-db8--1`.
pub fn dashed(ip: IpAddr) -> String {
    ip.to_string().replace(['.', ':'], "-")
}

/// The record that holds an address.
pub fn record(ip: IpAddr) -> Record {
    match ip {
        IpAddr::V4(ip) => Record::A(ip),
        IpAddr::V6(ip) => Record::Aaaa(ip),
    }
}

/// The name under which an address's own name is found (RFC 1035 §3.5, RFC 3596 §2.5).
pub fn reverse_name(ip: IpAddr) -> DnsName {
    leading(ip, digits(ip))
}

/// A zone of addresses: its name, and how many labels an address has below it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReverseZone {
    /// Its name.
    pub name: DnsName,
    /// Labels before it in an address's name.
    pub labels: u8,
}

/// The zones that hold exactly a block. Zones end between labels, so a block of another size takes several; one smaller
/// than a label's worth takes the label before, with its neighbours.
pub fn reverse_zones(block: Cidr) -> Vec<ReverseZone> {
    let first = block.first();
    let all = digits(first);
    let bits_each = if first.is_ipv4() { 8 } else { 4 };
    let kept = block.prefix().div_ceil(bits_each).min(all - 1);
    let count = 1u128 << (kept * bits_each).saturating_sub(block.prefix());
    let below = u32::from((all - kept) * bits_each);
    (0..count)
        .map(|at| {
            let offset = at.checked_shl(below).unwrap_or(0);
            let ip = match first {
                IpAddr::V4(ip) => Ipv4Addr::from_bits(ip.to_bits() | offset as u32).into(),
                IpAddr::V6(ip) => Ipv6Addr::from_bits(ip.to_bits() | offset).into(),
            };
            ReverseZone { name: leading(ip, kept), labels: all - kept }
        })
        .collect()
}

/// Labels of an address's name.
fn digits(ip: IpAddr) -> u8 {
    if ip.is_ipv4() { 4 } else { 32 }
}

/// The name of an address's first `kept` octets or nibbles.
fn leading(ip: IpAddr, kept: u8) -> DnsName {
    let kept = usize::from(kept);
    let mut name = String::with_capacity(72);
    let mut add = |label: fmt::Arguments<'_>| _ = name.write_fmt(label);
    match ip {
        IpAddr::V4(ip) => {
            ip.octets()[..kept].iter().rev().for_each(|octet| add(format_args!("{octet}.")));
            add(format_args!("in-addr.arpa"));
        }
        IpAddr::V6(ip) => {
            let nibbles = ip.octets().map(|octet| [octet >> 4, octet & 15]);
            nibbles.as_flattened()[..kept].iter().rev().for_each(|nibble| add(format_args!("{nibble:x}.")));
            add(format_args!("ip6.arpa"));
        }
    }
    DnsName::new(&name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_become_zones() {
        let check = |block: &str, expected: &str, labels: u8| {
            let zones = reverse_zones(block.parse().unwrap());
            let names: Vec<&str> = zones.iter().map(|zone| zone.name.as_str()).collect();
            assert_eq!(names.join(" "), expected, "{block}");
            assert!(zones.iter().all(|zone| zone.labels == labels), "{block}");
        };
        check("0.0.0.0/0", "in-addr.arpa", 4);
        check("10.0.0.0/8", "10.in-addr.arpa", 3);
        check("10.244.0.0/16", "244.10.in-addr.arpa", 2);
        check(
            "10.96.0.0/14",
            "96.10.in-addr.arpa 97.10.in-addr.arpa 98.10.in-addr.arpa 99.10.in-addr.arpa",
            2,
        );
        check("10.1.2.0/24", "2.1.10.in-addr.arpa", 1);
        check("10.1.2.128/26", "2.1.10.in-addr.arpa", 1);
        check("10.1.2.3/32", "2.1.10.in-addr.arpa", 1);
        check("fd00:a::/32", "a.0.0.0.0.0.d.f.ip6.arpa", 24);
        check("fd00::/15", "0.0.d.f.ip6.arpa 1.0.d.f.ip6.arpa", 28);
        assert_eq!(reverse_zones("fd00:1::/108".parse().unwrap())[0].labels, 5);
        assert_eq!(reverse_zones("fd00:1::/128".parse().unwrap())[0].labels, 1);
    }

    #[test]
    fn addresses_become_labels_and_names() {
        let ip = |text: &str| text.parse::<IpAddr>().unwrap();
        assert_eq!(dashed(ip("10.1.2.3")), "10-1-2-3");
        assert_eq!(dashed(ip("2001:db8::1")), "2001-db8--1");
        assert_eq!(reverse_name(ip("10.1.2.3")).as_str(), "3.2.1.10.in-addr.arpa");
        let v6 = reverse_name(ip("2001:db8::1"));
        assert_eq!(v6.as_str(), format!("1.{}8.b.d.0.1.0.0.2.ip6.arpa", "0.".repeat(23)));
    }
}
