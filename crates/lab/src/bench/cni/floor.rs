//! The floor: the objects that one ADD makes, by the fewest requests in one process, without any waiting, mending or record.
//!
//! Both ends of the veth pair with names, MACs, group and alias and one queue each way, addresses, permanent neighbours and routes at both, and the
//! four elements of the packet filter. DEL is a bare RTM_DELLINK, in turns until the kernel acknowledges it, when it has freed the
//! link's memory, and until it says that the link is gone; the elements are taken out outside the time.

use std::collections::BTreeSet;
use std::fs::File;
use std::net::IpAddr;
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow};
use nix::sched::{CloneFlags, setns};
use weft_dataplane::filter::{Change, Nft};
use weft_dataplane::netlink::{Attributes, Message, Removals, Reply, Rtnl};
use weft_lab::Machine;
use weft_model::IfName;
use weft_plan::filter::{Element, SetSpec, Type};
use weft_plan::kernel::{GATEWAY_V4, GATEWAY_V6, HOST_END_MAC};
use weft_plan::{Atom, KernelKey, KernelRow};

const NEW: i32 = libc::NLM_F_CREATE | libc::NLM_F_EXCL;
/// The group of its links.
const GROUP: u32 = 4711;
const GATEWAYS: [IpAddr; 2] = [IpAddr::V4(GATEWAY_V4), IpAddr::V6(GATEWAY_V6)];
/// Sets of sources, and of pods that reach themselves.
const SETS: [(&str, [Type; 2]); 4] = [
    ("source4", [Type::IfName, Type::Ipv4Addr]),
    ("source6", [Type::IfName, Type::Ipv6Addr]),
    ("hairpin4", [Type::Ipv4Addr, Type::Ipv4Addr]),
    ("hairpin6", [Type::Ipv6Addr, Type::Ipv6Addr]),
];

/// The name of a namespace of the benchmark.
pub fn namespace_name(number: usize) -> String {
    format!("pod{number:04}")
}

/// Its path on its machine.
pub fn namespace(number: usize) -> String {
    format!("/run/netns/{}", namespace_name(number))
}

/// The sockets of a process that makes pods' links. It is in its machine's network only: a thread that has joined
/// process ids as well can't start the threads that enter pods' namespaces.
pub struct Floor {
    machine: Arc<Machine>,
    host: Rtnl,
    removals: Removals,
    filter: Nft,
}

/// When a removal is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// When the kernel acknowledges it.
    Acknowledged,
    /// When the kernel says that the link is gone.
    Gone,
}

/// A pod's link that stands.
struct Made {
    index: u32,
    elements: Vec<KernelKey>,
}

impl Floor {
    /// Opens the sockets in the thread's network, and makes the sets.
    pub fn open(machine: &Arc<Machine>) -> Result<Self> {
        let mut filter = Nft::open()?;
        let sets: Vec<(KernelKey, KernelRow)> = SETS
            .iter()
            .map(|(name, key)| {
                (KernelKey::Set((*name).into()), KernelRow::Set(Box::new(SetSpec::set(key, "the floor"))))
            })
            .collect();
        let changes: Vec<Change<'_>> = sets.iter().map(|(key, row)| Change::Set(key, row)).collect();
        filter.apply(&changes)?;
        Ok(Self { machine: Arc::clone(machine), host: Rtnl::open()?, removals: Removals::open()?, filter })
    }

    /// Makes and removes one link; the times of both. The removal ends as `end` says.
    pub fn add_and_del(&mut self, number: usize, end: End) -> Result<(Duration, Duration)> {
        let (add, made) = self.add(number)?;
        std::thread::sleep(super::PAUSE);
        let start = Instant::now();
        let removal = Message::new(libc::RTM_DELLINK, 0, &link_header(made.index, 0));
        match end {
            End::Acknowledged => drop(self.send(&[removal])?),
            End::Gone => self
                .removals
                .remove(&removal, BTreeSet::from([made.index]))?
                .map_err(|refusal| anyhow!("the kernel refused to remove a link of the floor: {refusal}"))?,
        }
        let del = start.elapsed();
        self.forget(&made)?;
        std::thread::sleep(super::PAUSE);
        Ok((add, del))
    }

