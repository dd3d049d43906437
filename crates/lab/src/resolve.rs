//! A DNS client for questions asked from inside pods: one UDP question, the answer's code and records.
//!
//! What it doesn't do: retry over TCP, follow search lists (names are asked as they stand), cache.

use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::serve;

/// A record type that can be asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Kind {
    /// An IPv4 address.
    A,
    /// An IPv6 address.
    Aaaa,
    /// The name of an address.
    Ptr,
    /// Port and host of a named port.
    Srv,
}

impl Kind {
    /// Its number (RFC 1035 §3.2.2, RFC 3596, RFC 2782).
    fn number(self) -> u16 {
        match self {
            Self::A => 1,
            Self::Ptr => 12,
            Self::Aaaa => 28,
            Self::Srv => 33,
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::A => "A",
            Self::Aaaa => "AAAA",
            Self::Ptr => "PTR",
            Self::Srv => "SRV",
        })
    }
}

/// A question for a server.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Question {
    /// The server.
    pub server: SocketAddr,
    /// The full name, with or without the last dot.
    pub name: String,
    /// What is asked for.
    pub kind: Kind,
}

/// What came of a question.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Reply {
    /// The server answered.
    Answer {
        /// RCODE (RFC 1035 §4.1.1): 0 is success, 3 is NXDOMAIN.
        code: u8,
        /// The records of the answer section as text, sorted: addresses, names, `port host`.
        records: Vec<String>,
        /// Time until the answer, in microseconds.
        micros: u64,
    },
    /// It didn't, or with something unreadable.
    Failed(String),
}

impl Reply {
    /// The records, where the server answered with success.
    pub fn records(&self) -> &[String] {
        match self {
            Self::Answer { code: 0, records, .. } => records,
            _ => &[],
        }
    }
}

/// Asks all questions, one after the other.
pub fn resolve_all(questions: &[Question]) -> Vec<Reply> {
    questions.iter().map(|q| ask(q).unwrap_or_else(|e| Reply::Failed(e.to_string()))).collect()
}

/// How long an answer may take, and how often the question is sent.
const PATIENCE: Duration = Duration::from_millis(1000);
const TRIES: u16 = 3;

fn ask(question: &Question) -> io::Result<Reply> {
    let any: IpAddr = if question.server.is_ipv4() { [0u8; 4].into() } else { [0u16; 8].into() };
    let socket = UdpSocket::bind((any, 0))?;
    socket.connect(question.server)?;
    socket.set_read_timeout(Some(PATIENCE))?;
    let start = Instant::now();
    let mut buffer = [0; 4096];
    for id in 1..=TRIES {
        socket.send(&query(id, question)?)?;
        match socket.recv(&mut buffer) {
            Ok(length) => {
                let (code, mut records) = parse(&buffer[..length], question.kind)
                    .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "an unreadable DNS answer"))?;
                records.sort();
                let micros = u64::try_from(start.elapsed().as_micros()).unwrap_or(u64::MAX);
                return Ok(Reply::Answer { code, records, micros });
            }
            Err(e) if matches!(e.kind(), io::ErrorKind::TimedOut | io::ErrorKind::WouldBlock) => {}
            Err(e) => return Err(e),
        }
    }
    Err(io::Error::new(io::ErrorKind::TimedOut, "no answer"))
}

/// A query message (RFC 1035 §4.1) with recursion desired.
fn query(id: u16, question: &Question) -> io::Result<Vec<u8>> {
    let mut message = Vec::with_capacity(64);
    for field in [id, 0x0100, 1, 0, 0, 0] {
        message.extend_from_slice(&field.to_be_bytes());
    }
    for label in question.name.trim_end_matches('.').split('.') {
        let length = u8::try_from(label.len()).ok().filter(|l| (1..64).contains(l)).ok_or_else(|| {
            io::Error::new(io::ErrorKind::InvalidInput, format!("{:?} is no DNS name", question.name))
        })?;
        message.push(length);
        message.extend_from_slice(label.as_bytes());
    }
    message.push(0);
    message.extend_from_slice(&question.kind.number().to_be_bytes());
    message.extend_from_slice(&1u16.to_be_bytes());
    Ok(message)
}

/// The answer of the internet's name server: the internet host's addresses for [`serve::INTERNET_NAME`], NXDOMAIN for
/// every other name. `None` where the question can't be read.
pub(crate) fn answer_as_internet(query: &[u8]) -> Option<Vec<u8>> {
    let (asked, end) = name(query, 12)?;
    let kind = number(query, end)?;
    let ours = asked.trim_end_matches('.').eq_ignore_ascii_case(serve::INTERNET_NAME);
    let data: &[u8] = match kind {
        1 if ours => &[203, 0, 113, 10],
        28 if ours => &[0x20, 1, 0x0d, 0xb8, 0xff, 0xff, 0, 0, 0, 0, 0, 0, 0, 0, 0, 10],
        _ => &[],
    };
    // The header up to the counts: the query's id, "answer, authoritative, recursion available", and the code.
    let code = if ours { 0 } else { 3 };
    let mut answer =
        vec![*query.first()?, *query.get(1)?, 0x85, 0x80 | code, 0, 1, 0, u8::from(!data.is_empty())];
    answer.extend_from_slice(&[0; 4]);
    answer.extend_from_slice(query.get(12..end + 4)?);
    if !data.is_empty() {
        answer.extend_from_slice(&[0xc0, 12]);
        answer.extend_from_slice(&kind.to_be_bytes());
        answer.extend_from_slice(&[0, 1, 0, 0, 0, 60, 0, u8::try_from(data.len()).ok()?]);
        answer.extend_from_slice(data);
    }
    Some(answer)
}

