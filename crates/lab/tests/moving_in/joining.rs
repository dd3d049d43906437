//! A cluster of flannel's under Kubernetes' API server, which a node that has Weft alone joins, and which then moves in: flannel's nodes
//! know that node by the annotations that it publishes in flannel's words, for as long as one of them is left.
//!
//! API server and etcd are real, and alone: Nodes are written as a kubelet would register them.

use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::Arc;

use serde_json::{Value, json};
use weft_lab::runtime::Runtime;
use weft_lab::sandbox::in_sandbox;
use weft_lab::topology::ROUTER;
use weft_lab::{Machine, Net, Process};

use crate::flanneld::{self, Backend, CONFLIST, configure, part, put};
use crate::site::{ORDERLY, Site, cache, wait};

const SERVER: &str = "https://192.0.2.1:6443";
/// A user who may do everything, by a token.
const TOKEN: &str = "admin-token";
const KUBECONFIG: &str = "/etc/kubeconfig";
/// The certificate that the server makes for itself, as the router and as nodes have it.
const AUTHORITY: [&str; 2] = ["/var/lib/apiserver/apiserver.crt", "/etc/ca.crt"];
/// Where on a Node flannel's annotations are.
const MANAGED: &str = "flannel.alpha.coreos.com/kube-subnet-manager";

struct Parts {
    flanneld: PathBuf,
    etcd: PathBuf,
    server: PathBuf,
}

#[test]
fn a_node_of_ours_joins_a_flannel_cluster_and_this_moves_in() {
    run("a_node_of_ours_joins_a_flannel_cluster_and_this_moves_in", Backend::Vxlan);
}

/// `EnableIPv4: false`: one tunnel, of IPv6, and annotations of that family alone.
#[test]
fn a_node_of_ours_joins_a_flannel_cluster_without_ipv4_and_this_moves_in() {
    run("a_node_of_ours_joins_a_flannel_cluster_without_ipv4_and_this_moves_in", Backend::VxlanOfV6);
}

fn run(test: &str, backend: Backend) {
    let find =
        || Ok(Parts { flanneld: flanneld::program()?, etcd: part("etcd")?, server: part("kube-apiserver")? });
    match find() {
        Ok(parts) => in_sandbox(&format!("joining::{test}"), move || joins(&parts, backend)),
        Err::<_, String>(reason) => println!("SKIPPED: {test}: {reason}"),
    }
}

fn joins(parts: &Parts, backend: Backend) {
    let network = json!({"name": "default", "podCIDRs": [backend.cluster()], "overlay": "vxlan", "vni": 1, "vxlanPort": 8472});
    let site = Site::start_with(
        &format!("joined-{backend:?}").to_lowercase(),
        3,
        &json!({"kubernetes": {"kubeconfig": KUBECONFIG, "networks": [network]}}),
    );
    let cluster = Cluster::start(&site, parts);
    let nodes = [1, 2, 3].map(|number| site.node(&format!("n{number}")));
    for (node, number) in nodes.iter().zip(1..) {
        cluster.register(node, number, backend);
    }
    let [n1, n2, _] = &nodes;
    let arguments = [
        "--kube-subnet-mgr".into(),
        format!("--kubeconfig-file={KUBECONFIG}"),
        "--net-config-path=/etc/net-conf.json".into(),
    ];
    let [first, second] = [n1, n2].map(|node| {
        std::fs::write(node.path("/etc/net-conf.json"), backend.config()).expect("it can be written");
        flanneld::start(node, &parts.flanneld, backend, &arguments)
    });
    let runtimes = nodes.each_ref().map(|node| Arc::new(Runtime::new(Arc::clone(node))));
    let (a, b) = (site.pod(&runtimes[0], "a"), site.pod(&runtimes[1], "b"));
    cache(n1, "cbr0", &a);
    cache(n2, "cbr0", &b);
    flanneld::wait_for_way(n1, &second);
    flanneld::wait_for_way(n2, &first);
    site.all_reach_all("by flannel alone", &[&a, &b]);

    // Flannel's nodes know nothing of it but by its annotations.
    let third_agent = site.start_agent("n3", &runtimes[2]);
    let c = site.pod(&runtimes[2], "c");
    site.all_reach_all("a node has joined", &[&a, &b, &c]);
    let said = cluster.annotations("n3");
    assert_eq!(said[MANAGED], "true", "{said}");
    let theirs = cluster.flannels("n1");

    let first_agent = site.under_traffic(&a, &[&b, &c], ORDERLY, || {
        configure(n1, CONFLIST);
        first.stop();
        println!("{}", site.migrate("n1", "").expect("the first node moves"));
        site.start_agent("n1", &runtimes[0])
    });
    let new = site.pod(&runtimes[0], "new");
    site.all_reach_all("one node moved", &[&a, &b, &c, &new]);
    assert_eq!(cluster.flannels("n1"), theirs, "what flannel wrote of a node that moved");
    assert_eq!(cluster.annotations("n3")[MANAGED], "true", "one node is flannel's yet");

    let second_agent = site.under_traffic(&b, &[&a, &c], ORDERLY, || {
        configure(n2, CONFLIST);
        second.stop();
        println!("{}", site.migrate("n2", "").expect("the second node moves"));
        site.start_agent("n2", &runtimes[1])
    });
    wait("what was said to flannel is taken back", || cluster.flannels("n3") == json!({}));
    assert!(cluster.annotations("n3").get("weft.dev/flannel").is_none());
    site.all_reach_all("all have moved", &[&a, &b, &c, &new]);
    for agent in [&first_agent, &second_agent, &third_agent] {
        assert_eq!(agent.differences().expect("it compares"), Vec::<String>::new());
    }
    for pod in [a, b, c, new] {
        pod.stop().expect("DEL works");
    }
    drop((first_agent, second_agent, third_agent, first, second, runtimes, nodes, cluster));
    println!("{}", site.lab.close().expect("nothing is left"));
}

