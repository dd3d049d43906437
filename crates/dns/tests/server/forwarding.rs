//! What becomes of names that aren't ours.

use std::io::Write;
use std::net::UdpSocket;
use std::time::{Duration, Instant};

use super::fixture::{opt, request, text};
use super::resolver::{Resolver, address_reply, reply_head};
use super::{ask, config, exchange, server};
use weft_dns::{UpstreamSource, serve};

fn fixed(resolvers: &[&Resolver]) -> UpstreamSource {
    UpstreamSource::Fixed(resolvers.iter().map(|r| r.address.into()).collect())
}

#[test]
fn a_resolvers_reply_passes_with_id_case_and_ttl() {
    let resolver = Resolver::simple(1);
    let server = server(fixed(&[&resolver]));
    assert_eq!(ask(&server, "WWW.Example.com", "A"), "NoError ra\nWWW.Example.com. 77 A 192.0.2.1");
    let counters = server.stop();
    assert_eq!((counters.udp, counters.forwarded, counters.failed, counters.rcodes[0]), (1, 1, 0, 1));
}

#[test]
fn resolvers_are_asked_with_drawn_ids_ports_and_cases_and_no_foreign_options() {
    let (report, reports) = std::sync::mpsc::channel();
    let resolver = Resolver::new(
        move |query| {
            report.send(query.to_vec()).unwrap();
            vec![address_reply(query, 1)]
        },
        |_| Vec::new(),
    );
    let server = server(fixed(&[&resolver]));
    let cookie = opt(1232, 0, 1, b"\0\x0a\0\x08abcdefgh");
    let query = request("www.some-long-name.example.com", 1, 1, &cookie);
    for _ in 0..20 {
        exchange(server.addresses()[0], &query).unwrap();
    }
    let seen: Vec<Vec<u8>> = reports.try_iter().collect();
    let distinct = |range: std::ops::Range<usize>| {
        seen.iter().map(|q| q[range.clone()].to_vec()).collect::<std::collections::BTreeSet<_>>().len()
    };
    assert_eq!(seen.len(), 20);
    assert!(distinct(0..2) > 15 && distinct(12..43) > 15);
    for sent in &seen {
        assert!(sent.ends_with(&opt(1232, 0, 1, b"")) && sent.len() == query.len() - 12);
    }
}

#[test]
fn a_silent_resolver_is_passed_over_and_remembered() {
    let silent = Resolver::new(|_| Vec::new(), |_| Vec::new());
    let good = Resolver::simple(2);
    let server = server(fixed(&[&silent, &good]));
    for _ in 0..6 {
        let start = Instant::now();
        assert!(ask(&server, "www.example.com", "A").ends_with("192.0.2.2"));
        assert!(start.elapsed() < Duration::from_millis(1500));
    }
    assert_eq!((silent.count(), good.count()), (2, 6));
}

#[test]
fn a_failing_resolver_is_passed_over_but_its_word_counts_where_there_is_no_other() {
    let failing = Resolver::new(|query| vec![reply_head(query, 0x8182, 0)], |_| Vec::new());
    let good = Resolver::simple(2);
    let first = server(fixed(&[&failing, &good]));
    assert!(ask(&first, "www.example.com", "A").ends_with("192.0.2.2"));
    let second = server(fixed(&[&failing]));
    assert_eq!(ask(&second, "www.example.com", "A"), "ServFail ra");
    assert_eq!(failing.count(), 2);
}

#[test]
fn a_name_that_does_not_exist_is_final() {
    let first = Resolver::new(|query| vec![reply_head(query, 0x8183, 0)], |_| Vec::new());
    let second = Resolver::simple(2);
    let server = server(fixed(&[&first, &second]));
    assert_eq!(ask(&server, "no.example.com", "A"), "NXDomain ra");
    assert_eq!(second.count(), 0);
}

