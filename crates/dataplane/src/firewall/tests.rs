//! Debian's iptables, iptables-legacy and nft as other programs, each test in a network namespace of its own.

use std::collections::BTreeSet;
use std::io::ErrorKind;
use std::net::UdpSocket;
use std::time::{Duration, Instant};

use weft_model::{Port, Protocol};
use weft_plan::Opening;

use super::accept::Accept;
use super::legacy;
use super::{BackEnd, Path, Report, observe, reconcile, remove_all};
use crate::filter::tests::namespace::{Peer, inside, listing, pipe, run};

fn openings() -> BTreeSet<Opening> {
    let port = |number| Port::new(number).unwrap();
    [
        Opening::Forward("10.244.1.0/24".parse().unwrap()),
        Opening::Forward("10.245.16.0/20".parse().unwrap()),
        Opening::Forward("fd00:244:1::/64".parse().unwrap()),
        Opening::Input(Protocol::Udp, port(53)),
        Opening::Input(Protocol::Tcp, port(53)),
    ]
    .into()
}

fn unchanged(report: &Report) -> bool {
    report.inserted == 0 && report.removed == 0
}

/// A listing's lines without dates and policies' counters.
fn plain(listing: &str) -> Vec<String> {
    let lines = listing.lines().filter(|line| !line.starts_with('#'));
    lines.map(|line| line.split(" [").next().unwrap_or_default().to_owned()).collect()
}

/// A pod and a host outside, with this namespace as the node between them.
struct Cluster {
    pod: Peer,
    outside: Peer,
}

impl Cluster {
    fn start() -> Self {
        let (pod, outside) = (Peer::start(), Peer::start());
        for (peer, near, far) in
            [(&pod, "10.244.1.1/24", "10.244.1.5/24"), (&outside, "192.0.2.1/24", "192.0.2.9/24")]
        {
            let name = format!("v{}", peer.id);
            run(
                "ip",
                &[
                    "link",
                    "add",
                    &name,
                    "type",
                    "veth",
                    "peer",
                    "name",
                    "eth0",
                    "netns",
                    &peer.id.to_string(),
                ],
            );
            run("ip", &["addr", "add", near, "dev", &name]);
            run("ip", &["link", "set", &name, "up"]);
            let gateway = near.split('/').next().unwrap().to_owned();
            let far = far.to_owned();
            peer.run(move || {
                run("ip", &["addr", "add", &far, "dev", "eth0"]);
                run("ip", &["link", "set", "eth0", "up"]);
                run("ip", &["route", "add", "default", "via", &gateway]);
            });
        }
        std::fs::write("/proc/sys/net/ipv4/ip_forward", "1").unwrap();
        Self { pod, outside }
    }

    /// Whether a datagram of the pod reaches the host outside, and the answer the pod.
    fn reaches(&self) -> bool {
        let server = self.outside.run(|| bind("192.0.2.9:9000"));
        server.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
        let client = self.pod.run(|| UdpSocket::bind("10.244.1.5:0").unwrap());
        client.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
        client.send_to(b"ask", "192.0.2.9:9000").unwrap();
        let mut buffer = [0; 8];
        let Ok((_, sender)) = server.recv_from(&mut buffer) else {
            return false;
        };
        server.send_to(b"answer", sender).unwrap();
        client.recv(&mut buffer).is_ok()
    }

    /// Whether the node's own port 53 is reached from outside.
    fn reaches_node(&self) -> bool {
        let server = bind("192.0.2.1:53");
        server.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
        let client = self.outside.run(|| UdpSocket::bind("192.0.2.9:0").unwrap());
        client.send_to(b"ask", "192.0.2.1:53").unwrap();
        server.recv(&mut [0; 8]).is_ok()
    }
}

