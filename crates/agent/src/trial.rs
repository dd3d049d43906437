//! What the kernel can do, tried out: the plan of a tiny cluster, put into force in a network namespace of its own.
//!
//! What always holds: the machine's own network is not touched; the namespaces are gone when the threads are that
//! made them. The plan is what the agent would make, so the trial needs exactly what an agent needs. Nothing is concluded from the
//! kernel's version: distributions build parts out of it, and put parts of newer ones in.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::net::IpAddr;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::thread;

use nix::sched::{CloneFlags, unshare};
use serde::{Deserialize, Serialize};
use weft_compile::{DnsSettings, Settings, compile};
use weft_dataplane::netlink::{Message, Rtnl};
use weft_dataplane::{Executor, KernelError, LinuxKernel};
use weft_model::{
    Attachment, AttachmentId, Fact, Host, HostLink, HostPort, IfName, Mac, Network, NetworkName, Node,
    NodeAddress, NodeCidr, NodeName, ObjectKey, Overlay, Port, Protocol, Service,
};
use weft_plan::kernel::TUNNEL_LINK_PREFIX;
use weft_plan::{KernelKey, Plan};

/// The trial's folder in the agent's run folder.
pub const FOLDER: &str = "trial";
/// The machine's addresses in the trial, documentation's own (RFC 5737, RFC 3849). Alone in their prefixes: on the loopback
/// link, all of a prefix would be local.
const ADDRESSES: [(&str, u8); 2] = [("192.0.2.1", 32), ("2001:db8::1", 128)];
/// The index of the loopback link: the first of every namespace.
const LOOPBACK: u32 = 1;

/// Something that this kernel refuses, of all that Weft may ask of one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lack {
    /// What it would have been for, in a few words.
    pub what: String,
    /// How often it was refused, and how for example.
    pub text: String,
    /// What to type.
    pub mend: String,
}

/// Why nothing could be tried.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("nothing could be tried: {0}")]
pub struct Refused(String);

impl From<io::Error> for Refused {
    fn from(error: io::Error) -> Self {
        Self(error.to_string())
    }
}

/// Tries everything, some ten milliseconds long, and puts what it notes into `folder`, which exists and is empty.
///
/// # Errors
/// [`Refused`]: there is no network namespace to be had, or no netlink.
pub fn lacks(folder: &Path) -> Result<Vec<Lack>, Refused> {
    let folder = folder.to_owned();
    let trial = thread::Builder::new().name("weft-trial".into()).spawn(move || run(&folder))?;
    let broken = || Err(Refused("the trial itself broke: a defect, please report it".into()));
    trial.join().unwrap_or_else(|_| broken()).map(|failed| sorted(&failed))
}

fn run(folder: &Path) -> Result<Vec<(KernelKey, KernelError)>, Refused> {
    let refused = |what: &str, error: &dyn std::fmt::Display| Refused(format!("{what}: {error}"));
    let pod = namespace().map_err(|e| refused("no network namespace for a pod", &e))?;
    unshare(CloneFlags::CLONE_NEWNET).map_err(|e| refused("no network namespace", &e))?;
    bring_up_loopback()?;
    let (plan, attachment) = tiny_cluster().map_err(|e| refused("a defect in the trial", &e))?;
    let mut kernel = LinuxKernel::open(folder).map_err(|e| refused("no netlink", &e))?;
    // The kernel's copy is closed once the link stands; without another one, namespace and link would go again.
    let copy = pod.try_clone().map_err(|e| refused("no descriptor for the namespace", &e))?;
    kernel.register_netns(attachment, copy);
    let mut executor = Executor::new(kernel);
    executor.sync(&plan).map_err(|e| refused("the kernel can't be observed", &e))?;
    // Twice, as an agent tries again what failed.
    let outcome = executor.sync(&plan).map_err(|e| refused("the kernel can't be observed", &e))?;
    drop(pod);
    Ok(outcome.failed)
}

/// A network namespace that lives as long as its descriptor.
fn namespace() -> io::Result<OwnedFd> {
    let make = || {
        unshare(CloneFlags::CLONE_NEWNET)?;
        Ok(OwnedFd::from(File::open("/proc/thread-self/ns/net")?))
    };
    thread::spawn(make).join().unwrap_or_else(|_| Err(io::Error::other("the thread broke")))
}

