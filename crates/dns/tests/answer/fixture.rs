//! A small cluster's names, and replies as text. Replies are read with hickory-proto, so that our writer is not
//! checked by our own reader.

use hickory_proto::op::{Message, Metadata};
use weft_dns::{Answer, Transport, Via, Zones, answer};
use weft_model::FactKey;
use weft_plan::names::{Below, Zone};
use weft_plan::{DnsName, NameRow, Plan, Record};

pub fn zone() -> Zone {
    Zone {
        primary: DnsName::new("ns.dns.cluster.local"),
        mailbox: DnsName::new("hostmaster.cluster.local"),
        ttl: 5,
    }
}

pub fn a(ip: &str) -> Record {
    Record::A(ip.parse().unwrap())
}

pub fn aaaa(ip: &str) -> Record {
    Record::Aaaa(ip.parse().unwrap())
}

pub fn srv(port: u16, target: &str) -> Record {
    Record::Srv { priority: 0, weight: 100, port, target: DnsName::new(target) }
}

pub fn add(plan: &mut Plan, name: &str, records: Vec<Record>) {
    plan.names.set(DnsName::new(name), NameRow::new(records), FactKey::Host);
}

/// `web` (dual stack, two ports), `db` (headless, StatefulSet-like), `old` (IPv4 only), aliases, and reverse zones.
pub fn cluster() -> Plan {
    let mut plan = Plan { generation: 7, ..Plan::default() };
    let mut row = |name: &str, row: NameRow| {
        plan.names.set(DnsName::new(name), row, FactKey::Host);
    };
    let ns = Record::Ns(DnsName::new("ns.dns.cluster.local"));
    row("cluster.local", NameRow::new(vec![ns]).with_zone(zone()));
    row("default.pod.cluster.local", NameRow::default().with_below(Below::DashedAddresses));
    row("10.in-addr.arpa", NameRow::default().with_zone(zone()).with_below(Below::InnerNames(3)));
    let v6 = NameRow::default().with_zone(zone()).with_below(Below::InnerNames(16));
    row("0.0.0.0.0.0.0.0.0.0.0.0.0.0.d.f.ip6.arpa", v6);
    for name in [
        "svc",
        "pod",
        "dns",
        "default.svc",
        "_tcp.web.default.svc",
        "_udp.web.default.svc",
        "_tcp.db.default.svc",
    ] {
        add(&mut plan, &format!("{name}.cluster.local"), vec![]);
    }
    let mut full =
        |name: &str, records: Vec<Record>| add(&mut plan, &format!("{name}.cluster.local"), records);
    full("ns.dns", vec![a("10.96.0.10")]);
    full("dns-version", vec![Record::Txt("1.1.0".into())]);
    let web = "web.default.svc.cluster.local";
    full("web.default.svc", vec![a("10.96.0.1"), aaaa("fd00::1"), srv(80, web), srv(53, web)]);
    full("_http._tcp.web.default.svc", vec![srv(80, web)]);
    full("_dns._udp.web.default.svc", vec![srv(53, web)]);
    full("old.default.svc", vec![a("10.96.0.2")]);
    let hosts = ["db-0.db.default.svc.cluster.local", "db-1.db.default.svc.cluster.local"];
    full("db.default.svc", vec![a("10.1.0.1"), a("10.1.0.2"), srv(5432, hosts[0]), srv(5432, hosts[1])]);
    full("db-0.db.default.svc", vec![a("10.1.0.1")]);
    full("db-1.db.default.svc", vec![a("10.1.0.2")]);
    full("_pg._tcp.db.default.svc", vec![srv(5432, hosts[0]), srv(5432, hosts[1])]);
    full("out.default.svc", vec![Record::Cname(DnsName::new("www.example.com"))]);
    full("in.default.svc", vec![Record::Cname(DnsName::new(web))]);
    full("in2.default.svc", vec![Record::Cname(DnsName::new("in.default.svc.cluster.local"))]);
    full("gone.default.svc", vec![Record::Cname(DnsName::new("no.default.svc.cluster.local"))]);
    full("v4only.default.svc", vec![Record::Cname(DnsName::new("old.default.svc.cluster.local"))]);
    full("ring1.default.svc", vec![Record::Cname(DnsName::new("ring2.default.svc.cluster.local"))]);
    full("ring2.default.svc", vec![Record::Cname(DnsName::new("ring1.default.svc.cluster.local"))]);
    add(&mut plan, "1.0.96.10.in-addr.arpa", vec![Record::Ptr(DnsName::new(web))]);
    let both = hosts.map(|h| Record::Ptr(DnsName::new(h))).to_vec();
    add(&mut plan, "1.0.1.10.in-addr.arpa", both);
    let one = "1.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.d.f.ip6.arpa";
    add(&mut plan, one, vec![Record::Ptr(DnsName::new(web))]);
    plan
}

