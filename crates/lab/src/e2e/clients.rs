//! What users of a cluster do all day: a small shop, and their ways into it.

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;
use weft_lab::kubernetes::Kubectl;

use super::rig::Rig;
use super::weft::is_ready;

const SHOP: &str = include_str!("clients.yaml");
/// How long the shop's pods may take to be ready, and anything else to answer.
const PATIENCE: Duration = Duration::from_secs(120);
/// How long one connection may take.
const CONNECT: Duration = Duration::from_secs(2);
/// Where `kubectl port-forward` listens.
const FORWARDED: u16 = 18080;

/// Step: the shop's pods, with their probes.
pub fn probes(rig: &mut Rig) -> Result<String> {
    let kubectl = rig.kubectl();
    kubectl.apply(SHOP)?;
    let count = shop_is_ready(&kubectl)?;
    // A probe that fails now and then restarts its container after four seconds.
    std::thread::sleep(Duration::from_secs(6));
    let pods = pods(&kubectl, "shop")?;
    let restarts: u64 = pods.iter().map(restarts).sum();
    ensure!(restarts == 0, "{restarts} restarts by probes");
    Ok(format!("{count} pods ready, none restarted"))
}

/// Waits until every pod of the shop is ready; returns how many there are.
pub fn shop_is_ready(kubectl: &Kubectl) -> Result<usize> {
    Ok(kubectl.wait("the shop", PATIENCE, || {
        let pods = pods(kubectl, "shop").map_err(|e| e.to_string())?;
        let waiting: Vec<String> = pods.iter().filter(|pod| !is_ready(pod)).map(name).collect();
        // Four of the web server, two of the set, the door and the client.
        if waiting.is_empty() && pods.len() == 8 {
            return Ok(pods.len());
        }
        Err(format!("{} pods, not ready: {}", pods.len(), waiting.join(" ")))
    })?)
}

/// A namespace's pods.
pub fn pods(kubectl: &Kubectl, namespace: &str) -> Result<Vec<Value>> {
    let list = kubectl.get(&["pods", "-n", namespace])?;
    Ok(list["items"].as_array().cloned().unwrap_or_default())
}

fn name(object: &Value) -> String {
    object["metadata"]["name"].as_str().unwrap_or_default().to_owned()
}

/// How often a pod's containers were started again.
pub fn restarts(pod: &Value) -> u64 {
    let containers = pod["status"]["containerStatuses"].as_array().into_iter().flatten();
    containers.filter_map(|status| status["restartCount"].as_u64()).sum()
}

/// Runs a shell command in the client's pod.
pub fn in_client(kubectl: &Kubectl, command: &str) -> Result<String> {
    Ok(kubectl.run(&["exec", "-n", "shop", "client", "--", "sh", "-c", command])?)
}

/// Step: `kubectl exec`, and through it names and services as a pod sees them.
pub fn names_and_services(rig: &mut Rig) -> Result<String> {
    let kubectl = rig.kubectl();
    let mut seen = std::collections::BTreeSet::new();
    for _ in 0..24 {
        seen.insert(in_client(&kubectl, "curl -sS -m 2 http://web/hostname")?);
    }
    ensure!(seen.len() == 4, "24 requests reached only {seen:?}");
    for index in 0..2 {
        let host = format!("db-{index}");
        let answer = in_client(&kubectl, &format!("curl -sS -m 2 http://{host}.db:8080/hostname"))?;
        ensure!(answer.trim() == host, "{host}.db answers as {answer:?}");
    }
    let version = in_client(&kubectl, "curl -sSk -m 2 https://kubernetes.default/version")?;
    ensure!(version.contains("gitVersion"), "the API server says {version:?}");
    Ok("a service by name, a set's members by theirs, the API server by its own".into())
}

