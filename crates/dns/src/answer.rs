//! `answer`: request in, reply out, by the zones alone.
//!
//! What always holds: it is pure and does not fail. What the zones can't answer it hands back, to be forwarded.
//!
//! The rules are those of the Kubernetes DNS specification 1.1.0, RFC 1034 §4.3.2, RFC 2308 (negative answers), RFC 6604
//! (response codes behind aliases) and RFC 8020 (a name exists where one below it does).

use std::net::IpAddr;

use weft_plan::names::Zone;
use weft_plan::{DnsName, NameRow, Record};

use crate::wire::reply::{Full, Owner, Part, bare_header};
use crate::wire::{
    CLASS_IN, ExtendedError, Rcode, Reply, Request, Section, Unanswerable, WireName, flag, rtype,
};
use crate::zones::{Held, Place, Zones};

/// How a request came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transport {
    /// One datagram; the reply may have to be cut.
    Udp,
    /// A stream.
    Tcp,
}

/// What else than the request decides an answer.
#[derive(Debug, Clone, Copy)]
pub struct Via {
    /// How the request came.
    pub transport: Transport,
    /// Largest reply by UDP, in bytes, whatever a client can take; below 512 counts as 512.
    pub udp_payload: u16,
    /// Counts up: which of several addresses comes first.
    pub turn: u32,
}

impl Via {
    /// Longest reply to `request`, in bytes (RFC 6891 §6.2.3).
    pub fn limit(self, request: &Request) -> usize {
        match (self.transport, request.edns) {
            (Transport::Tcp, _) => usize::from(u16::MAX),
            (Transport::Udp, None) => 512,
            (Transport::Udp, Some(edns)) => usize::from(edns.udp_size.min(self.udp_payload).max(512)),
        }
    }
}

/// What is to be done with a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// Send the reply that was written; it has this response code.
    Reply(u16),
    /// Send nothing.
    Silence,
    /// Ask a resolver and pass on what it says.
    Forward(Request),
    /// Aliases of ours lead elsewhere: ask a resolver for the last one's target, and put them before its records.
    Chase(Chase),
}

/// Aliases that lead out of our zones.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chase {
    /// What the client asked.
    pub request: Request,
    /// The aliases, in order: target and time to live in seconds. Each one's owner is the target before it.
    pub aliases: Vec<(WireName, u32)>,
}

/// Aliases that are followed before they count as a circle.
const MAX_ALIASES: usize = 8;

/// Longest time to live of a negative answer, in seconds.
const MAX_NEGATIVE_TTL: u32 = 300;

/// Answers `query`. Where that gives [`Answer::Reply`], `out` holds the message to send.
pub fn answer(zones: &Zones<'_>, query: &[u8], via: Via, out: &mut Vec<u8>) -> Answer {
    let request = match Request::read(query) {
        Ok(request) => request,
        Err(Unanswerable::Silent) => return Answer::Silence,
        Err(Unanswerable::Header { id, flags, rcode }) => {
            bare_header(id, flags, rcode, out);
            return Answer::Reply(rcode.number());
        }
    };
    if request.edns.is_some_and(|edns| edns.version > 0) {
        return Answer::Reply(failure(&request, Rcode::BadVers, None, via, out));
    }
    if request.class != CLASS_IN || matches!(request.rtype, rtype::AXFR | rtype::IXFR) {
        return Answer::Reply(failure(&request, Rcode::Refused, None, via, out));
    }
    let mut aliases: Vec<(WireName, u32)> = Vec::new();
    loop {
        let name = aliases.last().map_or(&request.name, |(target, _)| target);
        let (zone, depth, held) = match zones.find(&name.text()) {
            Place::Inside { zone, depth, held } => (zone, depth, held),
            Place::NotReady => {
                let reason = Some(ExtendedError::NOT_READY);
                return Answer::Reply(failure(&request, Rcode::ServFail, reason, via, out));
            }
            Place::Elsewhere if aliases.is_empty() => return Answer::Forward(request),
            Place::Elsewhere => return Answer::Chase(Chase { request, aliases }),
        };
        match alias(held, request.rtype) {
            Some(target) if aliases.len() < MAX_ALIASES => aliases.push((target, zone.ttl)),
            Some(_) => {
                let reason = Some(ExtendedError::ALIAS_LOOP);
                return Answer::Reply(failure(&request, Rcode::ServFail, reason, via, out));
            }
            None => {
                let found = Found { zones, zone, depth, held };
                return Answer::Reply(found.reply(&request, &aliases, via, out));
            }
        }
    }
}