/// The trial's only link of the machine's own: up, with the machine's addresses.
fn bring_up_loopback() -> Result<(), Refused> {
    let mut socket = Rtnl::open().map_err(|e| Refused(e.to_string()))?;
    let up = libc::IFF_UP as u32;
    let mut messages = vec![{
        // struct ifinfomsg (linux/rtnetlink.h): family, padding, type, index, flags, change.
        let mut fixed = [0_u8; 16];
        fixed[4..8].copy_from_slice(&LOOPBACK.to_ne_bytes());
        fixed[8..12].copy_from_slice(&up.to_ne_bytes());
        fixed[12..16].copy_from_slice(&up.to_ne_bytes());
        Message::new(libc::RTM_NEWLINK, 0, &fixed)
    }];
    for (address, prefix) in ADDRESSES {
        let Ok(address) = address.parse::<IpAddr>() else { continue };
        let family = if address.is_ipv4() { libc::AF_INET } else { libc::AF_INET6 };
        // struct ifaddrmsg (linux/if_addr.h): family, prefix length, flags, scope, index.
        let mut fixed = [family as u8, prefix, 0, 0, 0, 0, 0, 0];
        fixed[4..8].copy_from_slice(&LOOPBACK.to_ne_bytes());
        let message = Message::new(libc::RTM_NEWADDR, libc::NLM_F_CREATE, &fixed);
        messages.push(message.address(libc::IFA_LOCAL, address).address(libc::IFA_ADDRESS, address));
    }
    let replies = socket.exchange(&messages).map_err(|e| Refused(e.to_string()))?;
    // Without IPv6 the last one is refused; then the rows that need it are, and say so.
    match replies.into_iter().take(2).find_map(|reply| reply.result.err()) {
        Some(refusal) => Err(Refused(format!("the loopback link can't be set up: {refusal}"))),
        None => Ok(()),
    }
}

/// This node with one pod and a mapped port, and a peer behind a tunnel; both families.
fn tiny_cluster() -> Result<(Plan, AttachmentId), Box<dyn std::error::Error>> {
    let network = Network {
        overlay: Overlay::Vxlan,
        pod_cidrs: vec!["10.244.0.0/16".parse()?, "fd00:10:244::/56".parse()?],
        ..Network::ordinary()
    };
    let addresses: Vec<NodeAddress> = ADDRESSES
        .into_iter()
        .map(|(ip, prefix)| Ok(NodeAddress { ip: ip.parse()?, prefix: Some(prefix) }))
        .collect::<Result<_, std::net::AddrParseError>>()?;
    let id = AttachmentId { container: "preflight".into(), ifname: IfName::new("eth0")? };
    let attachment = Attachment {
        id: id.clone(),
        network: NetworkName::ordinary(),
        pod: None,
        addresses: vec!["10.244.1.2".parse()?, "fd00:10:244:1::2".parse()?],
        mac: Mac::derived("preflight"),
        mtu: None,
        host_ports: vec![HostPort {
            host_ip: None,
            host_port: Port::new(8080)?,
            container_port: Port::new(80)?,
            protocol: Protocol::Tcp,
        }],
        netns: String::new(),
    };
    let nets = ADDRESSES.map(|(ip, prefix)| format!("{ip}/{prefix}").parse());
    let link = HostLink {
        name: IfName::loopback(),
        router_advertisements: false,
        mtu: 1500,
        addresses: nets.into_iter().collect::<Result<_, _>>()?,
    };
    let node =
        |name: &str, number: u8, addresses: Vec<NodeAddress>| -> Result<Fact, Box<dyn std::error::Error>> {
            let mut node = Node::named(NodeName::new(name)?);
            node.addresses = addresses;
            for cidr in [format!("10.244.{number}.0/24"), format!("fd00:10:244:{number}::/64")] {
                node.pod_cidrs.push(NodeCidr { network: NetworkName::ordinary(), cidr: cidr.parse()? });
            }
            Ok(Fact::Node(node))
        };
    let peer = NodeAddress { ip: "192.0.2.2".parse()?, prefix: Some(32) };
    let mut settings = Settings::new(NodeName::new("n1")?);
    let dns = ["169.254.53.53".parse()?, "fd77:6566:7453::53".parse()?];
    settings.dns = DnsSettings { addresses: dns.into(), ..DnsSettings::default() };
    let mut service = Service::named(ObjectKey::new("default", "preflight")?);
    service.cluster_ips = vec!["10.96.0.1".parse()?, "fd00:10:96::1".parse()?];
    // What remembers clients needs parts of the packet filter that nothing else needs.
    service.affinity_seconds = Some(60);
    let facts = [
        Fact::Service(service),
        Fact::Network(network),
        Fact::Host(Host { links: vec![link], ..Host::default() }),
        node("n1", 1, addresses)?,
        node("n2", 2, vec![peer])?,
        Fact::Attachment(attachment),
    ];
    Ok((compile(settings, facts), id))
}

