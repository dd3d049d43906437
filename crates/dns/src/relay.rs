//! What a resolver is asked for a client, and what the client gets of its reply. Pure.
//!
//! A reply that answers the client's own question passes as it is: only id, and the case of the question's name, are put
//! back. Only behind aliases of ours is a reply taken apart.

use crate::answer::{Chase, Via, failure, write_aliases};
use crate::wire::reply::{Full, Owner, Part};
use crate::wire::{
    CLASS_IN, Edns, HEADER, Rcode, Reply, Request, Section, WireName, flag, read_u16, record, rtype,
};

/// What a resolver is asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Question {
    /// The name, in the case that is sent.
    pub name: WireName,
    /// The record type.
    pub rtype: u16,
    flags: u16,
    edns: Option<Edns>,
}

impl Question {
    /// The client's own question. An OPT record goes along where the client sent one, for a resolver's reply holds one
    /// exactly then; its options stay behind, since they are hop by hop (RFC 6891 §6.1.4).
    pub fn of(request: &Request, via: Via) -> Self {
        let udp_size = u16::try_from(via.limit(request)).unwrap_or(u16::MAX).min(via.udp_payload.max(512));
        Self {
            name: request.name.clone(),
            rtype: request.rtype,
            flags: request.flags & (flag::RD | flag::AD | flag::CD),
            edns: request.edns.map(|edns| Edns { udp_size, ..edns }),
        }
    }

    /// The question behind a client's aliases.
    pub fn behind(chase: &Chase, via: Via) -> Self {
        let mut question = Self::of(&chase.request, via);
        if let Some((target, _)) = chase.aliases.last() {
            question.name = target.clone();
        }
        question.flags |= flag::RD;
        question
    }

    /// The message to send.
    pub fn message(&self, id: u16) -> Vec<u8> {
        let extra = u16::from(self.edns.is_some());
        let mut message: Vec<u8> = [id, self.flags, 1, 0, 0, extra].map(u16::to_be_bytes).concat();
        message.extend_from_slice(self.name.as_bytes());
        message.extend_from_slice(&self.rtype.to_be_bytes());
        message.extend_from_slice(&CLASS_IN.to_be_bytes());
        if let Some(edns) = self.edns {
            message.push(0);
            message.extend_from_slice(&rtype::OPT.to_be_bytes());
            message.extend_from_slice(&edns.udp_size.to_be_bytes());
            message.extend_from_slice(&[0, 0, if edns.dnssec_ok { 0x80 } else { 0 }, 0, 0, 0]);
        }
        message
    }
}

/// What a message from a resolver is to the request that was sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Match {
    /// Its reply.
    Reply,
    /// Its reply, from a resolver that does not keep the case of names.
    OtherCase,
    /// Its refusal, without a question.
    Refusal,
    /// Something else: late, or forged.
    Foreign,
}

/// Compares id, question and its case, bit by bit.
pub fn compare(sent: &[u8], received: &[u8]) -> Match {
    let (Some(flags), Some(questions)) = (read_u16(received, 2), read_u16(received, 4)) else {
        return Match::Foreign;
    };
    if received.len() < HEADER || received[..2] != sent[..2] || flags & flag::QR == 0 || flags & 0x7800 != 0 {
        return Match::Foreign;
    }
    if questions == 0 {
        let refused = matches!(flags & 0xf, 1 | 2 | 4 | 5);
        return if refused { Match::Refusal } else { Match::Foreign };
    }
    let Some((name, end)) = WireName::read(sent, HEADER) else { return Match::Foreign };
    let same_length = received.get(HEADER..end + 4).filter(|_| questions == 1);
    let name_end = HEADER + name.as_bytes().len();
    match same_length {
        Some(question) if *question == sent[HEADER..end + 4] => Match::Reply,
        Some(_)
            if received[HEADER..name_end].eq_ignore_ascii_case(name.as_bytes())
                && received[end..end + 4] == sent[end..end + 4] =>
        {
            Match::OtherCase
        }
        _ => Match::Foreign,
    }
}

/// True where another resolver may know better: the reply is a failure of the resolver, not of the name.
pub fn is_failure(reply: &[u8]) -> bool {
    matches!(read_u16(reply, 2).unwrap_or(2) & 0xf, 1 | 2 | 4 | 5)
}

/// True where the reply was cut.
pub fn is_truncated(reply: &[u8]) -> bool {
    read_u16(reply, 2).is_some_and(|flags| flags & flag::TC != 0)
}

/// Makes the client's reply of a resolver's, which [`compare`] has matched to the client's own question. Returns the
/// response code.
pub fn pass_on(request: &Request, reply: &[u8], via: Via, out: &mut Vec<u8>) -> u16 {
    let (Some(flags), Some(question)) =
        (read_u16(reply, 2), reply.get(HEADER..HEADER + request.name.as_bytes().len()))
    else {
        return failure(request, Rcode::ServFail, None, via, out);
    };
    if !question.eq_ignore_ascii_case(request.name.as_bytes()) {
        return failure(request, Rcode::ServFail, None, via, out);
    }
    if reply.len() > via.limit(request) {
        let mut cut = Reply::begin(request, via.limit(request), out);
        cut.flag(flag::TC);
        return cut.finish_with(flags & 0xf, None);
    }
    out.clear();
    out.extend_from_slice(reply);
    out[..2].copy_from_slice(&request.id.to_be_bytes());
    out[HEADER..HEADER + request.name.as_bytes().len()].copy_from_slice(request.name.as_bytes());
    flags & 0xf
}

/// Puts a client's aliases before what a resolver said of the last one's target. The response code is the resolver's
/// (RFC 6604). Returns it.
pub fn compose(chase: &Chase, reply: &[u8], via: Via, out: &mut Vec<u8>) -> u16 {
    let request = &chase.request;
    let Some(parts) = Parts::read(reply) else {
        return failure(request, Rcode::ServFail, None, via, out);
    };
    let mut composed = Reply::begin(request, via.limit(request), out);
    composed.flag(flag::AA);
    let written = write_aliases(&mut composed, &chase.aliases).and_then(|_| parts.copy(&mut composed));
    if written.is_err() || parts.flags & flag::TC != 0 {
        composed.flag(flag::TC);
    }
    composed.finish_with(parts.flags & 0xf, None)
}

/// The records of a resolver's reply that go behind an alias.
struct Parts {
    flags: u16,
    records: Vec<(Section, record::Foreign, Vec<u8>)>,
}

impl Parts {
    fn read(reply: &[u8]) -> Option<Self> {
        let (_, end) = WireName::read(reply, HEADER).filter(|_| read_u16(reply, 4) == Some(1))?;
        let mut at = end + 4;
        let mut records = Vec::new();
        for (section, count_at) in [(Section::Answer, 6), (Section::Authority, 8)] {
            for _ in 0..read_u16(reply, count_at)? {
                let foreign = record::read(reply, at)?;
                at = foreign.end;
                // Of the authority section only what makes an answer negative (RFC 2308 §5).
                if section == Section::Answer || foreign.rtype == rtype::SOA {
                    let data = foreign.expanded_data(reply)?;
                    records.push((section, foreign, data));
                }
            }
        }
        Some(Self { flags: read_u16(reply, 2)?, records })
    }

    fn copy(&self, reply: &mut Reply<'_>) -> Result<(), Full> {
        for (section, foreign, data) in &self.records {
            let owner = Owner::Name(&foreign.owner);
            let kind = (foreign.rtype, foreign.class);
            reply.record(*section, owner, kind, foreign.ttl, &[Part::Bytes(data)])?;
        }
        Ok(())
    }
}