/// Step: `kubectl port-forward`.
pub fn port_forward(rig: &mut Rig) -> Result<String> {
    let kubectl = rig.kubectl();
    let forward =
        kubectl.start(&["port-forward", "-n", "shop", "service/web", &format!("{FORWARDED}:80")])?;
    let answer = kubectl.wait("the forwarded port", PATIENCE, || {
        let to = SocketAddr::from(([127, 0, 0, 1], FORWARDED));
        get(&kubectl, to, "/hostname").map_err(|e| format!("{e:#}"))
    })?;
    ensure!(forward.is_running(), "kubectl port-forward ended by itself");
    ensure!(answer.starts_with("web-"), "{answer:?} answered");
    Ok(format!("{answer} answered"))
}

/// Step: a pod's port on its node, and a service's on every node, from outside the cluster.
pub fn ports_of_nodes(rig: &mut Rig) -> Result<String> {
    let kubectl = rig.kubectl();
    let door = SocketAddr::new(rig.cluster().address("n2")?, 8088);
    let answer = eventually(&kubectl, door)?;
    ensure!(answer == "door", "{answer:?} answered at the door");
    let nodes = rig.cluster().node_names();
    for node in &nodes {
        let address = rig.cluster().address(node)?;
        let answer = eventually(&kubectl, SocketAddr::new(address, 30080))?;
        ensure!(answer.starts_with("web-"), "{answer:?} answered at {node}'s port");
    }
    Ok(format!("a host port on n2, a node port on {}", nodes.join(" and ")))
}

fn eventually(kubectl: &Kubectl, to: SocketAddr) -> Result<String> {
    Ok(kubectl
        .wait(&to.to_string(), PATIENCE, || get(kubectl, to, "/hostname").map_err(|e| format!("{e:#}")))?)
}

/// Asks an HTTP server from the control plane's machine; returns the answer's body.
fn get(kubectl: &Kubectl, to: SocketAddr, path: &str) -> Result<String> {
    kubectl.machine().enter_net(|| exchange(to, path))?
}

/// One request over a connection of its own. By HTTP/1.0, whose answers come in one piece: since then they may come in chunks, with
/// a line of its length in front of each, in the middle of a number too.
pub fn exchange(to: SocketAddr, path: &str) -> Result<String> {
    let mut stream =
        TcpStream::connect_timeout(&to, CONNECT).with_context(|| format!("can't connect to {to}"))?;
    stream.set_read_timeout(Some(CONNECT)).context("can't set a time limit")?;
    write!(stream, "GET {path} HTTP/1.0\r\nHost: {to}\r\nConnection: close\r\n\r\n").context("can't ask")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).context("no answer")?;
    match answer.split_once("\r\n\r\n") {
        Some((head, body)) if head.split(' ').nth(1) == Some("200") => Ok(body.trim().to_owned()),
        _ => bail!("{to} answered {:?}", answer.lines().next().unwrap_or_default()),
    }
}

/// Addresses of the pods of a list that aren't on their node's network.
pub fn addresses(pods: &[Value]) -> Vec<IpAddr> {
    let own = pods.iter().filter(|pod| pod["spec"]["hostNetwork"] != true);
    own.filter_map(|pod| pod["status"]["podIP"].as_str()?.parse().ok()).collect()
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead, BufReader};
    use std::net::TcpListener;

    use super::*;

    #[test]
    fn a_server_that_may_answer_in_chunks_is_understood() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let to = listener.local_addr().unwrap();
        let server = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let lines = BufReader::new(stream.try_clone().unwrap()).lines();
            let asked: Vec<String> = lines.map(Result::unwrap).take_while(|line| !line.is_empty()).collect();
            let answer = if asked[0].ends_with("HTTP/1.1") {
                "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n8\r\ncount 10\r\n2\r\n0\n\r\n0\r\n\r\n"
            } else {
                "HTTP/1.0 200 OK\r\nConnection: close\r\n\r\ncount 100\n"
            };
            stream.write_all(answer.as_bytes()).unwrap();
        });
        assert_eq!(exchange(to, "/v1/metrics").unwrap(), "count 100");
        server.join().unwrap();
    }
}