/// What a refused row would have been for, and what to type.
fn purpose(key: &KernelKey) -> (&'static str, &'static str) {
    match key {
        KernelKey::Sysctl(_) => ("sysctls", "give the agent a writable /proc/sys"),
        KernelKey::Link(name) if name.as_str().starts_with(TUNNEL_LINK_PREFIX) => {
            ("VXLAN tunnels", "modprobe vxlan (CONFIG_VXLAN), or use overlay: host-gw")
        }
        KernelKey::Link(_) => ("pods' links", "modprobe veth (CONFIG_VETH); IPv6: remove ipv6.disable=1"),
        KernelKey::Route(_) => ("routes", "CONFIG_IPV6 for the IPv6 ones"),
        KernelKey::Rule(_) => ("policy rules", "CONFIG_IP_MULTIPLE_TABLES, CONFIG_IPV6_MULTIPLE_TABLES"),
        KernelKey::Neighbour(..) | KernelKey::Fdb(..) => {
            ("tunnel neighbours", "modprobe vxlan (CONFIG_VXLAN)")
        }
        KernelKey::Opening(_) => ("openings in firewalls", "modprobe nf_tables (CONFIG_NF_TABLES)"),
        KernelKey::Set(_) | KernelKey::Chain(_) | KernelKey::Element(..) => (
            "packet filter",
            "modprobe -a nf_tables nf_conntrack nft_ct nft_nat nft_masq nft_chain_nat nft_fib_inet nft_numgen \
             nft_hash nft_reject_inet \
             (CONFIG_NF_TABLES_INET and the modules named)",
        ),
    }
}

/// One for what has one cause, with the first of the errors.
fn sorted(failed: &[(KernelKey, KernelError)]) -> Vec<Lack> {
    let mut kinds: BTreeMap<&str, (&str, usize, &KernelError)> = BTreeMap::new();
    for (key, error) in failed {
        let (what, mend) = purpose(key);
        kinds.entry(what).or_insert((mend, 0, error)).1 += 1;
    }
    let lack = |(what, (mend, count, error)): (&str, (&str, usize, &KernelError))| Lack {
        what: what.into(),
        text: format!("{count} refused, such as: {error}"),
        mend: mend.into(),
    };
    kinds.into_iter().map(lack).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tiny_cluster_is_a_consistent_plan_that_tries_everything() {
        let (plan, attachment) = tiny_cluster().unwrap();
        assert_eq!(plan.check(), Vec::<String>::new());
        assert_eq!(plan.warnings, Vec::new());
        let has = |wanted: fn(&KernelKey) -> bool| plan.kernel.iter().any(|(key, _)| wanted(key));
        assert!(has(|key| matches!(key, KernelKey::Fdb(..))));
        assert!(has(|key| matches!(key, KernelKey::Rule(_))));
        assert!(has(|key| matches!(key, KernelKey::Element(..))));
        assert!(has(|key| matches!(key, KernelKey::Sysctl(_))));
        assert!(plan.kernel.get(&KernelKey::Link(attachment.host_link())).is_some());
    }

    #[test]
    fn this_kernel_can_do_all_of_it() {
        if !nix::unistd::geteuid().is_root() {
            println!("SKIPPED: this_kernel_can_do_all_of_it: network namespaces need root");
            return;
        }
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(lacks(folder.path()), Ok(Vec::new()));
    }

    #[test]
    fn refusals_of_one_kind_are_one_lack() {
        let error = || KernelError::Inconsistent("odd".into());
        let sysctl = |path: &str| (KernelKey::Sysctl(path.into()), error());
        let tunnel = IfName::new("weftx9338").unwrap();
        let found = sorted(&[sysctl("a"), sysctl("b"), (KernelKey::Link(tunnel), error())]);
        let said: Vec<_> = found.iter().map(|lack| (lack.what.as_str(), &lack.text[..9])).collect();
        assert_eq!(said, [("VXLAN tunnels", "1 refused"), ("sysctls", "2 refused")]);
    }
}
