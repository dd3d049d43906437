//! A lab: the machines of a topology, cabled and running.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;
use std::process::Command;
use std::sync::{Arc, Mutex, PoisonError};

use ipnet::IpNet;

use crate::directory::{Directory, State};
use crate::leftovers::{Leftovers, Ticks, Traces};
use crate::machine::{Machine, Net};
use crate::tool::Tool;
use crate::topology::{MachineSpec, Role, Topology};
use crate::{LabError, Pod};

/// The machine that holds the LANs: one bridge each. No packet of it is routed.
const FABRIC: &str = "fabric";

/// A running lab. Must be made inside a sandbox ([`crate::sandbox`]); everything ends when it is dropped.
#[derive(Debug)]
pub struct Lab {
    topology: Topology,
    tool: Tool,
    machines: Mutex<BTreeMap<String, Arc<Machine>>>,
    state: Mutex<State>,
    traces: Traces,
    directory: Directory,
}

impl Lab {
    /// Starts the machines of a topology and cables them. `name` is how other programs find the lab.
    pub fn new(name: &str, topology: Topology, tool: Tool) -> Result<Self, LabError> {
        let directory = Directory::create(name)?;
        let pid = std::process::id().cast_signed();
        let lab = Self {
            topology,
            tool,
            machines: Mutex::default(),
            state: Mutex::new(State { pid, places: BTreeMap::new() }),
            traces: Traces::before(directory.path())?,
            directory,
        };
        let fabric = lab.boot(FABRIC)?;
        lay_lans(&fabric, &lab.topology)?;
        for machine in lab.topology.machines.clone() {
            lab.start_machine(&machine.name)?;
        }
        Ok(lab)
    }

    /// What it was made from.
    pub fn topology(&self) -> &Topology {
        &self.topology
    }

    /// The program that runs the lab's processes.
    pub fn tool(&self) -> &Tool {
        &self.tool
    }

    /// The lab's directory: machines see it as `/lab`, and it goes with the lab.
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// A running machine.
    pub fn machine(&self, name: &str) -> Result<Arc<Machine>, LabError> {
        self.machines().get(name).cloned().ok_or_else(|| match self.topology.machine(name) {
            Some(_) => LabError::Down(name.into()),
            None => LabError::Unknown { name: name.into(), known: self.known() },
        })
    }

    /// The running nodes, in the topology's order.
    pub fn nodes(&self) -> Vec<Arc<Machine>> {
        self.topology.with_role(Role::Node).filter_map(|m| self.machines().get(&m.name).cloned()).collect()
    }

    /// Starts a machine that is down: fresh memory, the disk as it was. Returns it cabled and with its addresses.
    pub fn start_machine(&self, name: &str) -> Result<Arc<Machine>, LabError> {
        let Some(spec) = self.topology.machine(name).cloned() else {
            return Err(LabError::Unknown { name: name.into(), known: self.known() });
        };
        let machine = self.boot(name)?;
        set_kernel(&machine, spec.role)?;
        let fabric = self.machine(FABRIC)?;
        plug_in(&fabric, &machine, &spec, &self.topology)?;
        configure(&machine, &spec)?;
        Ok(machine)
    }

    /// Cuts a machine's power: all that runs on it dies at once, its cables with it; its disk stays.
    pub fn kill_machine(&self, name: &str) -> Result<(), LabError> {
        let machine = self.machine(name)?;
        self.machines().remove(name);
        machine.kill();
        self.traces.forget_machine(&machine);
        // The kernel takes its network away when it has the time; until then its cables would be in the next one's way.
        if let Some(spec) = self.topology.machine(name) {
            let fabric = self.machine(FABRIC)?;
            for number in 0..spec.ports.len() {
                // It is gone already where the kernel was quicker.
                let _ = fabric.run("ip", &["link", "delete", &format!("{name}.{number}")]);
            }
        }
        let mut state = self.state();
        state.places.remove(name);
        self.directory.write_state(&state)
    }

    /// Lets `weft lab exec` find a pod by its name; its namespaces are looked for when the lab ends.
    pub fn announce(&self, pod: &Pod) -> Result<(), LabError> {
        self.traces.note_process(pod.pid());
        self.announce_as(&pod.key(), pod.pid())
    }

    /// Lets `weft lab exec` forget a pod.
    pub fn withdraw(&self, key: &str) -> Result<(), LabError> {
        let mut state = self.state();
        state.places.remove(key);
        self.directory.write_state(&state)
    }

    /// Takes everything down and looks whether anything is left; returns what was looked at.
    pub fn close(self) -> Result<Leftovers, LabError> {
        let Self { machines, traces, directory, .. } = self;
        let begun = Ticks::now()?;
        drop(machines);
        drop(directory);
        traces.after(begun)
    }

    /// Starts the machine's namespaces, without cables.
    fn boot(&self, name: &str) -> Result<Arc<Machine>, LabError> {
        let machine = Arc::new(Machine::start(name, self.tool.program(), self.directory.path())?);
        self.traces.note_machine(&machine);
        self.machines().insert(name.into(), Arc::clone(&machine));
        self.announce_as(name, machine.pid())?;
        Ok(machine)
    }

    fn announce_as(&self, name: &str, pid: i32) -> Result<(), LabError> {
        let mut state = self.state();
        state.places.insert(name.into(), pid);
        self.directory.write_state(&state)
    }

