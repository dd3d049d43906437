//! A cluster of flannel's over etcd, by each backend that Weft knows, that moves in node by node; Weft has its facts from files.

use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use weft_lab::runtime::Runtime;
use weft_lab::sandbox::in_sandbox;
use weft_lab::topology::ROUTER;
use weft_lab::{Machine, Net, Process};

use crate::flanneld::{self, Backend, CONFLIST, Flannel, configure, put};
use crate::site::{ORDERLY, Site, cache, wait};

const ETCD: &str = "http://192.0.2.1:2379";

/// The programs, where there are all.
struct Parts {
    flanneld: PathBuf,
    etcd: PathBuf,
}

impl Parts {
    fn find() -> Result<Self, String> {
        Ok(Self { flanneld: flanneld::program()?, etcd: flanneld::part("etcd")? })
    }
}

#[test]
fn a_vxlan_cluster_of_flannels_moves_in_node_by_node() {
    run("a_vxlan_cluster_of_flannels_moves_in_node_by_node", Backend::Vxlan);
}

#[test]
fn a_vxlan_cluster_of_both_families_moves_in_node_by_node() {
    run("a_vxlan_cluster_of_both_families_moves_in_node_by_node", Backend::VxlanOfBoth);
}

#[test]
fn a_host_gw_cluster_of_flannels_moves_in_node_by_node() {
    run("a_host_gw_cluster_of_flannels_moves_in_node_by_node", Backend::HostGw);
}

fn run(test: &str, backend: Backend) {
    match Parts::find() {
        Ok(parts) => in_sandbox(&format!("flannel::{test}"), move || moves_in(&parts, backend)),
        Err(reason) => println!("SKIPPED: {test}: {reason}"),
    }
}

fn moves_in(parts: &Parts, backend: Backend) {
    let site = Site::start(&format!("moving-{backend:?}").to_lowercase(), 2);
    let etcd = start_etcd(&site, parts, backend);
    let (n1, n2) = (site.node("n1"), site.node("n2"));
    let [first, second] = [&n1, &n2]
        .map(|node| flanneld::start(node, &parts.flanneld, backend, &[format!("--etcd-endpoints={ETCD}")]));
    let runtimes = [&n1, &n2].map(|node| Arc::new(Runtime::new(Arc::clone(node))));
    site.fact("00-network.yaml", &network(backend));
    site.fact("10-n1.yaml", &node("n1", &first, backend));
    site.fact("10-n2.yaml", &node("n2", &second, backend));
    let (a, b) = (site.pod(&runtimes[0], "a"), site.pod(&runtimes[1], "b"));
    cache(&n1, "cbr0", &a);
    cache(&n2, "cbr0", &b);
    flanneld::wait_for_way(&n1, &second);
    flanneld::wait_for_way(&n2, &first);
    site.all_reach_all("by flannel alone", &[&a, &b]);

    configure(&n1, CONFLIST);
    let refused = site.migrate("n1", "").expect_err("flanneld runs");
    assert!(refused.contains("flanneld runs here"), "{refused}");
    let first_agent = site.under_traffic(&a, &[&b], ORDERLY, || {
        first.stop();
        println!("{}", site.migrate("n1", "").expect("the first node moves"));
        site.start_agent("n1", &runtimes[0])
    });
    let new = site.pod(&runtimes[0], "new");
    site.all_reach_all("one node moved", &[&a, &new, &b]);
    // A pod of flannel's that comes after the first node has moved.
    let late = site.pod(&runtimes[1], "late");
    site.all_reach_all("a new pod of flannel's", &[&a, &new, &b, &late]);
    assert_eq!(first_agent.differences().expect("it compares"), Vec::<String>::new());

    let second_agent = site.under_traffic(&b, &[&a, &new], ORDERLY, || {
        second.stop();
        configure(&n2, CONFLIST);
        println!("{}", site.migrate("n2", "").expect("the second node moves"));
        site.start_agent("n2", &runtimes[1])
    });
    site.all_reach_all("both nodes moved", &[&a, &new, &b, &late]);
    // Nobody needs flannel's annotations any more: each node has published what was in them.
    for (name, flannel) in [("n1", &first), ("n2", &second)] {
        site.fact(&format!("10-{name}.yaml"), &plain(name, flannel).to_string());
    }
    std::thread::sleep(Duration::from_secs(1));
    site.all_reach_all("without annotations", &[&a, &new, &b, &late]);
    for (node, agent, flannel) in [(&n1, &first_agent, &first), (&n2, &second_agent, &second)] {
        assert_eq!(tunnel_mac(node).as_ref(), flannel.macs.first());
        let links = node.run("ip", &["-o", "link"]).expect("links can be listed");
        assert!(!links.contains("cni0") && !links.contains("flannel"), "{links}");
        assert!(!links.contains("weftx1v6"), "nobody sends to it any more: {links}");
        assert_eq!(agent.differences().expect("it compares"), Vec::<String>::new());
    }
    for pod in [a, new, b, late] {
        pod.stop().expect("DEL works");
    }
    drop((first_agent, second_agent, first, second, runtimes, n1, n2, etcd));
    println!("{}", site.lab.close().expect("nothing is left"));
}

