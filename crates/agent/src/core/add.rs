//! ADD: allocate, become a fact, wait until the rows are in force, answer.
//!
//! What always holds: an ADD that is refused before it is a fact gives its leases back; the record is on disk before the fact is
//! there. From then on it ends in one of two ways: it is answered when the plan that has its rows is in force and none of them was
//! refused, or it is taken back by the code that serves DEL, and the answer is an error.
//!
//! What is absent: waiting. The kernel works on its own thread, the deadline is looked at with each tick and report, and the pod is
//! made known to the store after the answer.

use std::net::IpAddr;
use std::os::fd::OwnedFd;
use std::time::Instant;

use weft_cni::weft::Attach;
use weft_cni::{
    AddResult, CniError, Code, HostPortProtocol, Interface, IpConfig, IpPrefix, PortMapping, Route,
};
use weft_compile::Context;
use weft_ipam::{DirectoryLeases, IpamError, LeaseError, Leases, Pool};
use weft_model::{
    Attachment, AttachmentId, Change, Cidr, Fact, FactKey, HostPort, IfName, InvalidNet, Mac, NetworkName,
    ObjectKey, PodIdentity, Port, Protocol,
};
use weft_plan::KernelKey;
use weft_plan::kernel::{GATEWAY_V4, GATEWAY_V6, HOST_END_MAC};
use weft_store::{Published, PublishedPod};

use super::{Adding, Core, PublishWork, Work};
use crate::crash;
use crate::message::CniReply;
use crate::records::{Record, Stage};

/// Why rows of an attachment are not in force.
pub(super) enum Refusal {
    /// It takes somebody to mend it.
    ForGood(String),
    /// The next comparison may mend it.
    ForNow(String),
}

impl Refusal {
    /// The reason, for people.
    pub(super) fn into_reason(self) -> String {
        match self {
            Refusal::ForGood(reason) | Refusal::ForNow(reason) => reason,
        }
    }
}

impl Core {
    pub(super) fn add(&mut self, attach: Box<Attach>, netns: OwnedFd, deadline: Instant, reply: CniReply) {
        crash::point("add:asked");
        let begun = self.admit(&attach).and_then(|(id, network)| {
            // The kernel thread wakes, and makes itself at home there, while leases and record are written.
            self.send(Work::Netns(id.clone(), netns));
            let begun = self.begin(&attach, &id, network);
            if begun.is_err() {
                // Before the answer, after which the runtime takes the namespace away.
                self.send(Work::NoNetns(id.clone()));
            }
            begun.map(|()| id)
        });
        match begun {
            Ok(id) => {
                self.adding.insert(id, Adding { generation: None, deadline, reply, attach });
            }
            Err(error) => {
                reply.send(Err(error));
            }
        }
    }

    /// Whether there may be an attachment of that name now: its identity, and its network.
    fn admit(&mut self, attach: &Attach) -> Result<(AttachmentId, NetworkName), CniError> {
        // Whether there is an address, the leases themselves say, which others may have freed.
        let (network, _) = self.serves(&attach.conf.network).map_err(|error| {
            let code = if error.code == Code::NOT_AVAILABLE { Code::TRY_AGAIN_LATER } else { error.code };
            CniError::new(code, error.msg, error.details)
        })?;
        let id = attachment_id(attach)?;
        // What the runtime asked to be deleted while we were away goes before anything new of the same name comes.
        self.take_tombstones();
        if self.removing.contains_key(&id) {
            return Err(CniError::new(
                Code::TRY_AGAIN_LATER,
                format!("the interface {} that container {} had is being removed", id.ifname, id.container),
                "send ADD again when it is gone",
            ));
        }
        if self.attached.contains_key(&id) {
            return Err(CniError::new(
                Code::INVALID_CONFIG,
                format!("container {} has an interface {} already", id.container, id.ifname),
                "send DEL for it first",
            ));
        }
        Ok((id, network))
    }

