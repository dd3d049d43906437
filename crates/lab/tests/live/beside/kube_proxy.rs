//! kube-proxy on a node whose services are Weft's: both program the same ones. It comes, falls behind, dies, is cleaned up,
//! takes over where Weft stands aside, and gives back. Nobody who asks notices any of it, and connections last.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use weft_lab::api_server::{ApiServer, Collection};
use weft_lab::kube_proxy::{KubeProxy, Mode};
use weft_lab::sandbox::in_sandbox;
use weft_lab::{Process, Topology};

use super::super::rig::{Rig, Settings, is_in_force, wait};
use super::super::switched::{Services, left, serves, turn};
use super::services::{By, NODE, Offer, Sort, forget_datagrams, objections, offers, tell};
use super::{Lasting, peers, place};

/// A folder with a Kubernetes' programs.
const PROGRAMS: &str = "WEFT_KUBERNETES_BIN";
const ON_NODE: &str = "/opt/kube-proxy";
const SLICES: &str = "/apis/discovery.k8s.io/v1/endpointslices";

#[test]
fn in_nftables_mode() {
    beside("beside::kube_proxy::in_nftables_mode", Mode::Nftables);
}

#[test]
fn in_iptables_mode() {
    beside("beside::kube_proxy::in_iptables_mode", Mode::Iptables);
}

/// The program, where there is one.
fn program() -> Option<PathBuf> {
    let named = std::env::var_os(PROGRAMS).map(|folder| PathBuf::from(folder).join("kube-proxy"));
    let built = |folder: &Path| {
        let entries = std::fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path());
        let mut found: Vec<PathBuf> =
            entries.filter(|path| path.to_string_lossy().contains("/kube-proxy-")).collect();
        found.sort();
        found.pop()
    };
    named.filter(|path| path.exists()).or_else(|| built(&peers()))
}

fn beside(test: &str, mode: Mode) {
    let _alone = super::super::alone();
    let Some(program) = program() else {
        println!(
            "SKIPPED: {test}: no kube-proxy: `cargo xtask kubernetes` builds one, or name a folder in {PROGRAMS}"
        );
        return;
    };
    in_sandbox(test, || {
        let settings = Settings { overlay: "auto", shape: "island" };
        let name = format!("beside-{}", mode.word());
        let rig = Rig::start(&name, Topology::one_link(3), settings);
        super::super::generated::to_services_by(&rig, NODE);
        let mut course = Course::prepare(rig, &program, mode);
        course.it_comes_and_goes();
        course.weft_stands_aside();
        course.weft_comes_back();
        let Course { rig, process, lasting, .. } = course;
        drop(process);
        lasting.into_iter().for_each(Lasting::end);
        rig.stop();
    });
}

/// A run.
struct Course {
    rig: Rig,
    offers: Vec<Offer>,
    proxy: KubeProxy,
    server: ApiServer,
    process: Option<Process>,
    lasting: Vec<Lasting>,
}

impl Course {
    fn prepare(rig: Rig, program: &Path, mode: Mode) -> Self {
        let offers = offers();
        tell(&rig, &offers);
        let node = rig.lab.machine(NODE).expect("it runs");
        let server = ApiServer::start(&node, &collections(&rig, &offers)).expect("it can be served");
        // A machine doesn't see every folder of the real one.
        std::fs::copy(program, node.path(ON_NODE)).expect("the program can be copied");
        let proxy = KubeProxy { program: ON_NODE.into(), mode, pods: "10.42.0.0/16,fd42::/48" };
        let course = Self { rig, offers, proxy, server, process: None, lasting: Vec::new() };
        course.wait_in_force();
        course
    }

    /// All of Weft's plan is in the kernels, the services as they are told last included.
    fn wait_in_force(&self) {
        let sign = |offer: &Offer| match offer.sort {
            Sort::Plain => offer.endpoints.len(),
            _ => 0,
        };
        let [plain, _] = super::super::objects::cluster_ips(Sort::Plain as u16);
        let endpoints: usize = self.offers.iter().map(sign).sum();
        wait("the services are in force", || {
            self.rig.agents.values().filter(|agent| serves(agent)).all(|agent| {
                let plan = agent.plan().expect("there is a plan");
                let rows = plan
                    .iter()
                    .filter(|row| row.contains(&format!("element endpoint4 {{ {plain} . tcp . 80 .")));
                rows.count() == endpoints && is_in_force(agent)
            })
        });
    }

    /// Who serves on the node.
    fn by(&self) -> By {
        if serves(&self.rig.agents[NODE]) { By::Weft } else { By::Another }
    }

    /// Waits until what kube-proxy was told shows, then looks closely.
    #[track_caller]
    fn its_alone(&mut self, when: &str) {
        wait(when, || objections(&self.rig, &self.offers, By::Another).is_empty());
        self.all_is_right(when);
    }

    #[track_caller]
    fn all_is_right(&mut self, when: &str) {
        let wrong = objections(&self.rig, &self.offers, self.by());
        println!("    {when}: {} wrong", wrong.len());
        assert!(wrong.is_empty(), "{when}: {} are wrong:\n{}", wrong.len(), wrong.join("\n"));
        self.lasting.iter_mut().for_each(Lasting::go_on);
        let differences = self.rig.differences();
        assert_eq!(differences, Vec::<String>::new(), "{when}");
    }

    fn open_lasting(&mut self) {
        // Its endpoints stay: what leads to one that goes is ended.
        let stays = |offer: &&Offer| offer.sort == Sort::Local;
        let to = self.offers.iter().find(stays).expect("there is one").sink();
        for from in super::services::ASKERS {
            self.lasting.push(Lasting::open(&place(&self.rig, from), to));
        }
    }

