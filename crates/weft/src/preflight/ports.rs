//! Ports that others hold: 53 where the DNS server listens, the tunnel's UDP port, and the one for the node's health.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use weft_model::{Network, NetworkName, Port};

use super::machine::Process;
use super::{Finding, Machine};

/// A listening socket, from `/proc/net/{udp,tcp}{,6}`.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Listener {
    protocol: &'static str,
    address: IpAddr,
    port: u16,
    inode: u64,
}

/// `TCP_LISTEN` (net/tcp_states.h).
const LISTEN: &str = "0A";
/// `TCP_CLOSE`, which a datagram socket is in that takes packets from anybody.
const UNCONNECTED: &str = "07";
/// The DNS server's port.
const DNS_PORT: u16 = 53;

/// Looks at the ports that our servers at these addresses, these networks, and the node's health port want.
pub fn check(machine: &Machine, dns: &[IpAddr], networks: &[Network], health: Option<Port>) -> Vec<Finding> {
    let networks = with_tunnels(networks);
    let mut findings = Vec::new();
    for listener in listeners(machine) {
        if listener.port == DNS_PORT && dns.iter().any(|ip| overlaps(listener.address, *ip)) {
            let text = "keeps our DNS server from its addresses";
            findings.extend(taken(&listener, machine.owner_of_socket(listener.inode).as_ref(), text));
        }
        if listener.protocol == "tcp" && health.is_some_and(|port| port.get() == listener.port) {
            let owner = machine.owner_of_socket(listener.inode);
            let found =
                taken(&listener, owner.as_ref(), "keeps us from saying at the node's health port how we do");
            let another = "or set services.healthPort to another port, or to 0 for none";
            findings.extend(
                found.map(|finding| Finding {
                    mend: finding.mend.map(|m| format!("{m}; {another}")),
                    ..finding
                }),
            );
        }
        let is_taken = |network: &&&Network| {
            network.tunnel_port().is_some_and(|(protocol, port)| {
                protocol.name() == listener.protocol && port.get() == listener.port
            })
        };
        if let Some(network) = networks.iter().find(is_taken)
            && listener.address.is_unspecified()
            // The kernel's own sockets belong to no process: other tunnels, which share the port with ours.
            && let Some(process) = machine.owner_of_socket(listener.inode)
        {
            let text = format!("keeps network {} from its tunnel's port", network.name);
            findings.extend(taken(&listener, Some(&process), &text));
        }
    }
    if findings.is_empty() {
        let tunnels = networks.iter().filter_map(|network| network.tunnel_port());
        let wanted = ["53 on our DNS addresses".to_owned()]
            .into_iter()
            .chain(tunnels.map(|(protocol, port)| format!("{port}/{protocol} for a tunnel")))
            .chain(health.map(|port| format!("{port}/tcp for the node's health")));
        let text = format!("what Weft listens at can be had: {}", wanted.collect::<Vec<_>>().join(", "));
        findings.push(Finding::ok("ports", text));
    }
    findings
}

/// The networks that have a tunnel: of those that want one with the same VNI the ordinary one, else the first by name. The others have none,
/// and take no port.
fn with_tunnels(networks: &[Network]) -> Vec<&Network> {
    let mut found: Vec<&Network> =
        networks.iter().filter(|network| network.tunnel_port().is_some()).collect();
    found.sort_by_key(|network| (network.name != NetworkName::ordinary(), &network.name));
    let mut held = BTreeSet::new();
    found.retain(|network| held.insert(network.vni));
    found
}

/// Nothing where it is an agent that runs already: it is no trouble for its successor.
fn taken(listener: &Listener, owner: Option<&Process>, what: &str) -> Option<Finding> {
    let Listener { protocol, address, port, .. } = listener;
    let (who, mend) = match owner {
        Some(process) if process.name == "weft" => return None,
        Some(Process { name, pid }) => (
            format!("{name} (process {pid})"),
            format!("stop {name}, or have it listen on addresses of its own instead of all"),
        ),
        None => {
            ("a process that can't be seen from here".into(), format!("ss -lnp 'sport = :{port}' names it"))
        }
    };
    let text = format!("{who} {what}: it listens on {address} port {port}/{protocol}");
    Some(Finding::warning("ports", text, mend))
}

/// Whether a socket on `taken` keeps others from `wanted`. An IPv6 wildcard takes IPv4 too.
fn overlaps(taken: IpAddr, wanted: IpAddr) -> bool {
    taken == wanted
        || taken == IpAddr::V6(Ipv6Addr::UNSPECIFIED)
        || (taken == IpAddr::V4(Ipv4Addr::UNSPECIFIED) && wanted.is_ipv4())
}

fn listeners(machine: &Machine) -> Vec<Listener> {
    let mut found = Vec::new();
    for (file, protocol) in [("udp", "udp"), ("udp6", "udp"), ("tcp", "tcp"), ("tcp6", "tcp")] {
        let text = machine.text(format!("/proc/self/net/{file}")).unwrap_or_default();
        found.extend(text.lines().skip(1).filter_map(|line| listener(line, protocol)));
    }
    found
}

/// `sl local_address rem_address st tx:rx tr:when retrnsmt uid timeout inode …`
fn listener(line: &str, protocol: &'static str) -> Option<Listener> {
    let words: Vec<&str> = line.split_whitespace().collect();
    let (address, port) = words.get(1)?.split_once(':')?;
    let wanted = if protocol == "tcp" { LISTEN } else { UNCONNECTED };
    if *words.get(3)? != wanted {
        return None;
    }
    Some(Listener {
        protocol,
        address: parse_address(address)?,
        port: u16::from_str_radix(port, 16).ok()?,
        inode: words.get(9)?.parse().ok()?,
    })
}