    /// Everything up to the fact; on an error nothing is left.
    fn begin(&mut self, attach: &Attach, id: &AttachmentId, network: NetworkName) -> Result<(), CniError> {
        let host_ports = host_ports(attach)?;
        self.refuse_taken_ports(&host_ports)?;
        self.refuse_tunnel_ports(&host_ports)?;
        let pod = pod_identity(attach)?;
        let mac = match &attach.wishes.mac {
            Some(text) => wished_mac(text)?,
            None => Mac::derived(&format!("weft pod {}\n{}", id.container, id.ifname)),
        };
        let addresses = self.allocate(id, &network, &attach.wishes.ips)?;
        if let Err(error) = self.refuse_taken_addresses(&network, &addresses) {
            self.give_back(id);
            self.hold_addresses();
            return Err(error);
        }
        crash::point("add:leased");
        let attachment = Attachment {
            id: id.clone(),
            network,
            pod,
            addresses,
            mac,
            mtu: attach.conf.mtu,
            host_ports,
            netns: attach.netns.clone(),
        };
        let record = Record { attachment, conf_name: attach.conf.net.name.clone() };
        if let Err(error) = self.records.begin(&record) {
            self.give_back(id);
            return Err(CniError::new(
                Code::IO_FAILURE,
                "the attachment can't be recorded",
                error.to_string(),
            ));
        }
        crash::point("add:recorded");
        self.compiler.apply(Change::set(Fact::Attachment(record.attachment.clone())));
        crash::point("add:fact");
        self.attached.insert(id.clone(), record);
        Ok(())
    }

    /// Frees the leases of an ADD that becomes no fact.
    fn give_back(&mut self, id: &AttachmentId) {
        if let Err(reason) = self.release(id) {
            tracing::warn!("{id}: {reason}");
        }
    }

    /// Two things can make an address free that a pod here has: blocks of two networks that overlap, since leases are each
    /// network's own, and somebody who removed its lease.
    fn refuse_taken_addresses(&self, network: &NetworkName, wanted: &[IpAddr]) -> Result<(), CniError> {
        let leaving = self.removing.values().filter_map(|removing| removing.record.as_ref());
        let holder = self.attached.values().chain(leaving).map(|record| &record.attachment);
        let taken = holder.filter_map(|attachment| {
            let address = attachment.addresses.iter().find(|address| wanted.contains(address))?;
            Some((attachment, address))
        });
        let Some((attachment, address)) = taken.into_iter().next() else { return Ok(()) };
        let (code, mend) = if attachment.network == *network {
            (Code::TRY_AGAIN_LATER, "its lease was removed while the pod is here")
        } else {
            (Code::CONFLICT, "blocks of two networks overlap on this node: give one of the networks others")
        };
        let (owner, network) = (attachment.owner(), &attachment.network);
        Err(CniError::new(code, format!("address {address} is taken by {owner} in network {network}"), mend))
    }

    /// This node's addresses in a network: blocks that hold an address of the node itself give none, and neither does what is services' in one.
    pub(super) fn pool(&self, network: &NetworkName) -> Pool {
        let context = Context { settings: self.compiler.settings(), facts: self.compiler.facts() };
        let blocks = context.own_node().into_iter().flat_map(|node| node.cidrs(network));
        let pool = Pool::new(blocks.filter(|block| context.own_address_in(*block).is_none()).collect());
        let closed = pool.cidrs.iter().flat_map(|block| context.services_in(*block)).collect();
        Pool { closed, ..pool }
    }

    /// A block that gives no addresses for that reason, and the node's address in it.
    pub(super) fn block_with_own_address(&self, network: &NetworkName) -> Option<(Cidr, IpAddr)> {
        let context = Context { settings: self.compiler.settings(), facts: self.compiler.facts() };
        let mut blocks = context.own_node()?.cidrs(network);
        blocks.find_map(|block| Some((block, context.own_address_in(block)?)))
    }

    fn allocate(
        &mut self,
        id: &AttachmentId,
        network: &NetworkName,
        requests: &[IpAddr],
    ) -> Result<Vec<IpAddr>, CniError> {
        let pool = self.pool(network);
        let leases = self.leases_of(network)?;
        let allocated = leases.allocate(id, &pool, requests);
        let mut outlook = None;
        match &allocated {
            Err(IpamError::Lease(LeaseError::Vanished { .. })) => self.hold_addresses(),
            Err(IpamError::Exhausted { .. }) => {
                self.refresh_node();
                outlook = self.blocks.outlook(network);
            }
            _ => {}
        }
        allocated.map_err(|error| {
            let mut error = lease_error(&error);
            error.details.extend(outlook.into_iter().flat_map(|outlook| ["; ".to_owned(), outlook]));
            error
        })
    }

