//! Weft in the lab: how its programs are started and asked. Nothing else here knows.

use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use serde::Deserialize;
use serde_json::{Value, json};
use weft_cni::client::Exchange;

use crate::machine::{Machine, Net, Process};
use crate::probe::Transport;
use crate::{Lab, LabError};

/// The cluster's DNS address of each family.
pub const DNS: [IpAddr; 2] = [
    IpAddr::V4(std::net::Ipv4Addr::new(10, 43, 0, 10)),
    IpAddr::V6(std::net::Ipv6Addr::new(0xfd43, 0, 0, 0, 0, 0, 0, 0x10)),
];
/// The agent's socket on a node.
const SOCKET: &str = "/run/weft/weft.sock";
/// A plugin to start in place of the one beside the agent: `cargo xtask test` sets it.
const PLUGIN: &str = "WEFT_PLUGIN";
const CONFIG: &str = "/etc/weft/agent.yaml";
/// Questions of one request: an answer has a limit, and holds both ways of each packet.
const QUESTIONS_AT_ONCE: usize = 200;
/// How long an agent may take to end when asked.
const FAREWELL: Duration = Duration::from_secs(5);

/// Weft's programs, as the lab installs them on nodes.
#[derive(Debug, Clone)]
pub struct Programs {
    weft: PathBuf,
    plugin: PathBuf,
}

/// What the oracle says of a packet.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Prediction {
    /// `delivered`, `dropped`, …
    pub verdict: String,
    /// Whether it arrives and its answer comes back.
    pub works: bool,
    /// The way, for people.
    pub text: String,
    /// What its receiver sees, where it has one.
    #[serde(skip)]
    pub seen: Option<Seen>,
    /// Every end that it can have, where dice are thrown on its way; this one is the first of them.
    #[serde(skip)]
    pub ends: Vec<Prediction>,
}

/// A packet as its receiver sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    /// `namespace/name` of a pod, a node's name, or nothing for somebody outside.
    pub receiver: Option<String>,
    /// The source address in the packet.
    pub client: IpAddr,
    /// The destination in the packet.
    pub server: SocketAddr,
}

/// A question for the oracle.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Packet {
    /// Where it comes from: a node's or a pod's name, or an address.
    pub from: String,
    /// The source address in it, where that isn't the one that the sender's kernel chooses.
    pub source: Option<IpAddr>,
    /// Where it goes.
    pub to: SocketAddr,
    /// TCP, or UDP.
    pub transport: Transport,
}

impl Prediction {
    /// Reads an element of the answer's `explanations`.
    fn read(explanation: &Value) -> Result<Self, String> {
        let mut prediction = Self::deserialize(explanation).map_err(|e| e.to_string())?;
        prediction.seen = Self::seen(&explanation["conversation"]["forward"])?;
        let ends = explanation["ends"].as_array().into_iter().flatten();
        prediction.ends = ends.map(Self::read_end).collect::<Result<_, _>>()?;
        Ok(prediction)
    }
}

impl Prediction {
    fn read_end(end: &Value) -> Result<Self, String> {
        Ok(Self {
            verdict: end["verdict"].as_str().unwrap_or_default().into(),
            works: end["works"] == true,
            text: String::new(),
            seen: Self::seen(end)?,
            ends: Vec::new(),
        })
    }

    fn seen(outcome: &Value) -> Result<Option<Seen>, String> {
        outcome.get("seen").map(|headers| Seen::read(headers, &outcome["to"])).transpose()
    }

    /// Every end; itself where there is no other.
    pub fn all_ends(&self) -> &[Prediction] {
        if self.ends.is_empty() { std::slice::from_ref(self) } else { &self.ends }
    }
}

