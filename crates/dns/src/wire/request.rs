//! Reading a request: header, the one question, and the OPT record.

use super::{HEADER, Rcode, WireName, flag, read_u16, read_u32, rtype};
use crate::wire::record;

/// What a request says in its OPT record (RFC 6891 §6.1.3). Options are hop by hop, and none is acted upon: an unknown
/// cookie, for one, is to be ignored (RFC 7873 §5.2.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Edns {
    /// Largest UDP reply that the sender takes, in bytes.
    pub udp_size: u16,
    /// EDNS version; only 0 exists.
    pub version: u8,
    /// The sender wants DNSSEC records.
    pub dnssec_ok: bool,
}

/// A request with exactly one question.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// The sender's message id.
    pub id: u16,
    /// The header's flags, as sent.
    pub flags: u16,
    /// The name asked for, in the sender's case.
    pub name: WireName,
    /// The record type asked for.
    pub rtype: u16,
    /// The class asked for.
    pub class: u16,
    /// What the OPT record says, where there is one.
    pub edns: Option<Edns>,
}

/// Bytes that are no request with one question.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unanswerable {
    /// A reply, or too short for a header: answering could begin an endless exchange.
    Silent,
    /// Something to answer with a bare header.
    Header {
        /// The sender's message id.
        id: u16,
        /// The header's flags, as sent.
        flags: u16,
        /// What is wrong.
        rcode: Rcode,
    },
}

impl Request {
    /// Reads a request. What follows its last record is passed over.
    ///
    /// # Errors
    /// [`Unanswerable`], which says what to send instead of an answer.
    pub fn read(message: &[u8]) -> Result<Self, Unanswerable> {
        let (Some(id), Some(flags), true) =
            (read_u16(message, 0), read_u16(message, 2), message.len() >= HEADER)
        else {
            return Err(Unanswerable::Silent);
        };
        if flags & flag::QR != 0 {
            return Err(Unanswerable::Silent);
        }
        let wrong = |rcode| Unanswerable::Header { id, flags, rcode };
        if flags & 0x7800 != 0 {
            return Err(wrong(Rcode::NotImp));
        }
        Self::read_body(message, id, flags).ok_or(wrong(Rcode::FormErr))
    }

    fn read_body(message: &[u8], id: u16, flags: u16) -> Option<Self> {
        if read_u16(message, 4)? != 1 {
            return None;
        }
        let (name, at) = WireName::read(message, HEADER)?;
        let mut request = Self {
            id,
            flags,
            name,
            rtype: read_u16(message, at)?,
            class: read_u16(message, at + 2)?,
            edns: None,
        };
        let others = u32::from(read_u16(message, 6)?) + u32::from(read_u16(message, 8)?);
        let mut at = at + 4;
        for _ in 0..others {
            at = record::read(message, at)?.end;
        }
        for _ in 0..read_u16(message, 10)? {
            let extra = record::read(message, at)?;
            at = extra.end;
            if extra.rtype == rtype::OPT {
                // A second one, or one below the root, is an error (RFC 6891 §6.1.1).
                if request.edns.is_some() || extra.owner.as_bytes() != [0] {
                    return None;
                }
                let ttl = read_u32(message, extra.data.start - 6)?;
                request.edns = Some(Edns {
                    udp_size: extra.class,
                    version: ttl.to_be_bytes()[1],
                    dnssec_ok: ttl & 0x8000 != 0,
                });
            }
        }
        (request.rtype != rtype::OPT).then_some(request)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(flags: u16, counts: [u16; 4], rest: &[u8]) -> Vec<u8> {
        let mut bytes = vec![0x12, 0x34];
        bytes.extend(flags.to_be_bytes());
        bytes.extend(counts.iter().flat_map(|c| c.to_be_bytes()));
        bytes.extend(rest);
        bytes
    }

    const QUESTION: &[u8] = b"\x01a\0\0\x01\0\x01";
    const OPT: &[u8] = b"\0\0\x29\x10\0\0\0\x80\0\0\0";

    #[test]
    fn what_is_no_request_gets_the_right_reply() {
        let check = |bytes: &[u8], expected: Result<(), Option<Rcode>>| {
            let read = Request::read(bytes).map(|_| ()).map_err(|e| match e {
                Unanswerable::Silent => None,
                Unanswerable::Header { rcode, .. } => Some(rcode),
            });
            assert_eq!(read, expected, "{bytes:?}");
        };
        check(&message(0, [1, 0, 0, 0], QUESTION), Ok(()));
        check(&message(0, [1, 0, 0, 1], &[QUESTION, OPT].concat()), Ok(()));
        check(b"\x12\x34\0\0\0\x01\0\0\0\0\0", Err(None));
        check(&message(flag::QR, [1, 0, 0, 0], QUESTION), Err(None));
        for opcode in 1..16 {
            check(&message(opcode << 11, [1, 0, 0, 0], QUESTION), Err(Some(Rcode::NotImp)));
        }
        check(&message(0, [0, 0, 0, 0], b""), Err(Some(Rcode::FormErr)));
        check(&message(0, [2, 0, 0, 0], &QUESTION.repeat(2)), Err(Some(Rcode::FormErr)));
        check(&message(0, [1, 0, 0, 0], &QUESTION[..6]), Err(Some(Rcode::FormErr)));
        check(&message(0, [1, 0, 0, 1], QUESTION), Err(Some(Rcode::FormErr)));
        check(&message(0, [1, 0, 0, 2], &[QUESTION, OPT, OPT].concat()), Err(Some(Rcode::FormErr)));
        check(&message(0, [1, 0, 0, 0], b"\0\0\x29\0\x01"), Err(Some(Rcode::FormErr)));
        let below_root = b"\x01x\0\0\x29\x10\0\0\0\0\0\0\0";
        check(&message(0, [1, 0, 0, 1], &[QUESTION, below_root].concat()), Err(Some(Rcode::FormErr)));
    }

    #[test]
    fn the_opt_record_is_read() {
        let request = Request::read(&message(flag::RD, [1, 0, 0, 1], &[QUESTION, OPT].concat())).unwrap();
        let edns = Edns { udp_size: 4096, version: 0, dnssec_ok: true };
        assert_eq!((request.id, request.flags, request.edns), (0x1234, flag::RD, Some(edns)));
    }
}