    /// The leases of a network, opened at first use.
    pub(super) fn leases_of(
        &mut self,
        network: &NetworkName,
    ) -> Result<&mut Leases<DirectoryLeases>, CniError> {
        if !self.leases.contains_key(network) {
            let (store, _freed) = DirectoryLeases::open(&self.config.cni.lease_dir, network, &self.boot)
                .map_err(|error| {
                    CniError::new(Code::IO_FAILURE, "leases can't be opened", error.to_string())
                })?;
            let leases = Leases::open(store).map_err(|error| lease_error(&error))?;
            self.leases.insert(network.clone(), leases);
        }
        self.leases
            .get_mut(network)
            .ok_or_else(|| CniError::new(Code::IO_FAILURE, "leases can't be opened", network.to_string()))
    }

    /// A mapping of a tunnel's port would hand all that peers send through it to the pod.
    fn refuse_tunnel_ports(&self, wanted: &[HostPort]) -> Result<(), CniError> {
        let context = Context { settings: self.compiler.settings(), facts: self.compiler.facts() };
        for port in wanted {
            if let Some(network) = context.tunnel_at(port.protocol, port.host_port) {
                return Err(CniError::new(
                    Code::CONFLICT,
                    format!(
                        "host port {}/{} is taken by the tunnel of network {}",
                        port.host_port, port.protocol, network.name
                    ),
                    "give the pod another host port, or the network another vxlanPort",
                ));
            }
        }
        Ok(())
    }

    fn refuse_taken_ports(&self, wanted: &[HostPort]) -> Result<(), CniError> {
        for (i, port) in wanted.iter().enumerate() {
            if wanted[..i].iter().any(|earlier| is_same_place(port, earlier)) {
                return Err(CniError::new(
                    Code::INVALID_CONFIG,
                    format!("host port {}/{} is mapped twice", port.host_port, port.protocol),
                    "map each host port to one port of the container",
                ));
            }
        }
        for record in self.attached.values() {
            for taken in &record.attachment.host_ports {
                if let Some(port) = wanted.iter().find(|port| clash(port, taken)) {
                    return Err(CniError::new(
                        Code::CONFLICT,
                        format!(
                            "host port {}/{} is taken by {}",
                            port.host_port,
                            port.protocol,
                            record.attachment.owner()
                        ),
                        "two pods of one node can't have one host port; give one of them another, or another hostIP",
                    ));
                }
            }
        }
        Ok(())
    }

    /// Answers the ADDs whose rows are in force, and takes back those whose rows are refused.
    pub(super) fn settle_adding(&mut self) {
        let in_force = self.generation_in_force;
        let due: Vec<AttachmentId> = self
            .adding
            .iter()
            .filter(|(_, adding)| adding.generation.is_some_and(|awaited| awaited <= in_force))
            .map(|(id, _)| id.clone())
            .collect();
        for id in due {
            let Some(adding) = self.adding.remove(&id) else { continue };
            match self.refusal_of(&id) {
                Some(Refusal::ForGood(reason)) => {
                    let error =
                        CniError::new(Code::KERNEL_REFUSED, "the kernel refused the pod's network", reason);
                    self.take_back(&id, adding, error);
                }
                // Mended rows come with another report; if they come too late, it ends with its deadline.
                Some(Refusal::ForNow(_)) => {
                    self.adding.insert(id, adding);
                }
                None => self.answer(&id, adding),
            }
        }
    }

    fn answer(&mut self, id: &AttachmentId, adding: Adding) {
        crash::point("add:in-force");
        if let Err(error) = self.records.advance(id, Stage::Adding, Stage::Attached) {
            let error =
                CniError::new(Code::IO_FAILURE, "the attachment can't be recorded", error.to_string());
            return self.take_back(id, adding, error);
        }
        let Some(record) = self.attached.get(id) else { return };
        let own = self.add_result(&record.attachment);
        let result = match adding.attach.prev_result.clone() {
            Some(previous) => own.after(previous),
            None => own,
        };
        let published = self.published(&record.attachment);
        crash::point("add:attached");
        adding.reply.send(Ok(result.render(adding.attach.conf.net.version)));
        // The runtime waits, the cluster does not: an agent that dies here makes it known when it starts again.
        if let Some(pod) = published {
            self.publish(PublishWork::Publish(Published::Pod(pod)));
        }
    }