/// Takes a port that was let go of a moment ago: a program that another test begins has a copy of each socket until it is executed.
fn bind(address: &str) -> UdpSocket {
    let deadline = Instant::now() + Duration::from_secs(5);
    loop {
        match UdpSocket::bind(address) {
            Err(error) if error.kind() == ErrorKind::AddrInUse && Instant::now() < deadline => {
                std::thread::sleep(Duration::from_millis(5));
            }
            bound => return bound.unwrap(),
        }
    }
}

/// The life of a firewall that another program set up: shut, opened, opened again, saved and restored, closed.
fn opened_and_closed(show: &dyn Fn() -> String, reload: &dyn Fn()) {
    let cluster = Cluster::start();
    let before = show();
    assert!(!cluster.reaches() && !cluster.reaches_node(), "the firewall was never shut");
    let report = reconcile(&openings()).unwrap();
    assert!(report.inserted > 0 && report.removed == 0, "{report:?}");
    assert_eq!(report.findings, []);
    assert!(cluster.reaches() && cluster.reaches_node(), "{}", show());
    let open = show();
    assert!(unchanged(&reconcile(&openings()).unwrap()));
    reload();
    assert_eq!(plain(&show()), plain(&open), "the reload changed the firewall");
    assert!(unchanged(&reconcile(&openings()).unwrap()), "not recognised after a reload");
    assert!(cluster.reaches() && cluster.reaches_node());
    let fewer = [Opening::Forward("10.244.1.0/24".parse().unwrap())].into();
    assert!(reconcile(&fewer).unwrap().removed > 0);
    assert!(cluster.reaches() && !cluster.reaches_node());
    let report = remove_all().unwrap();
    assert!(report.removed > 0 && report.inserted == 0);
    assert!(!cluster.reaches());
    assert_eq!(plain(&show()), plain(&before));
}

#[test]
fn iptables_nft() {
    inside("iptables_nft", || {
        for binary in ["iptables-nft", "ip6tables-nft"] {
            run(binary, &["-P", "FORWARD", "DROP"]);
            run(binary, &["-P", "INPUT", "DROP"]);
            // Somebody's rules stay, also one that has our comment and another form.
            run(binary, &["-A", "FORWARD", "-p", "tcp", "--dport", "7", "-j", "ACCEPT"]);
            run(binary, &["-A", "FORWARD", "-i", "x", "-m", "comment", "--comment", "weft", "-j", "ACCEPT"]);
        }
        let show = || run("iptables-nft-save", &[]) + &run("ip6tables-nft-save", &[]);
        let reload = || {
            for family in ["iptables", "ip6tables"] {
                let saved = run(&format!("{family}-nft-save"), &[]);
                pipe(&format!("{family}-nft-restore"), &[], &saved);
            }
        };
        opened_and_closed(&show, &reload);
    });
}

