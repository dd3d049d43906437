//! One node of the benchmark: a client's namespace, and one behind it that stands for all endpoints' pods.
//!
//! The second one has the whole block of endpoints as local addresses, hangs on the node by a routed cable of its own, and
//! answers each connection with the address at which it was reached. It is made by hand on every side alike.

use std::fs::File;
use std::io::Write;
use std::net::{IpAddr, Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result, anyhow};
use nix::sched::{CloneFlags, setns};
use socket2::{Domain, SockRef, Socket, Type};
use weft_lab::{Lab, Machine, Net};

use super::super::dataplane::stay_on;
use super::objects::{ENDPOINTS, TARGET_PORT};

/// A node with its client and its endpoints.
pub struct Place {
    pub machine: Arc<Machine>,
    client: File,
    listener: TcpListener,
}

/// Name of the client's namespace.
pub const CLIENT: &str = "client";
const BACKEND: &str = "backend";
/// The client that is connected by hand.
const CLIENT_ADDRESS: Ipv4Addr = Ipv4Addr::new(10, 42, 0, 2);

impl Place {
    /// Lays the endpoints' cable on a machine that has a namespace `client` already, and starts to answer.
    pub fn around_client(machine: &Arc<Machine>) -> Result<Self> {
        machine.sysctl(&[("net/ipv4/ip_forward", "1")])?;
        cable(machine, BACKEND, Ipv4Addr::new(10, 80, 0, 1))?;
        machine.run("ip", &["route", "add", ENDPOINTS, "dev", "h-backend", "via", "10.80.0.1", "onlink"])?;
        inside(machine, BACKEND, &format!("route add local {ENDPOINTS} dev lo\n"))?;
        let backend = namespace(machine, BACKEND)?;
        let listener = enter(&backend, listen)??;
        let accepting = listener.try_clone().context("can't share the listener")?;
        std::thread::spawn(move || answer_all(&accepting));
        Ok(Self { machine: Arc::clone(machine), client: namespace(machine, CLIENT)?, listener })
    }

    /// Makes the client as well, by hand.
    pub fn by_hand(machine: &Arc<Machine>) -> Result<Self> {
        cable(machine, CLIENT, CLIENT_ADDRESS)?;
        Self::around_client(machine)
    }

    /// Runs `work` in a thread in the client's network, on the first processor.
    pub fn in_client<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Result<T> {
        enter(&self.client, || {
            stay_on(0);
            work()
        })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        // It fails where there is nothing to wake any more.
        let _ = SockRef::from(&self.listener).shutdown(Shutdown::Both);
    }
}

/// A node's IPv4 address on its LAN.
pub fn node_address(lab: &Lab, machine: &str) -> Result<Ipv4Addr> {
    let addresses = lab.topology().machine(machine).map(|spec| spec.addresses().collect::<Vec<_>>());
    let v4 = addresses.into_iter().flatten().find_map(|address| match address {
        IpAddr::V4(v4) => Some(v4),
        IpAddr::V6(_) => None,
    });
    v4.with_context(|| format!("{machine} has no IPv4 address"))
}

fn namespace(machine: &Machine, name: &str) -> Result<File> {
    let path = machine.path(&format!("/run/netns/{name}"));
    File::open(&path).with_context(|| format!("can't open {}", path.display()))
}

fn enter<T: Send>(namespace: &File, work: impl FnOnce() -> T + Send) -> Result<T> {
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| setns(namespace, CloneFlags::CLONE_NEWNET).map(|()| work()));
        thread.join().map_err(|_| anyhow!("a thread of the benchmark panicked"))
    })?
    .context("can't enter a namespace")
}

/// A namespace on a routed veth pair, as careful people type it.
fn cable(machine: &Machine, name: &str, address: Ipv4Addr) -> Result<()> {
    machine.run("ip", &["netns", "add", name])?;
    let host = format!(
        "link add name h-{name} type veth peer name eth0 netns {name}\nlink set h-{name} up\n\
         address add 169.254.1.1/32 dev h-{name}\nroute add {address}/32 dev h-{name}\n"
    );
    machine.run_with_input("ip", &["-batch", "-"], &host)?;
    let pod = format!(
        "link set lo up\naddress add {address}/32 dev eth0\nlink set eth0 up\n\
         route add 169.254.1.1/32 dev eth0\nroute add default via 169.254.1.1 dev eth0\n"
    );
    inside(machine, name, &pod)
}

fn inside(machine: &Machine, name: &str, batch: &str) -> Result<()> {
    let mut command = std::process::Command::new("ip");
    command.args(["-batch", "-"]);
    let netns = Path::new("/run/netns").join(name);
    let finished = machine.output(command, Net::At(&netns), batch.as_bytes())?;
    finished.success_or(|output| anyhow!("ip -batch in {name}: {output}"))?;
    Ok(())
}

fn listen() -> Result<TcpListener> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).context("can't make a socket")?;
    let address = SocketAddr::from((Ipv4Addr::UNSPECIFIED, TARGET_PORT));
    socket.bind(&address.into()).with_context(|| format!("can't bind {address}"))?;
    socket.listen(4096).with_context(|| format!("can't listen at {address}"))?;
    Ok(socket.into())
}

/// Tells each client where it has arrived, until the listener is shut down.
fn answer_all(listener: &TcpListener) {
    stay_on(1);
    loop {
        match listener.accept() {
            // Most clients are gone by now: they measure the handshake, and want no answer.
            Ok((stream, _)) => drop(tell(&stream)),
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionAborted => {}
            Err(_) => return,
        }
    }
}

fn tell(mut stream: &TcpStream) -> std::io::Result<()> {
    if let IpAddr::V4(address) = stream.local_addr()?.ip() {
        stream.write_all(&address.octets())?;
    }
    Ok(())
}