impl Seen {
    fn read(headers: &Value, to: &Value) -> Result<Self, String> {
        let address = |key: &str| {
            let text = headers[key].as_str().unwrap_or_default();
            text.parse::<IpAddr>().map_err(|e| format!("{key} {text:?}: {e}"))
        };
        let port = headers["dport"].as_u64().and_then(|port| u16::try_from(port).ok()).unwrap_or(0);
        let receiver = match to["receiver"].as_str() {
            Some("pod") => to["name"].as_str(),
            Some("node") => to["node"].as_str(),
            _ => None,
        };
        Ok(Self {
            receiver: receiver.map(str::to_owned),
            client: address("source")?,
            server: SocketAddr::new(address("destination")?, port),
        })
    }
}

impl Programs {
    /// The programs `weft` and `weft-cni` in a folder of the real machine; the plugin that `WEFT_PLUGIN` names, where it does.
    pub fn in_folder(folder: &Path) -> Result<Self, LabError> {
        let there = |path: PathBuf| match std::fs::metadata(&path) {
            Ok(_) => Ok(path),
            Err(error) => Err(LabError::file("find", path)(error)),
        };
        let plugin = std::env::var_os(PLUGIN).map_or_else(|| folder.join("weft-cni"), PathBuf::from);
        Ok(Self { weft: there(folder.join("weft"))?, plugin: there(plugin)? })
    }

    /// The program `weft` on the real machine.
    pub fn weft(&self) -> &Path {
        &self.weft
    }

    /// Puts the programs and the agent's configuration on a node. `shared` is the folder of facts as the node sees it.
    pub fn install(&self, node: &Machine, shared: &str) -> Result<(), LabError> {
        self.install_with(node, &json!({"directory": shared}))
    }

    /// The same with any store, as the configuration has it.
    pub fn install_with(&self, node: &Machine, store: &Value) -> Result<(), LabError> {
        let write = |path: &str, text: &str| {
            let path = node.path(path);
            std::fs::write(&path, text).map_err(LabError::file("write", path))
        };
        node.run("mkdir", &["-p", "/etc/weft", "/var/lib/weft", "/usr/local/bin"])?;
        for (from, to) in [(&self.weft, "/opt/weft"), (&self.plugin, "/opt/cni/bin/weft")] {
            let to = node.path(to);
            std::fs::copy(from, &to).map_err(LabError::file("write", to))?;
        }
        // JSON is YAML.
        let config = json!({
            "node": node.name(),
            "store": store,
            "dns": {"clusterAddresses": DNS},
        });
        write(CONFIG, &format!("{config:#}\n"))
    }

    /// Starts the agent of a node on which they are installed. It writes its log to `log`.
    pub fn start_agent(&self, node: &Arc<Machine>, log: &Path) -> Result<Agent, LabError> {
        let file = std::fs::File::options().create(true).append(true).open(log);
        let file = file.map_err(LabError::file("open", log))?;
        let copy = file.try_clone().map_err(LabError::file("open", log))?;
        let mut command = Command::new("/opt/weft");
        command.args(["agent", "--config", CONFIG]).stdin(Stdio::null()).stdout(file).stderr(copy);
        let process = node.spawn(command, Net::Machine)?;
        Ok(Agent { node: Arc::clone(node), process, log: log.into() })
    }

    /// Removes what an agent has made on a node, and has it say what is left.
    pub fn uninstall(&self, node: &Machine) -> Result<String, LabError> {
        node.run("/opt/weft", &["uninstall", "--config", CONFIG])?;
        node.run("/opt/weft", &["uninstall", "--verify", "--config", CONFIG])
    }
}

/// A running agent.
#[derive(Debug)]
pub struct Agent {
    node: Arc<Machine>,
    process: Process,
    log: PathBuf,
}

impl Agent {
    /// Its node.
    pub fn node(&self) -> &Arc<Machine> {
        &self.node
    }

    /// Whether it is running.
    pub fn is_running(&self) -> bool {
        self.process.is_running()
    }

    /// Its process id, as seen from outside the machine.
    pub fn pid(&self) -> i32 {
        self.process.pid()
    }

