//! A service's SCTP port with real packets: from the node, and from a pod beside the endpoint.

use std::fs::File;
use std::io::{self, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsRawFd, OwnedFd};
use std::thread::JoinHandle;
use std::time::Duration;

use nix::sched::{CloneFlags, setns};
use nix::sys::socket::{
    AddressFamily, Backlog, SockFlag, SockProtocol, SockType, SockaddrStorage, bind, connect, listen,
    setsockopt, socket, sockopt,
};
use nix::sys::time::{TimeVal, TimeValLike};
use serde_json::{Value, json};

use crate::node::{Node, sh};
use crate::restart::eventually;

/// The service's port, and the endpoint's.
const PORT: u16 = 36_412;
const TARGET: u16 = 36_500;
const SERVICE: [&str; 2] = ["10.96.0.77", "fd00:96::77"];

/// A socket of the kind that TCP's system calls work with (RFC 6458, section 4).
fn sctp(address: IpAddr) -> io::Result<OwnedFd> {
    let family = if address.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    let socket = socket(family, SockType::Stream, SockFlag::SOCK_CLOEXEC, SockProtocol::Sctp)?;
    // Associations are tried for a minute otherwise.
    let patience = TimeVal::seconds(2);
    setsockopt(&socket, sockopt::SendTimeout, &patience)?;
    Ok(socket)
}

/// Runs `work` in a pod's namespace, in a thread that ends there.
fn in_pod<T: Send + 'static>(pod: &str, work: impl FnOnce() -> T + Send + 'static) -> JoinHandle<T> {
    let namespace = File::open(format!("/run/netns/{pod}")).unwrap();
    std::thread::spawn(move || {
        setns(namespace, CloneFlags::CLONE_NEWNET).unwrap();
        work()
    })
}

/// Answers one association after the other with the client's address.
fn serve(pod: &str, address: IpAddr) {
    let server = in_pod(pod, move || {
        let socket = sctp(address).unwrap();
        bind(socket.as_raw_fd(), &SockaddrStorage::from(SocketAddr::new(address, TARGET))).unwrap();
        listen(&socket, Backlog::new(8).unwrap()).unwrap();
        TcpListener::from(socket)
    });
    let listener = server.join().unwrap();
    std::thread::spawn(move || {
        while let Ok((mut stream, from)) = listener.accept() {
            // A client that has gone is no news.
            let _ = stream.write_all(from.ip().to_string().as_bytes());
        }
    });
}

/// Who the endpoint says that we are.
fn ask(service: IpAddr) -> io::Result<String> {
    let socket = sctp(service)?;
    connect(socket.as_raw_fd(), &SockaddrStorage::from(SocketAddr::new(service, PORT)))?;
    let mut stream = TcpStream::from(socket);
    stream.set_read_timeout(Some(Duration::from_secs(2)))?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    Ok(text)
}

fn addresses(result: &Value) -> [IpAddr; 2] {
    [0, 1].map(|n| result["ips"][n]["address"].as_str().unwrap().split('/').next().unwrap().parse().unwrap())
}

fn objects(endpoints: [IpAddr; 2]) -> String {
    let service = json!({
        "apiVersion": "v1", "kind": "Service", "metadata": {"namespace": "default", "name": "core"},
        "spec": {"clusterIPs": SERVICE, "ipFamilies": ["IPv4", "IPv6"],
                 "ports": [{"name": "ngap", "protocol": "SCTP", "port": PORT, "targetPort": TARGET}]},
    });
    let slice = |endpoint: IpAddr| {
        let family = if endpoint.is_ipv4() { "IPv4" } else { "IPv6" };
        json!({
            "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": family,
            "metadata": {"namespace": "default", "name": format!("core-{}", family.to_lowercase()),
                         "labels": {"kubernetes.io/service-name": "core"}},
            "endpoints": [{"addresses": [endpoint], "nodeName": "n1"}],
            "ports": [{"name": "ngap", "protocol": "SCTP", "port": TARGET}],
        })
    };
    [service, slice(endpoints[0]), slice(endpoints[1])].map(|object| object.to_string()).join("\n---\n")
}

#[test]
fn a_services_sctp_port_leads_to_its_endpoint() {
    let Some(mut node) = Node::new() else { return };
    if let Err(error) = sctp([127, 0, 0, 1].into()) {
        println!(
            "SKIPPED: a_services_sctp_port_leads_to_its_endpoint: this kernel has no SCTP ({error}); \
             `cargo xtask test --guest` boots one that has"
        );
        return;
    }
    sh("ip address add 2001:db8::1/64 dev eth0 nodad; ip -6 route add default via 2001:db8::fe");
    node.start(None);
    let server = addresses(&node.add("server").unwrap());
    let client = addresses(&node.add("client").unwrap());
    for address in server {
        serve("server", address);
    }
    let new = node.path("cluster/.core.new");
    std::fs::write(&new, objects(server)).unwrap();
    std::fs::rename(new, node.path("cluster/core.yaml")).unwrap();
    for (service, client) in SERVICE.map(|address| address.parse::<IpAddr>().unwrap()).into_iter().zip(client)
    {
        eventually(&format!("{service} answers the node"), || {
            ask(service).is_ok_and(|text| !text.is_empty())
        });
        let heard = in_pod("client", move || ask(service)).join().unwrap();
        assert_eq!(heard.unwrap(), client.to_string(), "a pod is known by its own address");
    }
}