/// The code and the records of the asked kind in an answer; `None` where it breaks off.
fn parse(message: &[u8], kind: Kind) -> Option<(u8, Vec<String>)> {
    let code = message.get(3)? & 0xf;
    let (questions, answers) = (number(message, 4)?, number(message, 6)?);
    let mut at = 12;
    for _ in 0..questions {
        at = name(message, at)?.1 + 4;
    }
    let mut records = Vec::new();
    for _ in 0..answers {
        at = name(message, at)?.1;
        let (found, length) = (number(message, at)?, usize::from(number(message, at + 8)?));
        let data = at + 10;
        if found == kind.number() {
            records.push(record(message, data, length, kind)?);
        }
        at = data + length;
    }
    Some((code, records))
}

fn record(message: &[u8], at: usize, length: usize, kind: Kind) -> Option<String> {
    let data = message.get(at..at + length)?;
    Some(match kind {
        Kind::A => Ipv4Addr::from(<[u8; 4]>::try_from(data).ok()?).to_string(),
        Kind::Aaaa => Ipv6Addr::from(<[u8; 16]>::try_from(data).ok()?).to_string(),
        Kind::Ptr => name(message, at)?.0,
        Kind::Srv => format!("{} {}", number(message, at + 4)?, name(message, at + 6)?.0),
    })
}

fn number(message: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes(message.get(at..at + 2)?.try_into().ok()?))
}

/// A name and where it ends; compression pointers (RFC 1035 §4.1.4) are followed a limited number of times.
fn name(message: &[u8], mut at: usize) -> Option<(String, usize)> {
    let (mut text, mut end) = (String::new(), None);
    for _ in 0..128 {
        let length = *message.get(at)?;
        match length {
            0 => return Some((text, end.unwrap_or(at + 1))),
            1..=63 => {
                let label = message.get(at + 1..at + 1 + usize::from(length))?;
                text.push_str(&String::from_utf8_lossy(label));
                text.push('.');
                at += 1 + usize::from(length);
            }
            192.. => {
                end.get_or_insert(at + 2);
                at = usize::from(number(message, at)? & 0x3fff);
            }
            _ => return None,
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An answer to `a.b.` with one record, whose name points at the question.
    fn answer(kind: Kind, data: &[u8]) -> Vec<u8> {
        let question = Question { server: ([127, 0, 0, 1], 53).into(), name: "a.b".into(), kind };
        let mut message = query(1, &question).expect("a valid name");
        message[7] = 1;
        message.extend_from_slice(&[0xc0, 12]);
        message.extend_from_slice(&kind.number().to_be_bytes());
        message.extend_from_slice(&[0, 1, 0, 0, 0, 5]);
        message.extend_from_slice(&u16::try_from(data.len()).expect("short").to_be_bytes());
        message.extend_from_slice(data);
        message
    }

    #[track_caller]
    fn check(kind: Kind, data: &[u8], expected: &str) {
        assert_eq!(parse(&answer(kind, data), kind), Some((0, vec![expected.to_owned()])));
    }

    #[test]
    fn records_as_text() {
        check(Kind::A, &[192, 0, 2, 1], "192.0.2.1");
        check(Kind::Aaaa, &Ipv6Addr::LOCALHOST.octets(), "::1");
        check(Kind::Ptr, &[1, b'x', 0xc0, 12], "x.a.b.");
        check(Kind::Srv, &[0, 0, 0, 0, 0x1f, 0x90, 0xc0, 12], "8080 a.b.");
    }

    #[test]
    fn the_internets_answers_can_be_read() {
        let check = |asked: &str, kind: Kind, expected: (u8, Vec<String>)| {
            let question = Question { server: ([127, 0, 0, 1], 53).into(), name: asked.into(), kind };
            let answer = answer_as_internet(&query(7, &question).expect("a valid name")).expect("an answer");
            assert_eq!(parse(&answer, kind), Some(expected));
        };
        check("www.example.com", Kind::A, (0, vec!["203.0.113.10".into()]));
        check("WWW.example.com.", Kind::Aaaa, (0, vec!["2001:db8:ffff::a".into()]));
        check("www.example.com", Kind::Srv, (0, vec![]));
        check("other.example.com", Kind::A, (3, vec![]));
    }

    #[test]
    fn broken_answers_are_refused() {
        let whole = answer(Kind::A, &[192, 0, 2, 1]);
        for length in 0..whole.len() {
            assert_eq!(parse(&whole[..length], Kind::A), None, "{length} bytes");
        }
        let mut looping = answer(Kind::Ptr, &[0xc0, 0]);
        let at = looping.len() - 2;
        looping[at + 1] = u8::try_from(at).expect("short");
        assert_eq!(parse(&looping, Kind::Ptr), None);
    }
}