/// Writes a reply without records; returns its response code.
pub fn failure(
    request: &Request,
    rcode: Rcode,
    reason: Option<ExtendedError>,
    via: Via,
    out: &mut Vec<u8>,
) -> u16 {
    Reply::begin(request, via.limit(request), out).finish(rcode, reason)
}

/// The alias that stands for the asked type. It stands for every type but its own and, as Kubernetes has it for
/// ExternalName services, SRV.
fn alias(held: Held<'_>, asked: u16) -> Option<WireName> {
    let Held::Row(row) = held else { return None };
    if matches!(asked, rtype::CNAME | rtype::SRV | rtype::ANY) {
        return None;
    }
    row.records.iter().find_map(|record| match record {
        Record::Cname(target) => WireName::of(target),
        _ => None,
    })
}

/// Puts `aliases` into the answer section. Returns the owner of what follows.
///
/// # Errors
/// [`Full`] where they don't fit.
pub fn write_aliases<'a>(reply: &mut Reply<'_>, aliases: &'a [(WireName, u32)]) -> Result<Owner<'a>, Full> {
    let mut owner = Owner::Question;
    for (target, ttl) in aliases {
        reply.record(Section::Answer, owner, (rtype::CNAME, CLASS_IN), *ttl, &[Part::Name(target)])?;
        owner = Owner::Name(target);
    }
    Ok(owner)
}

/// A name in a zone of ours, found.
struct Found<'a> {
    zones: &'a Zones<'a>,
    zone: &'a Zone,
    depth: usize,
    held: Held<'a>,
}