/// Words of four bytes, each printed as a number of the machine's own byte order.
fn parse_address(hex: &str) -> Option<IpAddr> {
    let words: Option<Vec<[u8; 4]>> = (0..hex.len() / 8)
        .map(|at| Some(u32::from_str_radix(hex.get(at * 8..at * 8 + 8)?, 16).ok()?.to_ne_bytes()))
        .collect();
    let bytes = words?.concat();
    if let Ok(v4) = <[u8; 4]>::try_from(bytes.as_slice()) {
        return Some(IpAddr::from(v4));
    }
    <[u8; 16]>::try_from(bytes.as_slice()).ok().map(IpAddr::from)
}

#[cfg(test)]
mod tests {
    use super::super::Verdict;
    use super::super::machine::testing::FakeMachine;
    use super::*;

    /// A machine with one socket of inode 2; process 9 of this name has it, or nobody.
    #[cfg(target_endian = "little")]
    #[track_caller]
    fn check(file: &str, socket: &str, owner: Option<&str>, expected: Option<&str>) {
        let text = format!("  sl  local_address\n   1: {socket}\n");
        let fake = FakeMachine::new(&[(&format!("/proc/self/net/{file}"), &text)]);
        if let Some(name) = owner {
            fake.process(9, name, "socket:[2]");
        }
        let dns = ["169.254.53.53".parse().unwrap(), "fd77::53".parse().unwrap()];
        let findings = super::check(&fake.machine(), &dns, &[Network::ordinary()], Port::new(10_256).ok());
        let [finding] = &findings[..] else { panic!("{findings:?}") };
        match expected {
            None => assert_eq!(finding.verdict, Verdict::Ok, "{findings:?}"),
            Some(text) => {
                assert!(finding.verdict == Verdict::Warning && finding.text.contains(text), "{findings:?}");
            }
        }
    }

    #[test]
    #[cfg(target_endian = "little")]
    fn who_is_in_the_way_is_named() {
        let open = "00000000:0000 07 00000000:00000000 00:00000000 00000000 0 0 2 x";
        let listening = "00000000:0000 0A 00000000:00000000 00:00000000 00000000 0 0 2 x";
        let zero = "0".repeat(32);
        let named = Some("named");
        // systemd-resolved at 127.0.0.53 is no trouble; a wildcard is, and our own address.
        check("udp", &format!("3500007F:0035 {open}"), named, None);
        check("udp", &format!("00000000:0035 {open}"), named, Some("named (process 9) keeps our DNS server"));
        check("udp", &format!("3535FEA9:0035 {open}"), named, Some("169.254.53.53 port 53/udp"));
        check("udp6", &format!("{zero}:0035 {open}"), None, Some(":: port 53/udp"));
        check("tcp", &format!("00000000:0035 {listening}"), named, Some("53/tcp"));
        check("udp", &format!("3535FEA9:0035 {open}"), Some("weft"), None);
        // A connection from port 53 listens to nobody; a tunnel of the kernel's own shares the port.
        check("tcp", &format!("00000000:0035 {open}"), named, None);
        check("udp", &format!("00000000:12B5 {open}"), named, Some("network default from its tunnel's port"));
        check("udp", &format!("00000000:12B5 {open}"), None, None);
        let proxy = Some("kube-proxy");
        check(
            "tcp6",
            &format!("{zero}:2810 {listening}"),
            proxy,
            Some("kube-proxy (process 9) keeps us from saying"),
        );
        check("tcp", &format!("0100007F:2810 {listening}"), proxy, Some("127.0.0.1 port 10256/tcp"));
        check("udp", &format!("00000000:2810 {open}"), proxy, None);
    }

    #[test]
    #[cfg(target_endian = "little")]
    fn a_network_without_a_tunnel_wants_no_port() {
        let socket = "00000000:12B5 00000000:0000 07 00000000:00000000 00:00000000 00000000 0 0 2 x";
        let text = format!("  sl  local_address\n   1: {socket}\n");
        let fake = FakeMachine::new(&[("/proc/self/net/udp", &text)]);
        fake.process(9, "named", "socket:[2]");
        let network = Network { overlay: weft_model::Overlay::HostGw, ..Network::ordinary() };
        let findings = super::check(&fake.machine(), &[], &[network], None);
        let [Finding { verdict: Verdict::Ok, text, .. }] = &findings[..] else { panic!("{findings:?}") };
        assert!(!text.contains("4789"), "{text}");
    }
    /// Its tunnel is another's: a server at its port is in nobody's way.
    #[test]
    #[cfg(target_endian = "little")]
    fn a_network_that_lost_its_tunnel_wants_no_port() {
        let socket = "00000000:12B6 00000000:0000 07 00000000:00000000 00:00000000 00000000 0 0 2 x";
        let text = format!("  sl  local_address\n   1: {socket}\n");
        let fake = FakeMachine::new(&[("/proc/self/net/udp", &text)]);
        fake.process(9, "named", "socket:[2]");
        let mut blue = Network::named(NetworkName::new("blue").unwrap());
        blue.vxlan_port = Port::new(4790).unwrap();
        let verdict = |blue: &Network| {
            let networks = [blue.clone(), Network::ordinary()];
            let findings = super::check(&fake.machine(), &[], &networks, None);
            let [finding] = &findings[..] else { panic!("{findings:?}") };
            (finding.verdict == Verdict::Ok, finding.text.contains("4790"))
        };
        assert_eq!(verdict(&blue), (false, true));
        blue.vni = Network::ordinary().vni;
        assert_eq!(verdict(&blue), (true, false));
    }
}