    /// Makes many one after the other, and removes them with one request for their group.
    pub fn many(&mut self, count: usize) -> Result<(Duration, Duration)> {
        let start = Instant::now();
        let made: Vec<Made> = (0..count).map(|number| Ok(self.add(number)?.1)).collect::<Result<_>>()?;
        let add = start.elapsed();
        let start = Instant::now();
        self.send(&[Message::new(libc::RTM_DELLINK, 0, &link_header(0, 0)).u32(libc::IFLA_GROUP, GROUP)])?;
        let del = start.elapsed();
        made.iter().try_for_each(|made| self.forget(made))?;
        Ok((add, del))
    }

    fn add(&mut self, number: usize) -> Result<(Duration, Made)> {
        let path = self.machine.path(&namespace(number));
        let namespace = File::open(&path).with_context(|| format!("can't open {}", path.display()))?;
        let name = IfName::new(&format!("floor{number}"))?;
        let start = Instant::now();
        let look =
            Message::new(libc::RTM_GETLINK, 0, &link_header(0, 0)).text(libc::IFLA_IFNAME, name.as_str());
        let replies = self.send(&[create(name, number, &namespace), look])?;
        let (_, body) = replies.get(1).and_then(|r| r.object.as_ref()).context("no link came of it")?;
        let index = body.get(4..8).and_then(|b| b.try_into().ok()).map(u32::from_ne_bytes);
        let index = index.context("the link has no index")?;
        let peer = Attributes::new(&body[16..]).u32(libc::IFLA_LINK).context("the link has no peer")?;
        // The host end first, so that the pod's end comes up with a carrier.
        self.send(&[address(index, GATEWAYS[1], 64), up(index)])?;
        let mut inside = std::thread::scope(|scope| {
            scope.spawn(|| setns(&namespace, CloneFlags::CLONE_NEWNET).map(|()| Rtnl::open())).join()
        })
        .map_err(|_| anyhow!("a thread of the benchmark panicked"))???;
        judge(inside.exchange(&pod_end(peer, number))?)?;
        let mut host: Vec<Message> = addresses(number)
            .into_iter()
            .map(|a| route(a, bits(a), libc::RT_SCOPE_LINK).u32(libc::RTA_OIF, index))
            .collect();
        host.extend(addresses(number).map(|a| neighbour(index, a, &pod_mac(number), libc::NUD_REACHABLE)));
        host.push(
            Message::new(libc::RTM_SETLINK, 0, &link_header(index, 0))
                .text(libc::IFLA_IFALIAS, &format!("bench/pod-{number}")),
        );
        self.send(&host)?;
        let elements = elements(name, number);
        let row = KernelRow::Element(Element::member());
        let changes: Vec<Change<'_>> = elements.iter().map(|key| Change::Set(key, &row)).collect();
        self.filter.apply(&changes)?;
        Ok((start.elapsed(), Made { index, elements }))
    }

    fn forget(&mut self, made: &Made) -> Result<()> {
        let changes: Vec<Change<'_>> = made.elements.iter().map(Change::Remove).collect();
        self.filter.apply(&changes)?;
        Ok(())
    }

    fn send(&mut self, requests: &[Message]) -> Result<Vec<Reply>> {
        judge(self.host.exchange(requests)?)
    }
}

fn judge(replies: Vec<Reply>) -> Result<Vec<Reply>> {
    for reply in &replies {
        reply
            .result
            .as_ref()
            .map_err(|refusal| anyhow!("the kernel refused a request of the floor: {refusal}"))?;
    }
    Ok(replies)
}

fn addresses(number: usize) -> [IpAddr; 2] {
    // Numbers are those of namespaces: a few hundred.
    let [high, low] = (number as u16 + 1).to_be_bytes();
    [IpAddr::from([10, 99, high, low]), IpAddr::from([0xfd99, 0, 0, 0, 0, 0, 0, number as u16 + 1])]
}

fn pod_mac(number: usize) -> [u8; 6] {
    let [high, low] = (number as u16).to_be_bytes();
    [2, 0, 0, 0, high, low]
}

fn elements(name: IfName, number: usize) -> Vec<KernelKey> {
    let [v4, v6] = addresses(number).map(Atom::from);
    let link = Atom::Link(name);
    let keys = [[link.clone(), v4.clone()], [link, v6.clone()], [v4.clone(), v4], [v6.clone(), v6]];
    SETS.iter().zip(keys).map(|((set, _), key)| KernelKey::Element((*set).into(), key.into())).collect()
}

