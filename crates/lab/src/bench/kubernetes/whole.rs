//! A whole agent on the API server, from its start until its plan is in the kernel: with the mirror of the kernel, the log of facts,
//! the DNS server and the node's own claims, which the store with its compiler has not.
//!
//! It runs in the benchmark's own network namespace, on a link that has the node's address.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};
use weft_cni::client::Exchange;
use weft_lab::weft::Programs;

use super::super::services::memory;
use super::objects;
use super::server::{Running, Server, last_words};

/// How long it may take.
const PATIENCE: Duration = Duration::from_secs(300);
/// Between two looks. A look is answered by the agent's core, beside its work.
const PAUSE: Duration = Duration::from_millis(20);
/// How long it may take to end.
const FAREWELL: Duration = Duration::from_secs(20);

/// What was found.
pub struct Found {
    /// From its start until its plan was in force.
    pub ms: f64,
    /// Processor time of all threads until then.
    pub cpu_ms: f64,
    /// Resident memory then.
    pub rss: f64,
}

/// A link with the node's address. Once for a benchmark.
pub fn provide_link() -> Result<()> {
    let address = format!("{}/24", objects::node_ip(0));
    for words in [
        "link add eth0 type veth peer name outside",
        &format!("address add {address} dev eth0"),
        "link set eth0 up",
        "link set outside up",
        "route add default dev eth0",
    ] {
        let status = Command::new("ip").args(words.split(' ')).status().context("can't run ip")?;
        ensure!(status.success(), "`ip {words}` failed");
    }
    Ok(())
}

/// Starts an agent that has no state, waits for its plan, and ends it.
pub fn measure(programs: &Programs, server: &Server) -> Result<Found> {
    let folder = server.folder().join("agent");
    std::fs::create_dir(&folder).with_context(|| format!("can't make {}", folder.display()))?;
    let mut agent = Agent::start(programs, server, &folder)?;
    let found =
        agent.wait().with_context(|| format!("its last words: {}", last_words(&folder.join("log"))))?;
    agent.end(programs)?;
    std::fs::remove_dir_all(&folder).with_context(|| format!("can't remove {}", folder.display()))?;
    Ok(found)
}

struct Agent {
    running: Running,
    start: Instant,
    folder: PathBuf,
}

impl Agent {
    fn start(programs: &Programs, server: &Server, folder: &Path) -> Result<Self> {
        let at = |name: &str| folder.join(name);
        let (api, config) = (server.api(), at("agent.yaml"));
        let text = json!({
            "node": objects::node_name(0),
            "stateDir": at("state"),
            "runDir": at("run"),
            "cni": { "confDir": at("net.d"), "leaseDir": at("leases") },
            "dns": { "clusterAddresses": ["10.96.0.10"] },
            "store": { "kubernetes": {
                "server": format!("https://127.0.0.1:{}", api.port),
                "caFile": api.ca,
                "tokenFile": server.token_file(),
                "networks": [objects::network()],
            } },
        });
        std::fs::create_dir(at("net.d")).context("can't make the agent's folder")?;
        std::fs::write(&config, text.to_string()).context("can't write the agent's configuration")?;
        let log = File::create(at("log")).context("can't make the agent's log")?;
        let mut command = Command::new(programs.weft());
        command.arg("agent").arg("--config").arg(config).stdin(Stdio::null());
        let start = Instant::now();
        let child = command.stdout(log.try_clone()?).stderr(log).spawn().context("can't start an agent")?;
        Ok(Self { running: Running(child), start, folder: folder.to_owned() })
    }

    /// Waits until its plan is in force.
    fn wait(&mut self) -> Result<Found> {
        while self.start.elapsed() < PATIENCE {
            if let Some(status) = self.running.0.try_wait().context("can't ask for an agent")? {
                bail!("the agent has ended: {status}");
            }
            if self.status().is_some_and(|status| status["phase"] == "running") {
                let pid = self.running.0.id().cast_signed();
                return Ok(Found {
                    ms: self.start.elapsed().as_secs_f64() * 1000.0,
                    cpu_ms: memory::processor_ms(pid)?,
                    rss: memory::of_process(pid)?,
                });
            }
            std::thread::sleep(PAUSE);
        }
        bail!("no plan is in force after {} s", PATIENCE.as_secs())
    }

    fn status(&self) -> Option<Value> {
        let exchange = Exchange {
            socket: &self.folder.join("run/weft.sock"),
            method: "GET",
            path: "/v1/status",
            body: b"",
            descriptor: None,
            connect_within: Duration::from_secs(1),
            answer_within: Duration::from_secs(30),
        };
        serde_json::from_slice(&exchange.run().ok()?.body).ok()
    }

    /// Asks it to end, and removes what it made in the kernel and on the server: the next one is another machine of its name.
    fn end(mut self, programs: &Programs) -> Result<()> {
        let pid = nix::unistd::Pid::from_raw(self.running.0.id().cast_signed());
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM).context("can't end an agent")?;
        let begun = Instant::now();
        while self.running.0.try_wait().context("can't wait for an agent")?.is_none() {
            ensure!(
                begun.elapsed() < FAREWELL,
                "the agent doesn't end: {}",
                last_words(&self.folder.join("log"))
            );
            std::thread::sleep(PAUSE);
        }
        let config = self.folder.join("agent.yaml");
        let status = Command::new(programs.weft())
            .args(["uninstall", "--forget", &objects::node_name(0), "--config"])
            .arg(config)
            .stdout(Stdio::null())
            .status();
        ensure!(status.context("can't run weft uninstall")?.success(), "weft uninstall failed");
        Ok(())
    }
}
