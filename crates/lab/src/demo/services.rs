//! Services: their addresses and node ports asked from everywhere, spread over their pods, refused where there is none.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};

use anyhow::{Context, Result, bail, ensure};
use weft_lab::matrix::Place;
use weft_lab::probe::{Outcome, Target, Transport};
use weft_lab::topology::CLIENT;

use super::cluster::Cluster;
use super::matrix;

/// The service that is asked, by HTTP and UDP (`manifests/10-web.yaml`), and its ports at nodes.
const ADDRESSES: [&str; 2] = ["10.43.0.80", "fd43::80"];
const PORTS: [(Transport, u16, u16); 2] = [(Transport::Http, 80, 30090), (Transport::Udp, 81, 30091)];
/// The pods behind it.
const PODS: [&str; 3] = ["shop/web-1", "shop/web-2", "shop/web-3"];
/// A service that no pod is behind (`manifests/10-web.yaml`).
const EMPTY: &str = "10.43.0.99";
/// An address in the services' block that is nobody's.
const NOBODY: &str = "10.43.0.254";
/// Questions to each target: often enough that one of three pods is missed once in 10^11.
const TIMES: usize = 64;
/// A refusal comes at once: far under the second after which a TCP client tries again.
const AT_ONCE_MS: u64 = 500;

/// Step: services as the application sees them.
pub fn services(cluster: &mut Cluster) -> Result<String> {
    let places = matrix::places(cluster)?;
    let lab = cluster.lab()?;
    let node_ports = |name: &str| -> Result<Vec<SocketAddr>> {
        let machine = lab.topology().machine(name).with_context(|| format!("there is no {name}"))?;
        let all = machine.addresses().flat_map(|ip| PORTS.map(|(.., port)| SocketAddr::new(ip, port)));
        Ok(all.collect())
    };
    let mut virtual_addresses = Vec::new();
    for address in ADDRESSES {
        let ip: IpAddr = address.parse()?;
        virtual_addresses.extend(PORTS.map(|(_, port, _)| SocketAddr::new(ip, port)));
    }
    let mut answers = 0;
    for name in [CLIENT, "n1", "n3", "tools/probe-1", "shop/web-1", "shop/db-1"] {
        let place = places.iter().find(|p| p.name == name).with_context(|| format!("there is no {name}"))?;
        let mut asked: Vec<SocketAddr> = node_ports("n1")?.into_iter().chain(node_ports("n3")?).collect();
        if name != CLIENT {
            // The way to virtual addresses is the cluster's own business.
            asked.extend(&virtual_addresses);
        }
        for address in asked {
            answers += spread(cluster, place, address)?;
        }
    }
    let refused = refusals(cluster, &places)?;
    Ok(format!(
        "{answers} answers of {} pods to outside, nodes and pods, each target spread over all; {refused}",
        PODS.len()
    ))
}

/// Asks one target until each pod must have answered.
fn spread(cluster: &Cluster, place: &Place, address: SocketAddr) -> Result<usize> {
    let transport =
        PORTS.iter().find(|(_, port, node)| [*port, *node].contains(&address.port())).context("no port")?.0;
    let targets = vec![Target::new(transport, address); TIMES];
    let mut heard: BTreeMap<String, usize> = BTreeMap::new();
    for outcome in place.probe(cluster.lab()?.tool(), &targets)? {
        let Some(greeting) = outcome.greeting() else {
            bail!("{} → {transport} {address}: {outcome:?}", place.name);
        };
        *heard.entry(greeting.name.clone()).or_default() += 1;
    }
    let names: BTreeSet<&str> = heard.keys().map(String::as_str).collect();
    ensure!(names == BTreeSet::from(PODS), "{} → {transport} {address}: answers of {heard:?}", place.name);
    Ok(TIMES)
}

/// A service without pods refuses at once, and what is no service gets no answer at all.
fn refusals(cluster: &Cluster, places: &[Place]) -> Result<String> {
    let empty = PORTS.map(|(transport, port, _)| {
        let target =
            Target::new(transport, SocketAddr::new(EMPTY.parse().unwrap_or(IpAddr::from([0; 4])), port));
        Target { patience_ms: AT_ONCE_MS, ..target }
    });
    let nobody = Target::new(Transport::Http, SocketAddr::new(NOBODY.parse()?, 80));
    let nobody = Target { patience_ms: AT_ONCE_MS, ..nobody };
    for name in ["n1", "tools/probe-1"] {
        let place = places.iter().find(|p| p.name == name).with_context(|| format!("there is no {name}"))?;
        let targets = [&empty[..], std::slice::from_ref(&nobody)].concat();
        let outcomes = place.probe(cluster.lab()?.tool(), &targets)?;
        for (target, outcome) in targets.iter().zip(&outcomes) {
            let (transport, address) = (target.transport, target.address);
            let right = match outcome {
                Outcome::Refused(_) => address.ip() != nobody.address.ip(),
                // A process of the node learns at once that its datagram was refused; from a drop it learns nothing.
                Outcome::Silent => address.ip() == nobody.address.ip(),
                Outcome::Answered { .. } => false,
            };
            // The node's own packets are dropped before they leave, which its sockets are told.
            let own_drop = place.name == "n1" && address.ip() == nobody.address.ip();
            ensure!(
                right || (own_drop && matches!(outcome, Outcome::Refused(_))),
                "{name} → {transport} {address}: {outcome:?}"
            );
        }
    }
    Ok("one without pods refuses at once, and an address that is no service's is dropped".into())
}
