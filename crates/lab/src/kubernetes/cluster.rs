//! The running whole: a lab, its control plane, its nodes.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::cgroup::Groups;
use super::control_plane::ControlPlane;
use super::kubectl::Kubectl;
use super::node::Node;
use super::parts::Parts;
use super::{CONTROL, PARTS};
use crate::topology::Topology;
use crate::{Lab, LabError, Leftovers, Machine, Tool};

/// What a cluster should be.
#[derive(Debug, Clone)]
pub struct Shape {
    /// Name of the lab, by which `weft lab exec` finds it.
    pub lab: String,
    /// Number of nodes.
    pub nodes: u8,
    /// Where logs go, on the real machine.
    pub logs: PathBuf,
}

/// A running Kubernetes without a network for pods.
#[derive(Debug)]
pub struct Cluster {
    parts: Parts,
    shape: Shape,
    nodes: BTreeMap<String, Node>,
    groups: BTreeMap<String, Groups>,
    control: ControlPlane,
    lab: Lab,
}

/// How long a node may take to announce itself.
const REGISTRATION: Duration = Duration::from_secs(60);

impl Cluster {
    /// Starts machines and control plane. Must be called inside a sandbox ([`crate::sandbox`]), as root.
    pub fn start(parts: &Parts, shape: &Shape, tool: Tool) -> Result<Self, LabError> {
        std::fs::create_dir_all(&shape.logs).map_err(LabError::file("make", &shape.logs))?;
        let lab = Lab::new(&shape.lab, Topology::with_control_plane(shape.nodes), tool)?;
        let machine = lab.machine(CONTROL)?;
        lend(&machine, parts)?;
        let names: Vec<String> = lab.nodes().iter().map(|node| node.name().to_owned()).collect();
        let control = ControlPlane::start(&machine, address(&lab, CONTROL)?, &names, &shape.logs)?;
        Ok(Self {
            parts: parts.clone(),
            shape: shape.clone(),
            nodes: BTreeMap::new(),
            groups: BTreeMap::new(),
            control,
            lab,
        })
    }

    /// Starts containerd with its images and the kubelet on every node, and waits until all have announced themselves.
    pub fn start_nodes(&mut self) -> Result<(), LabError> {
        let names = self.node_names();
        for name in &names {
            self.groups.insert(name.clone(), Groups::make(name)?);
            self.start_node(name)?;
        }
        names.iter().try_for_each(|name| self.route_to_pods(name))
    }

    fn start_node(&mut self, name: &str) -> Result<(), LabError> {
        let machine = self.lab.machine(name)?;
        lend(&machine, &self.parts)?;
        let mut node = Node::start(&machine, &self.shape.logs)?;
        node.import_all(&self.parts)?;
        let group = self.groups.get(name).map_or(name, Groups::name);
        node.start_kubelet(address(&self.lab, name)?, &self.control.contact()?, group)?;
        self.nodes.insert(name.into(), node);
        Ok(())
    }

    /// Leads the control plane's packets for a node's pods to the node: the API server talks to pods, and its machine is no
    /// node of the cluster.
    fn route_to_pods(&self, name: &str) -> Result<(), LabError> {
        let kubectl = self.kubectl();
        let block = kubectl.wait(&format!("node {name} and its block"), REGISTRATION, || {
            let node = kubectl.get(&["node", name]).map_err(|e| e.to_string())?;
            node["spec"]["podCIDR"].as_str().map(str::to_owned).ok_or_else(|| "it has no block yet".into())
        })?;
        let via = address(&self.lab, name)?.to_string();
        self.lab.machine(CONTROL)?.run("ip", &["route", "replace", &block, "via", &via]).map(drop)
    }

    /// Imports an image archive on every node.
    pub fn import(&self, archive: &Path) -> Result<(), LabError> {
        self.nodes.values().try_for_each(|node| node.import(archive))
    }

    /// Gives an image a second name on every node.
    pub fn tag(&self, image: &str, name: &str) -> Result<(), LabError> {
        let tag = ["images", "tag", "--force", image, name];
        self.nodes.values().try_for_each(|node| node.ctr(&tag).map(drop))
    }

    /// Cuts a node's power and starts it again: its namespaces, memory and processes are gone, its disk stays.
    pub fn reboot(&mut self, name: &str) -> Result<(), LabError> {
        self.nodes.remove(name);
        self.lab.kill_machine(name)?;
        self.lab.start_machine(name)?;
        self.start_node(name)
    }

    /// Asks the cluster.
    pub fn kubectl(&self) -> Kubectl {
        self.control.kubectl()
    }

    /// The control plane.
    pub fn control(&mut self) -> &mut ControlPlane {
        &mut self.control
    }

    /// Names of the nodes.
    pub fn node_names(&self) -> Vec<String> {
        (1..=self.shape.nodes).map(|number| format!("n{number}")).collect()
    }

    /// A node's address.
    pub fn address(&self, name: &str) -> Result<IpAddr, LabError> {
        address(&self.lab, name)
    }

    /// The lab that it runs in.
    pub fn lab(&self) -> &Lab {
        &self.lab
    }

    /// Takes everything down, and looks whether anything is left.
    pub fn close(self) -> Result<Leftovers, LabError> {
        let Self { nodes, groups, control, lab, .. } = self;
        drop(nodes);
        drop(control);
        let left = lab.close();
        groups.values().try_for_each(Groups::remove)?;
        left
    }
}

/// Shows the parts to a machine.
fn lend(machine: &Machine, parts: &Parts) -> Result<(), LabError> {
    machine.lend(parts.programs(), &format!("{PARTS}/bin"))?;
    machine.lend(parts.images(), &format!("{PARTS}/img"))
}

/// A machine's IPv4 address.
fn address(lab: &Lab, name: &str) -> Result<IpAddr, LabError> {
    let spec = lab.topology().machine(name);
    spec.and_then(|spec| spec.addresses().find(IpAddr::is_ipv4)).ok_or_else(|| LabError::Unknown {
        name: name.into(),
        known: lab.topology().machines.iter().map(|m| m.name.as_str()).collect::<Vec<_>>().join(", "),
    })
}