    /// kill -9.
    pub fn kill(&self) {
        self.process.kill();
    }

    /// Asks it to end; returns whether it did.
    pub fn stop(&self) -> bool {
        self.process.terminate(FAREWELL)
    }

    /// Resident memory, in MB.
    pub fn resident_mb(&self) -> Option<f64> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.process.pid())).ok()?;
        let line = status.lines().find_map(|l| l.strip_prefix("VmRSS:"))?;
        line.split_whitespace().next()?.parse::<f64>().ok().map(|kb| kb / 1024.0)
    }

    /// The end of its log.
    pub fn last_words(&self) -> String {
        let log = std::fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(20)..].join("\n")
    }

    /// What `weft status` shows.
    pub fn status(&self) -> Result<Value, LabError> {
        self.exchange("GET", "/v1/status", b"")
    }

    /// The rows of its plan, each as `weft plan` prints it.
    pub fn plan(&self) -> Result<Vec<String>, LabError> {
        let answer = self.exchange("GET", "/v1/plan", b"")?;
        let rows = answer["rows"].as_array().into_iter().flatten();
        Ok(rows.filter_map(|row| row["row"].as_str()).map(str::to_owned).collect())
    }

    /// Where the kernel differs from the plan, as `weft plan --diff` prints it.
    pub fn differences(&self) -> Result<Vec<String>, LabError> {
        let answer = self.exchange("GET", "/v1/plan/kernel", b"")?;
        let lines = answer["differences"].as_array().into_iter().flatten();
        Ok(lines.filter_map(Value::as_str).map(str::to_owned).collect())
    }

    /// What the oracle says of each packet.
    pub fn predict(&self, packets: &[Packet]) -> Result<Vec<Prediction>, LabError> {
        let queries: Vec<Value> = packets
            .iter()
            .map(|packet| {
                let protocol = match packet.transport {
                    Transport::Http => "tcp",
                    Transport::Udp => "udp",
                };
                let mut query = json!({"from": packet.from, "to": format!("{}/{protocol}", packet.to)});
                if let Some(source) = packet.source {
                    query["source"] = json!(source);
                }
                query
            })
            .collect();
        let mut predictions = Vec::with_capacity(packets.len());
        for part in queries.chunks(QUESTIONS_AT_ONCE) {
            let body = json!({"queries": part}).to_string();
            let answer = self.exchange("POST", "/v1/explain", body.as_bytes())?;
            for explanation in answer["explanations"].as_array().into_iter().flatten() {
                predictions.push(Prediction::read(explanation).map_err(|why| self.unreadable(&why))?);
            }
        }
        if predictions.len() != packets.len() {
            return Err(self.unreadable(&format!(
                "{} answers to {} questions",
                predictions.len(),
                packets.len()
            )));
        }
        Ok(predictions)
    }

    fn exchange(&self, method: &str, path: &str, body: &[u8]) -> Result<Value, LabError> {
        let failed = |why: &str| self.unreadable(&format!("{method} {path}: {why}"));
        let exchange = Exchange {
            socket: Path::new(SOCKET),
            method,
            path,
            body,
            descriptor: None,
            connect_within: Duration::from_secs(1),
            answer_within: Duration::from_secs(30),
        };
        let response = self.node.enter(|| exchange.run())?.map_err(|e| failed(&e.to_string()))?;
        if response.status != 200 {
            return Err(failed(&format!("{}: {}", response.status, String::from_utf8_lossy(&response.body))));
        }
        serde_json::from_slice(&response.body).map_err(|e| failed(&e.to_string()))
    }

    fn unreadable(&self, why: &str) -> LabError {
        LabError::Tool { tool: "agent", why: format!("{} on {}", why, self.node.name()) }
    }
}

/// The folder of facts, on the real machine and as nodes see it.
pub fn shared_folder(lab: &Lab) -> (PathBuf, &'static str) {
    (lab.directory().join("cluster"), "/lab/cluster")
}
