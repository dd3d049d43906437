//! Sysctls that hurt, and whether those that Weft sets can be set.

use nix::unistd::{AccessFlags, access};

use weft_model::Overlay;

use super::storage::Cluster;
use super::{Finding, Machine};

/// Flows that a node with many pods easily has at once.
const FEW_FLOWS: u64 = 65_536;
/// The kernel's own limit of neighbours; somebody has lowered one below it.
const FEW_NEIGHBOURS: u64 = 1024;
/// Neighbours that are no nodes: as many as a block of the usual size has pods.
const PODS: u64 = 256;

pub fn check(machine: &Machine, cluster: &Cluster) -> Vec<Finding> {
    let wanted = neighbours_of(cluster);
    let findings = [
        forwarding(machine),
        reverse_path(machine),
        ipv6(machine),
        conntrack(machine),
        neighbours(machine, "ipv4", wanted),
        neighbours(machine, "ipv6", wanted),
    ];
    let mut findings: Vec<Finding> = findings.into_iter().flatten().collect();
    findings.extend(router_advertisements(machine));
    if findings.is_empty() {
        findings.push(Finding::ok("sysctls", "none that hurts"));
    }
    findings
}

/// Forwarding may be off: the agent switches it on, where it can.
fn forwarding(machine: &Machine) -> Option<Finding> {
    let path = machine.path("/proc/sys/net/ipv4/ip_forward");
    if machine.sysctl("net/ipv4/ip_forward").as_deref() == Some("1")
        || access(&path, AccessFlags::W_OK).is_ok()
    {
        return None;
    }
    Some(Finding::missing(
        "sysctls",
        format!("net.ipv4.ip_forward is not 1, and {} can't be written", path.display()),
        "sysctl -w net.ipv4.ip_forward=1 on the host, or run the agent with /proc/sys writable",
    ))
}

/// The kernel takes the larger of `all` and the link's own value: 1 here makes every link strict.
fn reverse_path(machine: &Machine) -> Option<Finding> {
    (machine.sysctl("net/ipv4/conf/all/rp_filter")? == "1").then(|| {
        Finding::warning(
            "sysctls",
            "net.ipv4.conf.all.rp_filter is 1: packets whose answer would leave by another link are dropped, as \
             between nodes that reach each other by tunnel one way and directly the other",
            "sysctl -w net.ipv4.conf.all.rp_filter=2, and write it into /etc/sysctl.d/",
        )
    })
}

fn ipv6(machine: &Machine) -> Option<Finding> {
    let Some(disabled) = machine.sysctl("net/ipv6/conf/all/disable_ipv6") else {
        return Some(Finding::warning(
            "sysctls",
            "the kernel was built or started without IPv6: pods get IPv4 only, and their IPv6 rows are refused",
            "remove ipv6.disable=1 from the kernel's command line, or give no IPv6 pod CIDR",
        ));
    };
    (disabled == "1").then(|| {
        Finding::warning(
            "sysctls",
            "net.ipv6.conf.all.disable_ipv6 is 1: no link gets an IPv6 address",
            "sysctl -w net.ipv6.conf.all.disable_ipv6=0, or give no IPv6 pod CIDR",
        )
    })
}

fn conntrack(machine: &Machine) -> Option<Finding> {
    let most = machine.sysctl_number("net/netfilter/nf_conntrack_max")?;
    (most < FEW_FLOWS).then(|| {
        Finding::warning(
            "sysctls",
            format!(
                "net.netfilter.nf_conntrack_max is {most}: with more flows than that, new ones are dropped"
            ),
            "sysctl -w net.netfilter.nf_conntrack_max=262144, and write it into /etc/sysctl.d/",
        )
    })
}

/// How many neighbours of a family the node may have at once. Nodes that are reached by a tunnel only are none: theirs are permanent,
/// and the kernel doesn't count these. Which nodes are on one link is not known here, so all of them are taken to be.
fn neighbours_of(cluster: &Cluster) -> u64 {
    let direct = cluster.networks.iter().any(|network| network.overlay != Overlay::Vxlan);
    let nodes = if direct { u64::try_from(cluster.nodes).unwrap_or(u64::MAX) } else { 0 };
    FEW_NEIGHBOURS.max(nodes.saturating_add(PODS))
}

fn neighbours(machine: &Machine, family: &str, wanted: u64) -> Option<Finding> {
    let most = machine.sysctl_number(&format!("net/{family}/neigh/default/gc_thresh3"))?;
    (most < wanted).then(|| {
        Finding::warning(
            "sysctls",
            format!(
                "net.{family}.neigh.default.gc_thresh3 is {most}, and this cluster may need {wanted}: with more pods and peers \
                 than that, some become unreachable"
            ),
            format!(
                "sysctl -w net.{family}.neigh.default.gc_thresh3={}, and write it into /etc/sysctl.d/",
                wanted.saturating_mul(2).next_power_of_two().max(8192)
            ),
        )
    })
}

/// Flags of a route in `/proc/net/ipv6_route` (linux/ipv6_route.h): learned from a router's advertisement.
const RTF_ADDRCONF: u32 = 0x0004_0000;