/// `struct ifinfomsg`.
fn link_header(index: u32, flags: u32) -> [u8; 16] {
    let mut bytes = [0; 16];
    bytes[4..8].copy_from_slice(&index.to_ne_bytes());
    bytes[8..12].copy_from_slice(&flags.to_ne_bytes());
    bytes[12..16].copy_from_slice(&flags.to_ne_bytes());
    bytes
}

fn create(name: IfName, number: usize, namespace: &File) -> Message {
    Message::new(libc::RTM_NEWLINK, NEW, &link_header(0, 0))
        .text(libc::IFLA_IFNAME, name.as_str())
        .u32(libc::IFLA_GROUP, GROUP)
        .u32(libc::IFLA_MTU, 1450)
        .u32(libc::IFLA_NUM_TX_QUEUES, 1)
        .u32(libc::IFLA_NUM_RX_QUEUES, 1)
        .attr(libc::IFLA_ADDRESS, &HOST_END_MAC.0)
        .nest(libc::IFLA_LINKINFO, |info| {
            info.attr(libc::IFLA_INFO_KIND, b"veth").nest(libc::IFLA_INFO_DATA, |data| {
                // VETH_INFO_PEER
                data.nest(1, |peer| {
                    peer.raw(&link_header(0, 0))
                        .text(libc::IFLA_IFNAME, "eth0")
                        .u32(libc::IFLA_MTU, 1450)
                        .u32(libc::IFLA_NUM_TX_QUEUES, 1)
                        .u32(libc::IFLA_NUM_RX_QUEUES, 1)
                        .attr(libc::IFLA_ADDRESS, &pod_mac(number))
                        .attr(libc::IFLA_NET_NS_FD, &namespace.as_raw_fd().to_ne_bytes())
                })
            })
        })
}

fn up(index: u32) -> Message {
    Message::new(libc::RTM_SETLINK, 0, &link_header(index, libc::IFF_UP as u32))
}

fn family(address: IpAddr) -> u8 {
    if address.is_ipv4() { libc::AF_INET as u8 } else { libc::AF_INET6 as u8 }
}

fn bits(address: IpAddr) -> u8 {
    if address.is_ipv4() { 32 } else { 128 }
}

fn address(index: u32, address: IpAddr, prefix: u8) -> Message {
    let nodad = if address.is_ipv6() { libc::IFA_F_NODAD as u8 } else { 0 };
    let i = index.to_ne_bytes();
    let header = [family(address), prefix, nodad, 0, i[0], i[1], i[2], i[3]];
    Message::new(libc::RTM_NEWADDR, NEW, &header).address(libc::IFA_LOCAL, address)
}

fn route(to: IpAddr, prefix: u8, scope: u8) -> Message {
    let header = [family(to), prefix, 0, 0, 254, 3, scope, libc::RTN_UNICAST, 0, 0, 0, 0];
    let message = Message::new(libc::RTM_NEWROUTE, NEW, &header);
    if prefix == 0 { message } else { message.address(libc::RTA_DST, to) }
}

fn neighbour(index: u32, of: IpAddr, mac: &[u8; 6], state: u16) -> Message {
    let (i, s) = (index.to_ne_bytes(), state.to_ne_bytes());
    let header = [family(of), 0, 0, 0, i[0], i[1], i[2], i[3], s[0], s[1], 0, 0];
    Message::new(libc::RTM_NEWNEIGH, libc::NLM_F_CREATE | libc::NLM_F_REPLACE, &header)
        .address(libc::NDA_DST, of)
        .attr(libc::NDA_LLADDR, mac)
}

fn pod_end(index: u32, number: usize) -> Vec<Message> {
    let mut requests = vec![up(1)];
    requests.extend(addresses(number).map(|a| address(index, a, bits(a))));
    requests.push(up(index));
    requests.extend(GATEWAYS.map(|g| neighbour(index, g, &HOST_END_MAC.0, libc::NUD_PERMANENT)));
    requests.push(route(GATEWAYS[0], 32, libc::RT_SCOPE_LINK).u32(libc::RTA_OIF, index));
    requests.extend(GATEWAYS.map(|gateway| {
        route(gateway, 0, libc::RT_SCOPE_UNIVERSE)
            .u32(libc::RTA_OIF, index)
            .address(libc::RTA_GATEWAY, gateway)
    }));
    requests
}
