//! Three agents that share nothing but an etcd are a cluster, and stay one while etcd is away.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use serde_json::json;
use weft_lab::sandbox::in_sandbox;
use weft_lab::topology::INTERNET;
use weft_lab::weft::Agent;
use weft_lab::{Lab, Machine, Net, Pod, PodSpec, Process, Tool, Topology};

use super::alone;
use super::nodes::{begin, unreached};
use super::rig::{build, wait};

/// The program, where there is one.
fn program() -> Option<PathBuf> {
    let named = std::env::var_os("WEFT_KUBERNETES_BIN").map(|folder| PathBuf::from(folder).join("etcd"));
    let usual = ["/usr/bin/etcd", "/usr/local/bin/etcd"].map(PathBuf::from);
    named.into_iter().chain(usual).find(|path| path.is_file())
}

#[test]
fn agents_on_etcd_are_a_cluster() {
    let _alone = alone();
    in_sandbox("etcd::agents_on_etcd_are_a_cluster", || {
        let Some(program) = program() else {
            println!(
                "SKIPPED: no etcd: apt-get install etcd-server, or name a folder in WEFT_KUBERNETES_BIN"
            );
            return;
        };
        let tool = Path::new(env!("CARGO_BIN_EXE_weft-lab"));
        let programs = build(tool.parent().expect("it lies in a folder"));
        let lab = Lab::new("live-etcd", Topology::routed(), Tool::new(tool)).expect("the lab starts");
        let host = lab.machine(INTERNET).expect("it runs");
        let spec = lab.topology().machine(INTERNET).expect("it is in the topology");
        let address = spec.addresses().find(IpAddr::is_ipv4).expect("it has both families");
        let etcd = start_etcd(&lab, &host, &program, address);
        put(&host, address, "network/default", r#"{"podCIDRs": ["10.42.0.0/16", "fd42::/48"]}"#);
        let endpoint = format!("http://{address}:2379");
        let mut agents = BTreeMap::new();
        let mut pods = Vec::new();
        for node in lab.nodes() {
            let store = json!({"etcd": {"endpoints": [endpoint]}});
            programs.install_with(&node, &store).expect("Weft can be installed");
            let (agent, runtime) = begin(&lab, &programs, &node);
            let spec = PodSpec::new("test", &format!("on-{}", node.name()));
            pods.push(Pod::start(&runtime, lab.tool(), spec).expect("the pod starts"));
            agents.insert(node.name().to_owned(), agent);
        }
        wait("every pod reaches every other", || unreached(&lab, &pods).is_empty());
        etcd.kill();
        wait("every agent says that etcd is away", || {
            let is_stale = |agent: &Agent| !agent.status().expect("the agent answers")["stale"].is_null();
            agents.values().all(is_stale)
        });
        let unreached = unreached(&lab, &pods);
        assert!(unreached.is_empty(), "pods lost each other with etcd: {unreached:?}");
        for pod in pods {
            pod.stop().expect("DEL works");
        }
        drop((agents, etcd, host));
        println!("{}", lab.close().expect("nothing is left"));
    });
}

fn start_etcd(lab: &Lab, host: &Machine, program: &Path, address: IpAddr) -> Process {
    // The lab's own folder is /lab on every machine.
    std::fs::copy(program, lab.directory().join("etcd")).expect("the program can be copied");
    let client = format!("http://{address}:2379");
    let log = std::fs::File::create(lab.directory().join("etcd.log")).expect("the log can be written");
    let mut command = Command::new("/lab/etcd");
    command
        .args(["--data-dir", "/lab/etcd-data", "--listen-peer-urls", "http://127.0.0.1:2380"])
        .args(["--listen-client-urls", &client, "--advertise-client-urls", &client])
        .stdin(Stdio::null())
        .stdout(log.try_clone().expect("a file has room for another descriptor"))
        .stderr(log);
    host.spawn(command, Net::Machine).expect("etcd starts")
}

/// A person writes a key; waits until etcd takes it.
fn put(host: &Machine, address: IpAddr, key: &str, value: &str) {
    use base64::Engine;
    let encode = |text: &str| base64::engine::general_purpose::STANDARD.encode(text);
    let body = json!({"key": encode(&format!("/weft/{key}")), "value": encode(value)}).to_string();
    let length = body.len();
    let request = format!("POST /v3/kv/put HTTP/1.0\r\nHost: etcd\r\nContent-Length: {length}\r\n\r\n{body}");
    let once = || -> std::io::Result<bool> {
        let mut stream = TcpStream::connect(SocketAddr::new(address, 2379))?;
        stream.set_read_timeout(Some(Duration::from_secs(5)))?;
        stream.write_all(request.as_bytes())?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok(answer.split(' ').nth(1) == Some("200"))
    };
    wait("etcd takes a key", || host.enter_net(once).expect("its network can be entered").unwrap_or(false));
}