/// The MAC of a node's tunnel end, where it has one.
fn tunnel_mac(node: &Machine) -> Option<String> {
    let read = node.run("cat", &["/sys/class/net/weftx1/address"]);
    read.ok().map(|mac| mac.trim().to_owned())
}

/// As the network is, for as long as one node is flannel's.
fn network(backend: Backend) -> String {
    let spec = match backend {
        Backend::Vxlan => {
            json!({"podCIDRs": ["10.42.0.0/16"], "overlay": "vxlan", "vni": 1, "vxlanPort": 8472})
        }
        Backend::VxlanOfBoth => {
            json!({"podCIDRs": ["10.42.0.0/16", "fd42::/48"], "overlay": "vxlan", "vni": 1, "vxlanPort": 8472})
        }
        // Only a cluster of Kubernetes' can be flannel's without IPv4.
        Backend::VxlanOfV6 => unreachable!("flannel gives out no such blocks by etcd"),
        Backend::HostGw => json!({"podCIDRs": ["10.42.0.0/16", "fd42::/48"], "overlay": "host-gw"}),
    };
    let metadata = json!({"name": "default"});
    // JSON is YAML.
    json!({"apiVersion": "weft.dev/v1", "kind": "Network", "metadata": metadata, "spec": spec}).to_string()
}

/// The addresses of a node.
fn addresses(name: &str) -> [&'static str; 2] {
    if name == "n1" { ["192.0.2.11", "2001:db8:a::b"] } else { ["192.0.2.12", "2001:db8:a::c"] }
}

/// A Node as kube-flannel would have annotated it.
fn node(name: &str, flannel: &Flannel, backend: Backend) -> String {
    let mut node = plain(name, flannel);
    let mut macs = flannel.macs.iter();
    let families = [("backend-data", "public-ip"), ("backend-v6-data", "public-ipv6")];
    let mut said =
        vec![("backend-type", backend.word().to_owned()), ("kube-subnet-manager", "true".to_owned())];
    for ((data_key, address_key), (address, _)) in
        families.into_iter().zip(addresses(name).into_iter().zip(&flannel.subnets))
    {
        let data = macs.next().map_or(Value::Null, |mac| json!({"VNI": 1, "VtepMAC": mac}));
        said.extend([(data_key, data.to_string()), (address_key, address.to_owned())]);
    }
    node["metadata"]["annotations"] = said
        .into_iter()
        .map(|(key, value)| (format!("flannel.alpha.coreos.com/{key}"), json!(value)))
        .collect();
    node.to_string()
}

/// A Node with its blocks.
fn plain(name: &str, flannel: &Flannel) -> Value {
    let addresses = addresses(name).map(|address| json!({"type": "InternalIP", "address": address}));
    json!({
        "apiVersion": "v1", "kind": "Node", "metadata": {"name": name},
        "spec": {"podCIDRs": flannel.subnets}, "status": {"addresses": addresses},
    })
}

fn start_etcd(site: &Site, parts: &Parts, backend: Backend) -> Process {
    let router = site.node(ROUTER);
    put(&router, &parts.etcd, "/opt/etcd");
    let mut command = Command::new("/opt/etcd");
    command.args(["--data-dir=/var/lib/etcd-lab", "--advertise-client-urls", ETCD, "--unsafe-no-fsync"]);
    command.arg("--listen-client-urls=http://0.0.0.0:2379").stdout(Stdio::null()).stderr(Stdio::null());
    let process = router.spawn(command, Net::Machine).expect("etcd starts");
    let body = format!(
        "{{\"key\": \"{}\", \"value\": \"{}\"}}",
        STANDARD.encode("/coreos.com/network/config"),
        STANDARD.encode(backend.config())
    );
    wait("etcd takes the configuration", || {
        router.run("curl", &["-sf", "-X", "POST", "-d", &body, "http://127.0.0.1:2379/v3/kv/put"]).is_ok()
    });
    process
}