#[test]
fn iptables_lists_what_is_opened() {
    inside("iptables_lists_what_is_opened", || {
        run("iptables-nft", &["-P", "FORWARD", "DROP"]);
        run("iptables-nft", &["-P", "INPUT", "DROP"]);
        reconcile(&openings()).unwrap();
        insta::assert_snapshot!(run("iptables-nft", &["-S"]), @r#"
        -P INPUT DROP
        -P FORWARD DROP
        -P OUTPUT ACCEPT
        -A INPUT -p tcp -m tcp --dport 53 -m comment --comment weft -j ACCEPT
        -A INPUT -p udp -m udp --dport 53 -m comment --comment weft -j ACCEPT
        -A FORWARD -s 10.244.1.0/24 -m comment --comment weft -j ACCEPT
        -A FORWARD -s 10.245.16.0/20 -m comment --comment weft -j ACCEPT
        -A FORWARD -d 10.244.1.0/24 -m comment --comment weft -j ACCEPT
        -A FORWARD -d 10.245.16.0/20 -m comment --comment weft -j ACCEPT
        "#);
        insta::assert_snapshot!(listing().replace('\t', "  "), @r#"
        table ip filter {
          chain FORWARD {
            type filter hook forward priority filter; policy drop;
            ip saddr 10.244.1.0/24 counter packets 0 bytes 0 accept comment "weft"
            ip saddr 10.245.16.0/20 counter packets 0 bytes 0 accept comment "weft"
            ip daddr 10.244.1.0/24 counter packets 0 bytes 0 accept comment "weft"
            ip daddr 10.245.16.0/20 counter packets 0 bytes 0 accept comment "weft"
          }

          chain INPUT {
            type filter hook input priority filter; policy drop;
            tcp dport 53 counter packets 0 bytes 0 accept comment "weft"
            udp dport 53 counter packets 0 bytes 0 accept comment "weft"
          }
        }
        "#);
    });
}

#[test]
fn iptables_legacy() {
    inside("iptables_legacy", || {
        for binary in ["iptables-legacy", "ip6tables-legacy"] {
            run(binary, &["-P", "FORWARD", "DROP"]);
            run(binary, &["-P", "INPUT", "DROP"]);
            run(binary, &["-A", "FORWARD", "-p", "tcp", "--dport", "7", "-j", "ACCEPT"]);
        }
        let show = || run("iptables-legacy-save", &[]) + &run("ip6tables-legacy-save", &[]);
        let reload = || {
            for family in ["iptables", "ip6tables"] {
                let saved = run(&format!("{family}-legacy-save"), &[]);
                pipe(&format!("{family}-legacy-restore"), &[], &saved);
            }
        };
        opened_and_closed(&show, &reload);
    });
}

#[test]
fn native_tables() {
    for table in ["inet shield", "ip shield"] {
        inside("native_tables", || {
            let rules = format!(
                "table {table} {{
                    chain pass {{ type filter hook forward priority filter; policy drop; tcp dport 7 accept; }}
                    chain arrive {{ type filter hook input priority 5; policy drop; }}
                    chain leave {{ type filter hook output priority filter; policy accept; }}
                }}"
            );
            pipe("nft", &["-f", "-"], &rules);
            let reload = || {
                let saved = listing();
                run("nft", &["flush", "ruleset"]);
                pipe("nft", &["-f", "-"], &saved);
            };
            let uncounted = || {
                // Counters differ from one listing to the next.
                let text = listing();
                let lines = text.lines().map(|line| match line.split_once("counter packets") {
                    Some((head, _)) => head.to_owned(),
                    None => line.to_owned(),
                });
                lines.collect::<Vec<_>>().join("\n")
            };
            opened_and_closed(&uncounted, &reload);
        });
    }
}

#[test]
fn nothing_is_opened_without_a_drop_policy() {
    inside("nothing_is_opened_without_a_drop_policy", || {
        assert_eq!(reconcile(&openings()).unwrap(), Report::default());
        assert_eq!(listing(), "");
        // Looking at the older iptables would have made its table.
        let names = std::fs::read_to_string("/proc/thread-self/net/ip_tables_names").unwrap_or_default();
        assert_eq!(names, "");
        run("iptables-nft", &["-P", "FORWARD", "ACCEPT"]);
        run("iptables-nft", &["-A", "FORWARD", "-s", "10.0.0.0/8", "-j", "DROP"]);
        let before = listing();
        assert_eq!(reconcile(&openings()).unwrap(), Report::default());
        assert_eq!(listing(), before);
        assert_eq!(observe().unwrap(), []);
    });
}

#[test]
fn an_opening_goes_when_the_policy_does() {
    inside("an_opening_goes_when_the_policy_does", || {
        for binary in ["iptables-nft", "iptables-legacy"] {
            run(binary, &["-P", "FORWARD", "DROP"]);
        }
        assert_eq!(reconcile(&openings()).unwrap().inserted, 8);
        let seen = observe().unwrap();
        let places: Vec<String> = seen.iter().map(|firewall| firewall.place.to_string()).collect();
        assert_eq!(places, ["nftables chain ip filter FORWARD", "iptables-legacy chain FORWARD"]);
        assert!(seen.iter().all(|firewall| firewall.drops && firewall.path == Path::Forward));
        assert_eq!(seen[0].open, seen[1].open);
        for binary in ["iptables-nft", "iptables-legacy"] {
            run(binary, &["-P", "FORWARD", "ACCEPT"]);
        }
        assert_eq!(reconcile(&openings()).unwrap().removed, 8);
        assert_eq!(observe().unwrap(), []);
    });
}