    /// Other endpoints for the plain service and the one that keeps its clients, told to both.
    fn change(&mut self, endpoints: &[&'static str]) {
        for offer in self.offers.iter_mut().filter(|offer| matches!(offer.sort, Sort::Plain | Sort::Kept)) {
            offer.endpoints = endpoints.to_vec();
            for slice in offer.slices(&self.rig) {
                let versioned = |version: u64| {
                    let mut slice = slice;
                    slice["metadata"]["resourceVersion"] = json!(version.to_string());
                    slice
                };
                self.server.change(SLICES, versioned).expect("it is served");
            }
        }
        tell(&self.rig, &self.offers);
        self.wait_in_force();
    }

    fn start(&mut self) {
        let node = self.rig.lab.machine(NODE).expect("it runs");
        let log = self.rig.lab.directory().join("kube-proxy.log");
        self.process = Some(self.proxy.start(&node, &self.server, &log).expect("kube-proxy starts"));
        wait("kube-proxy has programmed the services", || {
            let running = self.process.as_ref().is_some_and(Process::is_running);
            assert!(running, "{}", std::fs::read_to_string(&log).unwrap_or_default());
            let rules = self.its_rules();
            let names = self.offers.iter().filter(|offer| offer.sort != Sort::Empty).map(Offer::name);
            names.map(|name| format!("test/{name}")).all(|name| rules.iter().all(|of| of.contains(&name)))
        });
    }

    /// What it has in the kernel for each family; nothing where nothing is left.
    fn its_rules(&self) -> [String; 2] {
        let node = self.rig.lab.machine(NODE).expect("it runs");
        let list = |words: &[&str]| node.run(words[0], &words[1..]).unwrap_or_default();
        match self.proxy.mode {
            Mode::Nftables => {
                ["ip", "ip6"].map(|family| list(&["nft", "list", "table", family, "kube-proxy"]))
            }
            Mode::Iptables => ["iptables-save", "ip6tables-save"].map(|program| list(&[program])),
        }
    }

    fn it_comes_and_goes(&mut self) {
        self.all_is_right("before kube-proxy");
        self.open_lasting();
        self.start();
        self.all_is_right("beside kube-proxy");
        self.change(&["test/b1", "test/c1"]);
        self.all_is_right("an endpoint less");
        self.process = None;
        self.change(&["test/a2", "test/c1"]);
        self.all_is_right("kube-proxy is dead, and its rules are old");
        self.start();
        self.all_is_right("kube-proxy is back");
        self.process = None;
        let node = self.rig.lab.machine(NODE).expect("it runs");
        self.proxy.clean_up(&node).expect("it can be run");
        let left = self.its_rules();
        assert!(!left.iter().any(|rules| rules.contains("test/plain")), "kube-proxy has left {left:?}");
        self.all_is_right("kube-proxy was cleaned up");
    }

    /// Turned off on the node, Weft leaves nothing of services; its peer serves them alone, through our pods' links.
    fn weft_stands_aside(&mut self) {
        self.start();
        turn(&mut self.rig, NODE, Services::Off);
        let node = self.rig.lab.machine(NODE).expect("it runs");
        assert_eq!(left(&node), Vec::<String>::new(), "it is off");
        self.its_alone("kube-proxy alone");
        self.open_lasting();
        self.change(&["test/a2", "test/b1"]);
        self.its_alone("kube-proxy alone, and an endpoint less");
    }

    /// The other order: it was there first.
    fn weft_comes_back(&mut self) {
        turn(&mut self.rig, NODE, Services::On);
        self.wait_in_force();
        forget_datagrams(&self.rig);
        self.all_is_right("Weft came second");
        self.change(&["test/b1", "test/c1"]);
        self.all_is_right("Weft came second, and an endpoint is another");
        self.process = None;
        let node = self.rig.lab.machine(NODE).expect("it runs");
        self.proxy.clean_up(&node).expect("it can be run");
        self.all_is_right("Weft alone");
    }
}

fn collections(rig: &Rig, offers: &[Offer]) -> [Collection; 4] {
    let versioned = |mut object: Value| {
        object["metadata"]["resourceVersion"] = json!("1");
        object
    };
    let spec = rig.lab.topology().machine(NODE).expect("it is in the topology");
    let addresses: Vec<Value> =
        spec.addresses().map(|ip| json!({"type": "InternalIP", "address": ip})).collect();
    let node = json!({
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": NODE, "uid": "00000000-0000-0000-0003-000000000000"},
        "spec": {"podCIDR": "10.42.0.0/24", "podCIDRs": ["10.42.0.0/24", "fd42::/64"]},
        "status": {"addresses": addresses},
    });
    let slices = offers.iter().flat_map(|offer| offer.slices(rig));
    let collection = |path, api_version, kind, objects: Vec<Value>| Collection {
        path,
        api_version,
        kind,
        objects: objects.into_iter().map(versioned).collect(),
    };
    [
        collection("/api/v1/nodes", "v1", "Node", vec![node]),
        collection("/api/v1/services", "v1", "Service", offers.iter().map(Offer::service).collect()),
        collection(SLICES, "discovery.k8s.io/v1", "EndpointSlice", slices.collect()),
        collection(
            "/apis/networking.k8s.io/v1/servicecidrs",
            "networking.k8s.io/v1",
            "ServiceCIDR",
            Vec::new(),
        ),
    ]
}