    fn take_back(&mut self, id: &AttachmentId, adding: Adding, error: CniError) {
        self.send(Work::NoNetns(id.clone()));
        self.remove(id, Some((adding.reply, adding.deadline, Err(error))));
    }

    /// Takes back the ADDs that have waited too long.
    pub(super) fn expire_adding(&mut self, now: Instant) {
        let late: Vec<AttachmentId> = self
            .adding
            .iter()
            .filter(|(_, adding)| adding.deadline <= now)
            .map(|(id, _)| id.clone())
            .collect();
        for id in late {
            let Some(adding) = self.adding.remove(&id) else { continue };
            let error = CniError::new(
                Code::TRY_AGAIN_LATER,
                "the pod's network was not in force in time",
                self.refusal_of(&id).map(Refusal::into_reason).unwrap_or_default(),
            );
            // Whoever waits has waited long enough: the answer doesn't wait for the clean-up.
            self.send(Work::NoNetns(id.clone()));
            adding.reply.send(Err(error));
            self.remove(&id, None);
        }
    }

    /// Why rows of an attachment are not in force, if so: refused by the kernel, or wanted by somebody else.
    pub(super) fn refusal_of(&self, id: &AttachmentId) -> Option<Refusal> {
        let origin = FactKey::Attachment(id.clone());
        if let Some(rival) = self.compiler.rival_of(&origin) {
            return Some(Refusal::ForGood(format!("{rival} asks for the same, and differently")));
        }
        if self.failed.is_empty() {
            return None;
        }
        let plan = self.plans.kernel.read().ok()?;
        let link = KernelKey::Link(id.host_link());
        let its_own = |key: &KernelKey| {
            *key == link || plan.kernel.entry(key).is_some_and(|entry| *entry.origin == origin)
        };
        let passing = &self.last_report.passing;
        // One that stays is reason enough, whatever else may pass.
        let (key, reason) = self
            .failed
            .iter()
            .filter(|(key, _)| its_own(key))
            .min_by_key(|(key, _)| passing.contains(key))?;
        let text = format!("{}: {reason}", super::describe(key));
        Some(if passing.contains(key) { Refusal::ForNow(text) } else { Refusal::ForGood(text) })
    }

    /// What ADD answers for an attachment.
    pub(super) fn add_result(&self, attachment: &Attachment) -> AddResult {
        let context = Context { settings: self.compiler.settings(), facts: self.compiler.facts() };
        let network = self.compiler.facts().network_or_default(&attachment.network);
        let mtu = Some(attachment.mtu.unwrap_or_else(|| context.pod_mtu(&network)));
        let host = Interface {
            name: attachment.id.host_link().to_string(),
            mac: HOST_END_MAC.to_string(),
            mtu,
            ..Interface::default()
        };
        let pod = Interface {
            name: attachment.id.ifname.to_string(),
            mac: attachment.mac.to_string(),
            mtu,
            sandbox: attachment.netns.clone(),
            ..Interface::default()
        };
        let gateway = |address: IpAddr| match address {
            IpAddr::V4(_) => IpAddr::V4(GATEWAY_V4),
            IpAddr::V6(_) => IpAddr::V6(GATEWAY_V6),
        };
        let ip = |address: IpAddr| IpConfig {
            address: IpPrefix::host(address),
            gateway: Some(gateway(address)),
            interface: Some(1),
        };
        let route = |address: IpAddr| Route::via(IpPrefix::default_route(address), Some(gateway(address)));
        AddResult {
            interfaces: vec![host, pod],
            ips: attachment.addresses.iter().copied().map(ip).collect(),
            routes: attachment.addresses.iter().copied().map(route).collect(),
            ..AddResult::default()
        }
    }

    /// What the cluster is told of an attachment; nothing of containers that are no pods. A pod is known by the addresses
    /// of its first interface: `eth0`, or the first by name.
    pub(super) fn published(&self, attachment: &Attachment) -> Option<PublishedPod> {
        let pod = attachment.pod.as_ref()?;
        let id = &attachment.id;
        let rank = |ifname: IfName| (ifname.as_str() != "eth0", ifname);
        let before =
            |other: &AttachmentId| other.container == id.container && rank(other.ifname) < rank(id.ifname);
        if rank(id.ifname).0 && self.attached.keys().any(before) {
            return None;
        }
        Some(PublishedPod {
            key: pod.key.clone(),
            uid: pod.uid.clone(),
            network: attachment.network.clone(),
            node: self.node.clone(),
            ips: attachment.addresses.clone(),
            host_ports: attachment.host_ports.clone(),
        })
    }
}