/// With forwarding on, the kernel takes router advertisements only where `accept_ra` is 2.
fn router_advertisements(machine: &Machine) -> Vec<Finding> {
    let routes = machine.text("/proc/self/net/ipv6_route").unwrap_or_default();
    let learned = routes.lines().filter_map(|line| {
        let words: Vec<&str> = line.split_whitespace().collect();
        let [_, "00", _, _, _, _, _, _, flags, link] = words[..] else { return None };
        let flags = u32::from_str_radix(flags, 16).ok()?;
        (flags & RTF_ADDRCONF != 0 && words[0].bytes().all(|b| b == b'0')).then(|| link.to_owned())
    });
    let mut links: Vec<String> = learned
        .filter(|link| machine.sysctl(&format!("net/ipv6/conf/{link}/accept_ra")).as_deref() == Some("1"))
        .collect();
    links.sort();
    links.dedup();
    let finding = |link: String| {
        Finding::warning(
            "sysctls",
            format!(
                "{link} has its IPv6 default route from a router's advertisements, which the kernel ignores once \
                 forwarding is on"
            ),
            format!("sysctl -w net.ipv6.conf.{link}.accept_ra=2, and write it into /etc/sysctl.d/"),
        )
    };
    links.into_iter().map(finding).collect()
}

#[cfg(test)]
mod tests {
    use super::super::Verdict;
    use super::super::machine::testing::FakeMachine;
    use super::*;
    use weft_model::Network;

    const GOOD: [(&str, &str); 3] = [
        ("/proc/sys/net/ipv4/ip_forward", "1\n"),
        ("/proc/sys/net/ipv4/conf/all/rp_filter", "2\n"),
        ("/proc/sys/net/ipv6/conf/all/disable_ipv6", "0\n"),
    ];

    #[track_caller]
    fn check(more: &[(&str, &str)], expected: Option<&str>) {
        let fake = FakeMachine::new(&[&GOOD, more].concat());
        let findings = super::check(&fake.machine(), &Cluster::default());
        let [finding] = &findings[..] else { panic!("{findings:?}") };
        match expected {
            None => assert_eq!(finding.verdict, Verdict::Ok, "{findings:?}"),
            Some(name) => {
                assert_eq!(finding.verdict, Verdict::Warning);
                assert!(finding.mend.as_ref().unwrap().contains(name), "{findings:?}");
            }
        }
    }

    #[test]
    fn each_sysctl_that_hurts_is_named_with_its_mend() {
        check(&[], None);
        check(&[("/proc/sys/net/ipv4/conf/all/rp_filter", "1")], Some("net.ipv4.conf.all.rp_filter=2"));
        check(&[("/proc/sys/net/ipv6/conf/all/disable_ipv6", "1")], Some("disable_ipv6=0"));
        check(&[("/proc/sys/net/netfilter/nf_conntrack_max", "32768")], Some("nf_conntrack_max=262144"));
        check(&[("/proc/sys/net/netfilter/nf_conntrack_max", "262144")], None);
        check(&[("/proc/sys/net/ipv4/neigh/default/gc_thresh3", "512")], Some("net.ipv4.neigh"));
        check(&[("/proc/sys/net/ipv6/neigh/default/gc_thresh3", "1024")], None);
    }

    #[test]
    fn a_large_cluster_on_one_link_needs_more_neighbours_than_usual() {
        let limit = ("/proc/sys/net/ipv4/neigh/default/gc_thresh3", "1024");
        let fake = FakeMachine::new(&[&GOOD[..], &[limit]].concat());
        let mut cluster = Cluster { networks: vec![Network::ordinary()], ..Cluster::default() };
        let mut check = |nodes: usize, overlay: Overlay, expected: Option<&str>| {
            (cluster.nodes, cluster.networks[0].overlay) = (nodes, overlay);
            let findings = super::check(&fake.machine(), &cluster);
            let mend = findings[0].mend.as_deref();
            assert_eq!(mend.is_some(), expected.is_some(), "{nodes} {overlay:?}: {findings:?}");
            assert!(
                expected.is_none_or(|value| mend.is_some_and(|mend| mend.contains(value))),
                "{findings:?}"
            );
        };
        check(700, Overlay::HostGw, None);
        check(1000, Overlay::HostGw, Some("ipv4.neigh.default.gc_thresh3=8192"));
        check(1000, Overlay::Auto, Some("gc_thresh3=8192"));
        check(5000, Overlay::HostGw, Some("gc_thresh3=16384"));
        check(5000, Overlay::Vxlan, None);
    }

    #[test]
    fn a_default_route_by_advertisement_is_about_to_be_lost() {
        let zero = "0".repeat(32);
        let route = |flags: &str| {
            format!(
                "{zero} 00 {zero} 00 fe800000000000000000000000000001 00000400 00000001 00000000 {flags} eth0\n"
            )
        };
        let learned = route("00450003");
        let accept = ("/proc/sys/net/ipv6/conf/eth0/accept_ra", "1");
        check(&[("/proc/self/net/ipv6_route", &learned), accept], Some("net.ipv6.conf.eth0.accept_ra=2"));
        check(&[("/proc/self/net/ipv6_route", &route("00000003")), accept], None);
        check(
            &[("/proc/self/net/ipv6_route", &learned), ("/proc/sys/net/ipv6/conf/eth0/accept_ra", "2")],
            None,
        );
    }

    #[test]
    fn a_kernel_without_ipv6_is_named() {
        let fake = FakeMachine::new(&GOOD[..2]);
        let finding = super::check(&fake.machine(), &Cluster::default()).remove(0);
        assert!(finding.text.contains("without IPv6"), "{}", finding.text);
    }
}