impl Found<'_> {
    fn reply(&self, request: &Request, aliases: &[(WireName, u32)], via: Via, out: &mut Vec<u8>) -> u16 {
        let mut reply = Reply::begin(request, via.limit(request), out);
        reply.flag(flag::AA);
        let before = aliases.len() as u16;
        let written = write_aliases(&mut reply, aliases).and_then(|owner| {
            self.records(&mut reply, owner, request.rtype, via.turn)?;
            if reply.count(Section::Answer) == before {
                let name = aliases.last().map_or(&request.name, |(target, _)| target);
                let ttl = self.zone.ttl.min(MAX_NEGATIVE_TTL);
                self.soa(&mut reply, Section::Authority, Owner::Name(&name.without(self.depth)), ttl)?;
            }
            Ok(())
        });
        if written.is_err() {
            reply.flag(flag::TC);
        } else if let (Held::Row(row), rtype::SRV | rtype::NS) = (self.held, request.rtype) {
            self.additional(&mut reply, row, request.rtype);
        }
        let rcode = if self.held == Held::Missing { Rcode::NxDomain } else { Rcode::NoError };
        reply.finish(rcode, None)
    }

    /// Writes the records of the asked type.
    fn records(&self, reply: &mut Reply<'_>, owner: Owner<'_>, asked: u16, turn: u32) -> Result<(), Full> {
        match self.held {
            Held::Missing | Held::Nothing => Ok(()),
            Held::Address(ip) => {
                if asked == address_type(ip) || asked == rtype::ANY {
                    reply.address(Section::Answer, owner, self.zone.ttl, ip)?;
                }
                Ok(())
            }
            Held::Row(row) => {
                let has_soa = row.zone.is_some();
                if has_soa && matches!(asked, rtype::SOA | rtype::ANY) {
                    return self.soa(reply, Section::Answer, owner, self.zone.ttl);
                }
                // A request for anything gets one set of records (RFC 8482 §4.1).
                let asked = match row.records.first() {
                    Some(first) if asked == rtype::ANY => record_type(first),
                    _ => asked,
                };
                let set = records_of(row, asked);
                let turn = match asked {
                    rtype::A | rtype::AAAA if !set.is_empty() => turn as usize % set.len(),
                    _ => 0,
                };
                for record in set[turn..].iter().chain(&set[..turn]) {
                    self.record(reply, owner, record)?;
                }
                Ok(())
            }
        }
    }

    fn record(&self, reply: &mut Reply<'_>, owner: Owner<'_>, record: &Record) -> Result<(), Full> {
        let ttl = self.zone.ttl;
        let section = Section::Answer;
        let kind = (record_type(record), CLASS_IN);
        match record {
            Record::A(ip) => reply.address(section, owner, ttl, IpAddr::V4(*ip)),
            Record::Aaaa(ip) => reply.address(section, owner, ttl, IpAddr::V6(*ip)),
            Record::Cname(name) | Record::Ptr(name) | Record::Ns(name) => {
                // A name that can't be sent is left out; compile warns of it.
                let Some(name) = WireName::of(name) else {
                    return Ok(());
                };
                reply.record(section, owner, kind, ttl, &[Part::Name(&name)])
            }
            Record::Srv { priority, weight, port, target } => {
                let Some(target) = WireName::of(target) else {
                    return Ok(());
                };
                let fixed = [priority, weight, port].map(|n| n.to_be_bytes()).concat();
                reply.record(section, owner, kind, ttl, &[Part::Bytes(&fixed), Part::PlainName(&target)])
            }
            Record::Txt(text) => {
                let text = &text.as_bytes()[..text.len().min(255)];
                let length = [text.len() as u8];
                reply.record(section, owner, kind, ttl, &[Part::Bytes(&length), Part::Bytes(text)])
            }
        }
    }

    fn soa(&self, reply: &mut Reply<'_>, section: Section, owner: Owner<'_>, ttl: u32) -> Result<(), Full> {
        let (Some(primary), Some(mailbox)) =
            (WireName::of(&self.zone.primary), WireName::of(&self.zone.mailbox))
        else {
            return Ok(());
        };
        // Nobody transfers these zones, so refresh, retry and expire are only customary (RIPE-203).
        let minimum = self.zone.ttl.min(MAX_NEGATIVE_TTL);
        let numbers = [self.zones.serial, 7200, 1800, 86400, minimum].map(u32::to_be_bytes).concat();
        let data = [Part::Name(&primary), Part::Name(&mailbox), Part::Bytes(&numbers)];
        reply.record(section, owner, (rtype::SOA, CLASS_IN), ttl, &data)
    }

    /// Adds the addresses of the records' targets, as many as fit: leaving some out is no truncation (RFC 2181 §9).
    fn additional(&self, reply: &mut Reply<'_>, row: &NameRow, asked: u16) {
        let mut seen: Vec<&DnsName> = Vec::new();
        for record in records_of(row, asked) {
            let (Record::Srv { target, .. } | Record::Ns(target)) = record else {
                continue;
            };
            // A reply ends at 64 KB, so this list stays short.
            if seen.contains(&target) {
                continue;
            }
            seen.push(target);
            let (Some(held), Some(owner)) = (self.zones.names.get(target), WireName::of(target)) else {
                continue;
            };
            for address in &held.records {
                let ip = match address {
                    Record::A(ip) => IpAddr::V4(*ip),
                    Record::Aaaa(ip) => IpAddr::V6(*ip),
                    _ => continue,
                };
                if reply.address(Section::Additional, Owner::Name(&owner), self.zone.ttl, ip).is_err() {
                    return;
                }
            }
        }
    }
}

fn address_type(ip: IpAddr) -> u16 {
    match ip {
        IpAddr::V4(_) => rtype::A,
        IpAddr::V6(_) => rtype::AAAA,
    }
}

fn record_type(record: &Record) -> u16 {
    match record {
        Record::A(_) => rtype::A,
        Record::Aaaa(_) => rtype::AAAA,
        Record::Cname(_) => rtype::CNAME,
        Record::Ptr(_) => rtype::PTR,
        Record::Srv { .. } => rtype::SRV,
        Record::Txt(_) => rtype::TXT,
        Record::Ns(_) => rtype::NS,
    }
}

/// The records of one type: a row is sorted, so they stand together.
fn records_of(row: &NameRow, asked: u16) -> &[Record] {
    let records = &row.records;
    let Some(start) = records.iter().position(|r| record_type(r) == asked) else {
        return &[];
    };
    let length = records[start..].iter().take_while(|r| record_type(r) == asked).count();
    &records[start..start + length]
}
