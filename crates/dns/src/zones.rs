//! Finding names in the plan's rows.
//!
//! Absent: services, pods, and every other reason why a name exists.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use weft_plan::names::{Below, Zone};
use weft_plan::{DnsName, NameRow, Plan, Rows};

/// The names that are answered here.
#[derive(Clone, Copy)]
pub struct Zones<'a> {
    /// A row for each name.
    pub names: &'a Rows<DnsName, NameRow>,
    /// Serial of the zones' SOA records.
    pub serial: u32,
    /// Zones that are never asked elsewhere, whether or not their rows have arrived.
    pub reserved: &'a [DnsName],
}

/// Where a name lies, and what is known of it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Place<'a> {
    /// In none of our zones.
    Elsewhere,
    /// In a zone of ours whose rows have not arrived.
    NotReady,
    /// In a zone of ours.
    Inside {
        /// The zone.
        zone: &'a Zone,
        /// How many labels of the name stand before the zone's.
        depth: usize,
        /// What it holds.
        held: Held<'a>,
    },
}

/// What a name in a zone of ours holds.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Held<'a> {
    /// The records of its row.
    Row(&'a NameRow),
    /// The address that it spells.
    Address(IpAddr),
    /// Nothing, but it exists.
    Nothing,
    /// It doesn't exist.
    Missing,
}

impl<'a> Zones<'a> {
    /// The zones of a plan; its generation is their serial.
    pub fn of(plan: &'a Plan, reserved: &'a [DnsName]) -> Self {
        Self {
            names: &plan.names,
            // Serials are compared modulo 2^32 (RFC 1982).
            serial: plan.generation as u32,
            reserved,
        }
    }

    /// Finds a name, given as lower-case text without the final dot. Costs one look-up a label.
    pub fn find(&self, name: &str) -> Place<'a> {
        let own = self.names.get(name);
        let mut held = own.map_or(Held::Missing, Held::Row);
        let mut suffix = name;
        for depth in 0.. {
            if let Some(row) = self.names.get(suffix) {
                if own.is_none() {
                    match row.below {
                        Below::DashedAddresses if depth == 1 => {
                            if let Some(ip) = dashed_address(&name[..name.len() - suffix.len() - 1]) {
                                held = Held::Address(ip);
                            }
                        }
                        Below::InnerNames(labels) if depth < usize::from(labels) => held = Held::Nothing,
                        _ => {}
                    }
                }
                if let Some(zone) = &row.zone {
                    return Place::Inside { zone, depth, held };
                }
            }
            if suffix.is_empty() {
                break;
            }
            suffix = suffix.split_once('.').map_or("", |(_, rest)| rest);
        }
        let name = DnsName::new(name);
        if self.reserved.iter().any(|zone| name.is_in(zone)) { Place::NotReady } else { Place::Elsewhere }
    }
}

/// The address that a label spells: `10-1-2-3`, `2001-db8--1`.
fn dashed_address(label: &str) -> Option<IpAddr> {
    if let Ok(v4) = label.replace('-', ".").parse::<Ipv4Addr>() {
        return Some(v4.into());
    }
    label.replace('-', ":").parse::<Ipv6Addr>().ok().map(Into::into)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_spell_addresses() {
        let check = |label: &str, expected: Option<&str>| {
            assert_eq!(dashed_address(label), expected.map(|e| e.parse().unwrap()), "{label}");
        };
        check("10-1-2-3", Some("10.1.2.3"));
        check("2001-db8--1", Some("2001:db8::1"));
        check("--1", Some("::1"));
        check("10-1-2", None);
        check("10-1-2-256", None);
        check("10-01-2-3", None);
        check("web-0", None);
        check("", None);
        check("10\\0461-2-3", None);
    }
}