#[test]
fn without_resolvers_the_reply_says_so() {
    let nobody = server(UpstreamSource::Fixed(Vec::new()));
    let reply =
        exchange(nobody.addresses()[0], &request("example.com", 1, 1, &opt(1232, 0, 0, b""))).unwrap();
    assert_eq!(reply[3] & 0xf, 2);
    assert!(reply.ends_with(b"no upstream resolver is configured"));
    let gone = Resolver::simple(1).address;
    let start = Instant::now();
    assert_eq!(ask(&server(UpstreamSource::Fixed(vec![gone.into()])), "example.com", "A"), "ServFail ra");
    assert!(start.elapsed() < Duration::from_secs(1));
}

#[test]
fn forged_replies_do_not_count() {
    let resolver = Resolver::new(
        |query| {
            let good = address_reply(query, 1);
            let mut other_id = address_reply(query, 66);
            other_id[0] ^= 1;
            let mut other_name = address_reply(query, 66);
            other_name[13] = b'x';
            let mut other_type = address_reply(query, 66);
            let at = query.len() - 3;
            other_type[at] = 28;
            let mut a_request = address_reply(query, 66);
            a_request[2] &= 0x7f;
            vec![other_id, other_name, other_type, a_request, vec![0; 3], good]
        },
        |_| Vec::new(),
    );
    let server = server(fixed(&[&resolver]));
    assert!(ask(&server, "www.example.com", "A").ends_with("192.0.2.1"));
}

#[test]
fn a_resolver_that_folds_case_is_asked_without_drawing_one() {
    let folded =
        |query: &[u8]| vec![address_reply(&[&query[..12], &query[12..].to_ascii_lowercase()].concat(), 1)];
    let resolver = Resolver::new(folded, |_| Vec::new());
    let server = server(fixed(&[&resolver]));
    for _ in 0..5 {
        let reply = ask(&server, "www.a-rather-long-name.example.com", "A");
        assert!(reply.ends_with("192.0.2.1"), "{reply}");
    }
    // Only the first request was sent twice.
    assert_eq!(resolver.count(), 6);
}

#[test]
fn cut_replies_pass_by_udp_and_are_completed_by_tcp() {
    let cut = |query: &[u8]| vec![reply_head(query, 0x8380, 0)];
    let resolver = Resolver::new(cut, |query| vec![address_reply(query, 9)]);
    let server = server(fixed(&[&resolver]));
    assert_eq!(ask(&server, "www.example.com", "A"), "NoError tc ra");
    // Behind an alias the reply is completed.
    assert_eq!(
        ask(&server, "out.default.svc.cluster.local", "A"),
        "NoError aa ra
out.default.svc.cluster.local. 5 CNAME www.example.com.
www.example.com. 77 A 192.0.2.9"
    );
    let mut stream = std::net::TcpStream::connect(server.addresses()[0]).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    let query = request("www.example.com", 1, 1, b"");
    stream.write_all(&[&(query.len() as u16).to_be_bytes(), query.as_slice()].concat()).unwrap();
    let mut length = [0; 2];
    std::io::Read::read_exact(&mut stream, &mut length).unwrap();
    let mut reply = vec![0; usize::from(u16::from_be_bytes(length))];
    std::io::Read::read_exact(&mut stream, &mut reply).unwrap();
    assert_eq!(text(&reply), "NoError ra\nwww.example.com. 77 A 192.0.2.9");
}

#[test]
fn a_missing_target_of_an_alias_is_a_missing_name() {
    let soa = |query: &[u8]| {
        let mut reply = reply_head(query, 0x8183, 0);
        reply[9] = 1;
        let target_at = 12 + 4; // "example.com" of the question
        reply.extend([0xc0, target_at, 0, 6, 0, 1, 0, 0, 0, 60, 0, 24, 0xc0, target_at, 0xc0, target_at]);
        reply.extend([1u32, 2, 3, 4, 5].map(u32::to_be_bytes).concat());
        vec![reply]
    };
    let resolver = Resolver::new(soa, |_| Vec::new());
    let server = server(fixed(&[&resolver]));
    let reply = ask(&server, "out.default.svc.cluster.local", "A").to_ascii_lowercase();
    assert_eq!(
        reply,
        "nxdomain aa ra
out.default.svc.cluster.local. 5 cname www.example.com.
authority example.com. 60 soa example.com. example.com. 1 2 3 4 5"
    );
}