#[test]
fn doubles_are_taken_out() {
    inside("doubles_are_taken_out", || {
        run("iptables-nft", &["-P", "FORWARD", "DROP"]);
        reconcile(&openings()).unwrap();
        let double =
            ["-I", "FORWARD", "-s", "10.244.1.0/24", "-m", "comment", "--comment", "weft", "-j", "ACCEPT"];
        run("iptables-nft", &double);
        let report = reconcile(&openings()).unwrap();
        assert_eq!((report.inserted, report.removed), (0, 1));
        assert!(unchanged(&reconcile(&openings()).unwrap()));
    });
}

#[test]
fn a_drop_rule_is_named_with_what_to_type() {
    inside("a_drop_rule_is_named_with_what_to_type", || {
        let rules = "table inet firewalld {
            chain filter_FORWARD { type filter hook forward priority filter + 10; policy accept;
                ct state established,related accept
                reject with icmpx admin-prohibited
            }
        }";
        pipe("nft", &["-f", "-"], rules);
        run("iptables-nft", &["-A", "INPUT", "-j", "REJECT"]);
        run("iptables-legacy", &["-A", "FORWARD", "-j", "DROP"]);
        let report = reconcile(&openings()).unwrap();
        assert!(unchanged(&report));
        let told: Vec<String> = report.findings.iter().map(ToString::to_string).collect();
        insta::assert_snapshot!(told.join("\n"), @r#"
        nftables chain inet firewalld filter_FORWARD has a rule that drops all that reaches it; if that hits pods or node services, let its owner accept from 10.244.1.0/24, from 10.245.16.0/20, from fd00:244:1::/64, to 10.244.1.0/24, to 10.245.16.0/20, to fd00:244:1::/64, for instance: nft insert rule inet firewalld filter_FORWARD ip saddr 10.244.1.0/24 accept
        nftables chain ip filter INPUT has a rule that drops all that reaches it; if that hits pods or node services, let its owner accept tcp port 53, udp port 53, for instance: nft insert rule ip filter INPUT tcp dport 53 accept
        iptables-legacy chain FORWARD has a rule that drops all that reaches it; if that hits pods or node services, type: iptables-legacy -I FORWARD -s 10.244.1.0/24 -j ACCEPT; iptables-legacy -I FORWARD -s 10.245.16.0/20 -j ACCEPT; iptables-legacy -I FORWARD -d 10.244.1.0/24 -j ACCEPT; iptables-legacy -I FORWARD -d 10.245.16.0/20 -j ACCEPT
        "#);
        // Typed as told, the finding is gone, and the rule stays.
        run("iptables-nft", &["-I", "INPUT", "-p", "udp", "-m", "udp", "--dport", "53", "-j", "ACCEPT"]);
        run("nft", &["insert", "rule", "ip", "filter", "INPUT", "tcp", "dport", "53", "accept"]);
        for accept in super::accept::wanted(&openings(), Path::Forward, &[weft_model::Family::V4]) {
            let command = accept.command();
            let arguments: Vec<&str> = ["-I", "FORWARD"].into_iter().chain(command.split(' ')).collect();
            run("iptables-legacy", &arguments);
        }
        let report = reconcile(&openings()).unwrap();
        assert!(unchanged(&report));
        assert_eq!(report.findings.len(), 1, "{report:?}");
    });
}

#[test]
fn a_table_that_another_process_owns_is_a_finding() {
    inside("a_table_that_another_process_owns_is_a_finding", || {
        let mut holder = crate::filter::socket::Nfnl::open().unwrap();
        own_a_table(&mut holder);
        let report = reconcile(&openings()).unwrap();
        assert!(unchanged(&report));
        insta::assert_snapshot!(report.findings[0], @"nftables chain inet owned in has the policy drop, and can't be changed: Operation not permitted; let its owner accept tcp port 53, udp port 53");
    });
}