/// etcd and an API server on the router.
struct Cluster {
    router: Arc<Machine>,
    _processes: [Process; 2],
}

impl Cluster {
    /// Starts both, and gives each node what it needs to ask.
    fn start(site: &Site, parts: &Parts) -> Self {
        let router = site.node(ROUTER);
        put(&router, &parts.etcd, "/opt/etcd");
        put(&router, &parts.server, "/opt/kube-apiserver");
        std::fs::write(router.path("/etc/tokens.csv"), format!("{TOKEN},admin,1,system:masters\n"))
            .expect("it can be written");
        let etcd = "http://127.0.0.1:2379";
        let spawn = |program: &str, arguments: &[&str]| {
            let log =
                std::fs::File::create(router.path(&format!("/run/{program}.log"))).expect("it can be made");
            let mut command = Command::new(format!("/opt/{program}"));
            command.args(arguments).stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).current_dir("/");
            router.spawn(command, Net::Machine).expect("it starts")
        };
        let processes = [
            spawn(
                "etcd",
                &[
                    "--data-dir=/var/lib/etcd-lab",
                    "--unsafe-no-fsync",
                    "--advertise-client-urls",
                    etcd,
                    "--listen-client-urls",
                    etcd,
                ],
            ),
            spawn(
                "kube-apiserver",
                &[
                    "--etcd-servers",
                    etcd,
                    "--service-cluster-ip-range=10.43.0.0/16",
                    "--cert-dir=/var/lib/apiserver",
                    "--service-account-issuer=https://kubernetes.default.svc",
                    "--service-account-key-file=/var/lib/apiserver/apiserver.key",
                    "--service-account-signing-key-file=/var/lib/apiserver/apiserver.key",
                    "--token-auth-file=/etc/tokens.csv",
                    "--authorization-mode=RBAC",
                    "--bind-address=0.0.0.0",
                    "--advertise-address=192.0.2.1",
                    "--disable-admission-plugins=ServiceAccount",
                ],
            ),
        ];
        let cluster = Self { router, _processes: processes };
        wait("the API server serves", || cluster.ask("GET", "/readyz", None).is_ok());
        let known = std::fs::read(cluster.router.path(AUTHORITY[0])).expect("the server has a certificate");
        for node in site.lab.nodes() {
            std::fs::write(node.path(AUTHORITY[1]), &known).expect("it can be written");
            std::fs::write(node.path(KUBECONFIG), kubeconfig()).expect("it can be written");
        }
        cluster
    }

    /// Registers a node as its kubelet would, with the block that a controller gives it.
    fn register(&self, node: &Machine, number: u8, backend: Backend) {
        let (block, address) = match backend {
            Backend::VxlanOfV6 => {
                (format!("fd42:0:0:{number}::/64"), format!("2001:db8:a::{:x}", 10 + number))
            }
            _ => (format!("10.42.{number}.0/24"), format!("192.0.2.{}", 10 + number)),
        };
        // Kubelets write this one; flannel can't write on a Node that has none.
        let annotations = json!({"volumes.kubernetes.io/controller-managed-attach-detach": "true"});
        let object = json!({
            "apiVersion": "v1", "kind": "Node", "metadata": {"name": node.name(), "annotations": annotations},
            "spec": {"podCIDR": block, "podCIDRs": [block]},
            "status": {"addresses": [{"type": "InternalIP", "address": address}]},
        });
        self.ask("POST", "/api/v1/nodes", Some(&object)).expect("it can be registered");
    }

    fn annotations(&self, node: &str) -> Value {
        let object = self.ask("GET", &format!("/api/v1/nodes/{node}"), None).expect("there is such a node");
        let object: Value = serde_json::from_str(&object).expect("it is JSON");
        object["metadata"]["annotations"].clone()
    }

    /// Those of flannel's.
    fn flannels(&self, node: &str) -> Value {
        let all = self.annotations(node);
        let all = all.as_object().into_iter().flatten();
        all.filter(|(key, _)| key.starts_with("flannel."))
            .map(|(key, value)| (key.clone(), value.clone()))
            .collect()
    }

    fn ask(&self, method: &str, path: &str, body: Option<&Value>) -> Result<String, weft_lab::LabError> {
        let (authorization, url) = (format!("Authorization: Bearer {TOKEN}"), format!("{SERVER}{path}"));
        let mut arguments =
            vec!["-skf", "-X", method, "-H", &authorization, "-H", "Content-Type: application/json"];
        let text = body.map(Value::to_string);
        arguments.extend(text.iter().flat_map(|text| ["-d", text]));
        arguments.push(&url);
        self.router.run("curl", &arguments)
    }
}

fn kubeconfig() -> String {
    json!({
        "apiVersion": "v1", "kind": "Config", "current-context": "lab",
        "clusters": [{"name": "lab", "cluster": {"server": SERVER, "certificate-authority": AUTHORITY[1]}}],
        "users": [{"name": "lab", "user": {"token": TOKEN}}],
        "contexts": [{"name": "lab", "context": {"cluster": "lab", "user": "lab"}}],
    })
    .to_string()
}