#[test]
fn the_server_never_asks_itself() {
    let port = UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let mut config = config();
    config.listen = vec![port];
    config.upstreams = UpstreamSource::Fixed(vec![port.into()]);
    let plan = std::sync::Arc::new(std::sync::RwLock::new(super::fixture::cluster()));
    let server = serve(&config, plan).unwrap();
    assert_eq!(ask(&server, "www.example.com", "A"), "ServFail ra");
    assert_eq!(server.stop().udp, 1);
}

#[test]
fn a_loop_through_another_resolver_ends_at_once() {
    use std::sync::{Arc, OnceLock};
    let target: Arc<OnceLock<std::net::SocketAddr>> = Arc::default();
    let asks = target.clone();
    let resolver = Resolver::new(
        move |query| {
            let mut again = query.to_vec();
            again[0] ^= 0x55;
            let mut reply = exchange(*asks.get().unwrap(), &again).unwrap();
            reply[0] ^= 0x55;
            vec![reply]
        },
        |_| Vec::new(),
    );
    let server = server(fixed(&[&resolver]));
    target.set(server.addresses()[0]).unwrap();
    let start = Instant::now();
    assert_eq!(ask(&server, "www.a-rather-long-name.example.com", "A"), "ServFail ra");
    assert!(start.elapsed() < Duration::from_secs(1));
    assert_eq!(server.stop().udp, 2);
}

#[test]
fn a_changed_resolv_conf_is_read_again() {
    let path = std::env::temp_dir().join(format!("weft-dns-resolv-{}", std::process::id()));
    std::fs::write(&path, "nameserver 127.0.0.1\n").unwrap();
    let source = UpstreamSource::ResolvConf(path.clone());
    let limits = weft_dns::forward::Limits {
        per_try: Duration::from_millis(200),
        in_all: Duration::from_secs(1),
        udp_payload: 1232,
    };
    let own = vec![([127, 0, 0, 1], 53).into()];
    let forwarder = weft_dns::forward::Forwarder::new(source, own, limits);
    forwarder.refresh();
    assert!(forwarder.addresses().is_empty(), "it is our own address");
    std::fs::write(&path, "nameserver 127.0.0.2\nnameserver 127.0.0.3\n").unwrap();
    forwarder.refresh();
    assert_eq!(forwarder.addresses(), ["127.0.0.2:53", "127.0.0.3:53"].map(|a| a.parse().unwrap()));
    std::fs::remove_file(&path).unwrap();
    forwarder.refresh();
    assert_eq!(forwarder.addresses().len(), 2, "the last list stays");
}

#[test]
fn one_client_takes_no_places_of_others() {
    // What the first client asks for is never answered.
    let resolver = Resolver::new(
        |query| {
            if query.windows(5).any(|w| w.eq_ignore_ascii_case(b"\x04slow")) {
                vec![]
            } else {
                vec![address_reply(query, 1)]
            }
        },
        |_| Vec::new(),
    );
    let mut config = config();
    config.upstreams = fixed(&[&resolver]);
    // Longer than the test looks.
    config.per_try = Duration::from_secs(30);
    (config.max_forwards, config.max_forwards_per_client) = (4, 3);
    let server = serve(&config, std::sync::Arc::default()).unwrap();
    let address = server.addresses()[0];
    let greedy = UdpSocket::bind("127.0.0.2:0").unwrap();
    greedy.set_read_timeout(Some(Duration::from_secs(3))).unwrap();
    for n in 0..4 {
        greedy.send_to(&request(&format!("slow.n{n}.example.com"), 1, 1, b""), address).unwrap();
    }
    let mut reply = [0; 512];
    let (length, _) = greedy.recv_from(&mut reply).expect("one too many is answered at once");
    assert!(text(&reply[..length]).starts_with("ServFail"), "{}", text(&reply[..length]));
    assert!(ask(&server, "www.example.com", "A").ends_with("192.0.2.1"), "the fourth place is for others");
}