/// A table with `flags owner`, which lives and dies with the socket, and a chain in it that drops.
fn own_a_table(holder: &mut crate::filter::socket::Nfnl) {
    use crate::filter::attribute::Writer;
    use crate::filter::uapi as k;
    let first = holder.reserve(4);
    let batch = (k::NFPROTO_UNSPEC, k::NFNL_SUBSYS_NFTABLES);
    let flags = k::NLM_F_REQUEST | k::NLM_F_CREATE | k::NLM_F_ACK;
    let kind = |message: u16| message | k::NFNL_SUBSYS_NFTABLES << 8;
    let mut w = Writer::new();
    w.message((k::NFNL_MSG_BATCH_BEGIN, k::NLM_F_REQUEST, first), batch, |_| {});
    w.message((kind(k::NFT_MSG_NEWTABLE), flags, first + 1), (k::NFPROTO_INET, 0), |w| {
        w.text(k::NFTA_TABLE_NAME, "owned");
        w.u32(k::NFTA_TABLE_FLAGS, 2);
    });
    w.message((kind(k::NFT_MSG_NEWCHAIN), flags, first + 2), (k::NFPROTO_INET, 0), |w| {
        w.text(k::NFTA_CHAIN_TABLE, "owned");
        w.text(k::NFTA_CHAIN_NAME, "in");
        w.nest(k::NFTA_CHAIN_HOOK, |w| {
            w.u32(k::NFTA_HOOK_HOOKNUM, 1);
            w.u32(k::NFTA_HOOK_PRIORITY, 0);
        });
        w.u32(k::NFTA_CHAIN_POLICY, k::NF_DROP);
        w.text(k::NFTA_CHAIN_TYPE, "filter");
    });
    w.message((k::NFNL_MSG_BATCH_END, k::NLM_F_REQUEST, first + 3), batch, |_| {});
    assert_eq!(holder.transact(&w.into_bytes(), (first, first + 2)).unwrap(), []);
}

#[test]
fn only_rules_of_exactly_our_form_are_ours() {
    let check = |line: &str, expected: Option<&str>| {
        let read = Accept::parse(line).map(|accept| accept.arguments().join(" "));
        assert_eq!(read.as_deref(), expected, "{line}");
    };
    let ours = "-s 10.0.0.0/8 -m comment --comment weft -j ACCEPT";
    check(ours, Some(ours));
    check("-s 10.0.0.0/8 -m comment --comment \"weft\" -j ACCEPT", Some(ours));
    let port = "-p udp -m udp --dport 53 -m comment --comment weft -j ACCEPT";
    check(port, Some(port));
    check("-s 10.0.0.0/8 -j ACCEPT", None);
    check("-s 10.0.0.0/8 -i eth0 -m comment --comment weft -j ACCEPT", None);
    check("-s 10.0.0.0/8 -m comment --comment weft -j DROP", None);
    check("-p udp -m udp --dport 53:60 -m comment --comment weft -j ACCEPT", None);
    check("-m comment --comment weft -j ACCEPT", None);
}

#[test]
fn policies_and_drop_rules_are_read() {
    let chain = legacy::read(
        weft_model::Family::V4,
        Path::Forward,
        "-P FORWARD DROP\n-A FORWARD -s 10.0.0.0/8 -m comment --comment weft -j ACCEPT\n-A FORWARD -j REJECT --reject-with x\n",
    );
    assert!(chain.drops && chain.drop_rule);
    assert_eq!(chain.ours, [Accept::From("10.0.0.0/8".parse().unwrap())]);
    assert_eq!(
        BackEnd::Legacy { binary: "iptables-legacy", chain: "FORWARD" }.to_string(),
        "iptables-legacy chain FORWARD"
    );
}