/// The attachment that a request is about.
pub fn attachment_id(attach: &Attach) -> Result<AttachmentId, CniError> {
    let ifname = IfName::new(&attach.id.ifname).map_err(|error| {
        CniError::new(Code::INVALID_ENVIRONMENT, "CNI_IFNAME is no interface name", error.to_string())
    })?;
    Ok(AttachmentId { container: attach.id.container.as_str().into(), ifname })
}

fn pod_identity(attach: &Attach) -> Result<Option<PodIdentity>, CniError> {
    let Some(pod) = &attach.pod else { return Ok(None) };
    let key = ObjectKey::new(&pod.namespace, &pod.name).map_err(|error| {
        CniError::new(Code::INVALID_ENVIRONMENT, "CNI_ARGS names no pod", error.to_string())
    })?;
    Ok(Some(PodIdentity { key, uid: pod.uid.as_deref().map(Into::into) }))
}

fn host_ports(attach: &Attach) -> Result<Vec<HostPort>, CniError> {
    let wrong = |error: InvalidNet| CniError::new(Code::INVALID_CONFIG, "portMappings", error.to_string());
    attach.wishes.port_mappings.iter().map(|mapping| host_port(mapping).map_err(wrong)).collect()
}

/// A runtime's mapping as a fact.
///
/// # Errors
/// Where a port is 0.
pub(crate) fn host_port(mapping: &PortMapping) -> Result<HostPort, InvalidNet> {
    Ok(HostPort {
        host_ip: mapping.host_ip,
        host_port: Port::new(u32::from(mapping.host_port))?,
        container_port: Port::new(u32::from(mapping.container_port))?,
        protocol: match mapping.protocol {
            HostPortProtocol::Tcp => Protocol::Tcp,
            HostPortProtocol::Udp => Protocol::Udp,
            HostPortProtocol::Sctp => Protocol::Sctp,
        },
    })
}

/// The MAC address that a runtime wishes for. The host end's own would be the pod's neighbour and itself.
fn wished_mac(text: &str) -> Result<Mac, CniError> {
    let refused = |msg: &str, details: String| Err(CniError::new(Code::INVALID_CONFIG, msg, details));
    match text.parse::<Mac>() {
        Ok(mac) if mac == HOST_END_MAC => {
            let details =
                format!("{mac} is the address of every pod's gateway; wish for another, or for none");
            refused("the mac capability asks for the host end's address", details)
        }
        Ok(mac) => Ok(mac),
        Err(error) => refused("the mac capability is no MAC address", error.to_string()),
    }
}

/// True where a packet could mean both, so that two pods can't have them. As with the kernel's sockets, a mapping of all addresses
/// clashes with one of a single address; `0.0.0.0` means all of IPv4, `::` all of IPv6.
fn clash(a: &HostPort, b: &HostPort) -> bool {
    let disjoint = match (a.host_ip, b.host_ip) {
        (Some(a), Some(b)) => {
            a.is_ipv4() != b.is_ipv4() || (a != b && !a.is_unspecified() && !b.is_unspecified())
        }
        _ => false,
    };
    a.protocol == b.protocol && a.host_port == b.host_port && !disjoint
}

/// True where both are of one address, or both of all. One pod may well map a port of one address elsewhere than that port of all
/// others: the single address counts first.
fn is_same_place(a: &HostPort, b: &HostPort) -> bool {
    let of_all = |port: &HostPort| port.host_ip.is_none_or(|ip| ip.is_unspecified());
    clash(a, b) && of_all(a) == of_all(b)
}

fn lease_error(error: &IpamError) -> CniError {
    let code = match error {
        IpamError::Exhausted { .. } => Code::ADDRESSES_EXHAUSTED,
        IpamError::NoCidrs | IpamError::Lease(LeaseError::Vanished { .. }) => Code::TRY_AGAIN_LATER,
        IpamError::Lease(_) => Code::IO_FAILURE,
        IpamError::RequestTaken { .. } => Code::CONFLICT,
        _ => Code::INVALID_CONFIG,
    };
    CniError::new(code, "no address for the pod", error.to_string())
}

#[cfg(test)]
mod tests;