pub const UDP: Via = Via { transport: Transport::Udp, udp_payload: 1232, turn: 0 };
pub const TCP: Via = Via { transport: Transport::Tcp, ..UDP };

/// A request's bytes: `flags` is the header's second word; `opt` is a whole OPT record, or nothing.
pub fn request(name: &str, rtype: u16, class: u16, opt: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0xab, 0xcd, 0x01, 0, 0, 1, 0, 0, 0, 0, 0, u8::from(!opt.is_empty())];
    for label in name.split('.').filter(|l| !l.is_empty()) {
        bytes.push(u8::try_from(label.len()).unwrap());
        bytes.extend(label.as_bytes());
    }
    bytes.push(0);
    bytes.extend(rtype.to_be_bytes());
    bytes.extend(class.to_be_bytes());
    bytes.extend(opt);
    bytes
}

/// An OPT record.
pub fn opt(udp_size: u16, version: u8, dnssec_ok: u8, options: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0, 0, 41];
    bytes.extend(udp_size.to_be_bytes());
    bytes.extend([0, version, dnssec_ok << 7, 0]);
    bytes.extend(u16::try_from(options.len()).unwrap().to_be_bytes());
    bytes.extend(options);
    bytes
}

pub fn type_number(name: &str) -> u16 {
    match name {
        "A" => 1,
        "NS" => 2,
        "CNAME" => 5,
        "SOA" => 6,
        "PTR" => 12,
        "MX" => 15,
        "TXT" => 16,
        "AAAA" => 28,
        "SRV" => 33,
        "IXFR" => 251,
        "AXFR" => 252,
        "ANY" => 255,
        other => other.parse().unwrap(),
    }
}

/// Asks the zones of `plan`; the cluster's zone is never forwarded.
pub fn ask(plan: &Plan, query: &[u8], via: Via) -> (Answer, Vec<u8>) {
    let reserved = [DnsName::new("cluster.local")];
    let mut out = Vec::new();
    let answer = answer(&Zones::of(plan, &reserved), query, via, &mut out);
    (answer, out)
}

/// The reply to `NAME TYPE` as text.
pub fn dig(plan: &Plan, question: &str) -> String {
    let (name, rtype) = question.split_once(' ').unwrap();
    let (answer, out) = ask(plan, &request(name, type_number(rtype), 1, b""), UDP);
    match answer {
        Answer::Reply(_) => text(&out),
        Answer::Silence => "silence".into(),
        Answer::Forward(request) => format!("forward {}", request.name.text()),
        Answer::Chase(chase) => {
            let names = chase.aliases.iter().map(|(name, ttl)| format!("{ttl} {}", name.text()));
            format!("chase {}", names.collect::<Vec<_>>().join(" "))
        }
    }
}

/// A message as text: response code and flags, then a line a record.
pub fn text(message: &[u8]) -> String {
    let message = Message::from_vec(message).unwrap_or_else(|e| panic!("{e}: {message:02x?}"));
    let Metadata { response_code, authoritative, truncation, recursion_available, .. } = message.metadata;
    let mut text = format!("{response_code:?}");
    for (set, name) in [(authoritative, "aa"), (truncation, "tc"), (recursion_available, "ra")] {
        if set {
            text.push(' ');
            text.push_str(name);
        }
    }
    let sections =
        [("", &message.answers), ("authority ", &message.authorities), ("additional ", &message.additionals)];
    for (section, records) in sections {
        for record in records {
            text.push_str(&format!(
                "\n{section}{} {} {} {}",
                record.name,
                record.ttl,
                record.record_type(),
                record.data
            ));
        }
    }
    text
}