    fn known(&self) -> String {
        self.state().places.keys().cloned().collect::<Vec<_>>().join(", ")
    }

    fn machines(&self) -> std::sync::MutexGuard<'_, BTreeMap<String, Arc<Machine>>> {
        self.machines.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A bridge for each LAN.
fn lay_lans(fabric: &Machine, topology: &Topology) -> Result<(), LabError> {
    let mut batch = String::from("link set lo up\n");
    for lan in &topology.lans {
        // No learning delay, no spanning tree, and no addresses of its own.
        let _ = writeln!(batch, "link add name {} mtu {} type bridge forward_delay 0", lan.name, lan.mtu);
        let _ = writeln!(batch, "link set {} addrgenmode none up", lan.name);
    }
    ip_batch(fabric, &batch)
}

/// A cable from each of the machine's ports to its LAN.
fn plug_in(
    fabric: &Machine,
    machine: &Machine,
    spec: &MachineSpec,
    topology: &Topology,
) -> Result<(), LabError> {
    let mut batch = String::new();
    for (number, port) in spec.ports.iter().enumerate() {
        let mtu = topology.lans.iter().find(|l| l.name == port.lan).map_or(1500, |l| l.mtu);
        let (cable, end, pid) = (format!("{}.{number}", spec.name), &port.interface, machine.pid());
        // MAC addresses are chosen, because udev rewrites those that nobody chose.
        let mac = mac_of(&spec.name, number);
        let _ = writeln!(
            batch,
            "link add name {cable} mtu {mtu} type veth peer name {end} mtu {mtu} address {mac} netns {pid}"
        );
        let _ = writeln!(batch, "link set {cable} master {} addrgenmode none up", port.lan);
    }
    // Process ids are those of the lab, so only the network may be the fabric's.
    let output = fabric.enter_net(|| {
        let mut command = Command::new("ip");
        command.args(["-batch", "-"]);
        run_outside(command, &batch)
    })?;
    output.map_err(|output| LabError::Command { machine: FABRIC.into(), command: "ip -batch".into(), output })
}

fn run_outside(mut command: Command, input: &str) -> Result<(), String> {
    use std::io::Write as _;
    use std::process::Stdio;
    let mut child = command
        .stdin(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|e| format!("{e}; install it with `apt-get install iproute2`"))?;
    if let Some(mut stdin) = child.stdin.take() {
        stdin.write_all(input.as_bytes()).map_err(|e| e.to_string())?;
    }
    let output = child.wait_with_output().map_err(|e| e.to_string())?;
    if output.status.success() {
        Ok(())
    } else {
        Err(String::from_utf8_lossy(&output.stderr).trim().to_owned())
    }
}

/// Kernel settings, made before there are links that would keep the old ones.
fn set_kernel(machine: &Machine, role: Role) -> Result<(), LabError> {
    // Without the wait for duplicate addresses a machine can talk as soon as it has an address.
    // Nor is a refusal kept back: a matrix asks for more of them at once than the kernel gives a host in a second.
    let mut settings = vec![
        ("net/ipv6/conf/all/accept_dad", "0"),
        ("net/ipv6/conf/default/accept_dad", "0"),
        ("net/ipv4/icmp_ratemask", "0"),
        ("net/ipv6/icmp/ratelimit", "0"),
    ];
    if role == Role::Router {
        settings.extend([("net/ipv4/ip_forward", "1"), ("net/ipv6/conf/all/forwarding", "1")]);
    }
    machine.sysctl(&settings)
}

/// Addresses and default routes of a machine.
fn configure(machine: &Machine, spec: &MachineSpec) -> Result<(), LabError> {
    let mut batch = String::from("link set lo up\n");
    for port in &spec.ports {
        for address in &port.addresses {
            let nodad = if matches!(address, IpNet::V6(_)) { " nodad" } else { "" };
            let _ = writeln!(batch, "address add {address} dev {}{nodad}", port.interface);
        }
        let _ = writeln!(batch, "link set {} up", port.interface);
    }
    for gateway in &spec.gateways {
        let device = spec.ports.first().map_or("eth0", |p| p.interface.as_str());
        let _ = writeln!(batch, "route add default via {gateway} dev {device}");
    }
    ip_batch(machine, &batch)?;
    if spec.role == Role::Node {
        let path = machine.path("/etc/resolv.conf");
        std::fs::write(&path, "nameserver 203.0.113.10\n").map_err(LabError::file("write", path))?;
    }
    Ok(())
}

fn ip_batch(machine: &Machine, batch: &str) -> Result<(), LabError> {
    let mut command = Command::new("ip");
    command.args(["-batch", "-"]);
    let finished = machine.output(command, Net::Machine, batch.as_bytes())?;
    finished
        .success_or(|output| LabError::Command {
            machine: machine.name().into(),
            command: format!("ip -batch ({})", batch.trim().replace('\n', "; ")),
            output,
        })
        .map(drop)
}

/// A locally administered address that is the same for the same port each time (FNV-1a of its name).
fn mac_of(machine: &str, port: usize) -> String {
    let name = format!("{machine}.{port}");
    let hash = name
        .bytes()
        .fold(0xcbf2_9ce4_8422_2325_u64, |h, b| (h ^ u64::from(b)).wrapping_mul(0x0100_0000_01b3));
    let [a, b, c, d, e, ..] = hash.to_be_bytes();
    format!("02:{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}")
}
