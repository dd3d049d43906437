//! A node with a real agent, in the test thread's own network and mount namespaces, and a runtime's calls.

use std::io::IoSlice;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};
use serde_json::{Value, json};
use weft_agent::crash::VARIABLE;
use weft_cni::client::Exchange;
use weft_cni::wire::encode_request;
use weft_cni::{Call, Verb};

const SOCKET: &str = "/run/weft/weft.sock";

/// What a call is about.
#[derive(Debug, Clone, Copy)]
pub struct Interface<'a> {
    /// The container's id.
    pub container: &'a str,
    /// The interface's name in it.
    pub ifname: &'a str,
}

impl<'a> Interface<'a> {
    /// The one that every container has.
    pub fn first(container: &'a str) -> Self {
        Self { container, ifname: "eth0" }
    }
}

/// A node in this thread's own namespaces.
pub struct Node {
    folder: tempfile::TempDir,
    agent: Option<Child>,
}

pub fn sh(line: &str) {
    let status = Command::new("sh").args(["-ec", line]).status().unwrap();
    assert!(status.success(), "{line}");
}

impl Node {
    /// `None`, said aloud, where namespaces can't be had.
    pub fn new() -> Option<Self> {
        if let Err(error) = unshare(CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWNET) {
            println!("SKIPPED: needs root for a network namespace of its own: {error}");
            return None;
        }
        let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
        mount(None::<&str>, "/", None::<&str>, private, None::<&str>).unwrap();
        mount(Some("tmpfs"), "/run", Some("tmpfs"), MsFlags::empty(), None::<&str>).unwrap();
        mount(Some("sysfs"), "/sys", Some("sysfs"), MsFlags::empty(), None::<&str>).unwrap();
        sh(
            "ip link set lo up; ip link add eth0 type veth peer name wire; ip addr add 192.0.2.1/24 dev eth0; \
            ip link set eth0 up; ip link set wire up; ip route add default via 192.0.2.254",
        );
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        std::fs::create_dir(at("cluster")).unwrap();
        let network = "apiVersion: weft.dev/v1\nkind: Network\nmetadata: {name: default}\n\
                       spec: {podCIDRs: [10.244.0.0/16, \"fd00:244::/48\"]}\n";
        std::fs::write(at("cluster/network.yaml"), network).unwrap();
        let config = json!({
            "node": "n1",
            "store": {"directory": at("cluster")},
            "stateDir": at("state"),
            "runDir": "/run/weft",
            "cni": {"confDir": at("cni"), "leaseDir": at("leases")},
            "dns": {"enabled": false},
        });
        std::fs::write(at("agent.yaml"), config.to_string()).unwrap();
        Some(Self { folder, agent: None })
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Starts the agent, and waits until it is ready.
    pub fn start(&mut self, crash_at: Option<&str>) {
        self.begin(crash_at);
        let end = Instant::now() + Duration::from_secs(20);
        while self.status().is_none_or(|status| status["ready"] != true) {
            assert!(Instant::now() < end, "the agent is not ready: {:?}", self.status());
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Starts the agent, which may never be ready.
    pub fn begin(&mut self, crash_at: Option<&str>) {
        let mut command = Command::new(env!("CARGO_BIN_EXE_weft"));
        command
            .args(["agent", "--config"])
            .arg(self.path("agent.yaml"))
            .env("WEFT_LOG", std::env::var("WEFT_LOG").unwrap_or_else(|_| "warn".into()));
        if let Some(place) = crash_at {
            command.env(VARIABLE, place);
        }
        self.agent = Some(command.spawn().unwrap());
    }

    /// Waits for the agent to die by the crash point.
    pub fn died(&mut self) {
        let status = self.agent.take().unwrap().wait().unwrap();
        assert_eq!(status.signal(), Some(9), "the agent did not pass the crash point");
    }

    pub fn stop(&mut self) {
        if let Some(mut agent) = self.agent.take() {
            agent.kill().unwrap();
            agent.wait().unwrap();
        }
    }

    /// From now on this one is the node's agent; returns the one before, which still runs.
    pub fn replace_agent(&mut self, next: Child) -> Option<Child> {
        self.agent.replace(next)
    }

    pub fn status(&self) -> Option<Value> {
        let response = weft_agent::api::client::get(Path::new(SOCKET), "/v1/status").ok()?;
        serde_json::from_slice(&response.body).ok()
    }

    /// The body of a call, as the plugin makes it, and the namespace that goes with it.
    fn request(&self, to: Interface<'_>, more: &Value) -> (Vec<u8>, Option<std::fs::File>) {
        let Interface { container, ifname } = to;
        let netns = format!("/run/netns/{container}");
        let file = std::fs::File::open(&netns).ok();
        let mut config = json!({"cniVersion": "1.1.0", "name": "weft", "type": "weft", "socket": SOCKET,
            "stateDir": self.path("state")});
        config.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let env = |key: &str| {
            Some(match key {
                "CNI_CONTAINERID" => container.to_owned(),
                "CNI_IFNAME" => ifname.to_owned(),
                "CNI_NETNS" => netns.clone(),
                "CNI_ARGS" => format!("K8S_POD_NAMESPACE=default;K8S_POD_NAME={container}"),
                _ => return None,
            })
        };
        (Call::new(env, config).encode(), file)
    }

    /// A plugin that is killed between its request and the answer.
    pub fn hang_up(&self, verb: Verb, container: &str) {
        let (body, file) = self.request(Interface::first(container), &json!({}));
        let bytes = encode_request("POST", verb.path(), Duration::from_secs(20), &body);
        let stream = UnixStream::connect(SOCKET).unwrap();
        let netns = file.unwrap();
        let descriptors = [netns.as_raw_fd()];
        let rights = [ControlMessage::ScmRights(&descriptors)];
        let sent =
            sendmsg::<()>(stream.as_raw_fd(), &[IoSlice::new(&bytes)], &rights, MsgFlags::empty(), None);
        assert_eq!(sent, Ok(bytes.len()));
        // It lives on for a moment, as long as the agent may take.
        std::thread::sleep(Duration::from_millis(200));
    }

    pub fn call(
        &self,
        verb: Verb,
        container: &str,
        more: &Value,
        patience: Duration,
    ) -> Result<Value, String> {
        self.call_for(verb, Interface::first(container), more, patience)
    }

    /// A call about any interface of a container.
    pub fn call_for(
        &self,
        verb: Verb,
        to: Interface<'_>,
        more: &Value,
        patience: Duration,
    ) -> Result<Value, String> {
        let (body, file) = self.request(to, more);
        let exchange = Exchange {
            socket: Path::new(SOCKET),
            method: "POST",
            path: verb.path(),
            body: &body,
            descriptor: file.as_ref().map(AsFd::as_fd),
            connect_within: Duration::from_secs(1),
            answer_within: patience,
        };
        let response = exchange.run().map_err(|error| error.to_string())?;
        match response.outcome() {
            Some(Ok(body)) => Ok(serde_json::from_slice(body).unwrap()),
            Some(Err(error)) => Err(error.to_string()),
            None => Err(format!("{response:?}")),
        }
    }

    pub fn add(&self, container: &str) -> Result<Value, String> {
        if !Path::new("/run/netns").join(container).exists() {
            sh(&format!("ip netns add {container}"));
        }
        self.call(Verb::Add, container, &json!({}), Duration::from_secs(20))
    }

    pub fn del(&self, container: &str) -> Result<Value, String> {
        self.call(Verb::Del, container, &json!({}), Duration::from_secs(20))
    }

    pub fn gc(&self, valid: &[&str]) {
        let valid: Vec<Value> = valid.iter().map(|c| json!({"containerID": c, "ifname": "eth0"})).collect();
        let more = json!({"cni.dev/valid-attachments": valid});
        self.call(Verb::Gc, "gc", &more, Duration::from_secs(20)).unwrap();
    }

    /// Says what is there: leases, records, links, entries of the packet filter, published pods.
    fn holds(&self) -> [usize; 5] {
        let count = |line: &str| -> usize {
            let out = Command::new("sh").args(["-c", line]).output().unwrap();
            String::from_utf8(out.stdout).unwrap().trim().parse().unwrap()
        };
        let leases = self.path("leases/default");
        let records = self.path("state/attachments");
        let published = self.path("cluster/.weft");
        [
            count(&format!("ls {} | grep -c '^[0-9a-f.:]*$'", leases.display())),
            count(&format!("ls {} | grep -c json", records.display())),
            count("ip -o link | grep -c weftp"),
            count("nft list ruleset | grep -c '\"weftp[0-9a-z]\\{10\\}\" \\. '"),
            count(&format!("grep -rl '\"kind\": *\"Pod\"' {} 2>/dev/null | wc -l", published.display())),
        ]
    }

    /// What is there with so many pods, once all threads have come to rest.
    pub fn settles_with(&self, pods: usize, when: &str) {
        // One lease a family, and one element of the packet filter, each on a line of the listing.
        let expected = [2 * pods, pods, pods, 2 * pods, pods];
        let end = Instant::now() + Duration::from_secs(10);
        let mut seen = self.holds();
        while seen != expected && Instant::now() < end {
            std::thread::sleep(Duration::from_millis(50));
            seen = self.holds();
        }
        if seen != expected {
            sh(&format!(
                "find {} -type f; ip -o link; nft list ruleset | grep weftp",
                self.folder.path().display()
            ));
        }
        assert_eq!(seen, expected, "{when}: leases, records, links, filter lines, published pods");
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.stop();
    }
}
