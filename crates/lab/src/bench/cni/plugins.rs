//! Calls of plugins with nothing around them that takes time: fork, exec, pipe, wait, as libcni does it.
//!
//! [`weft_lab::runtime::Runtime`] enters the machine for each call; here the calling thread is on the machine already.

use std::io::{Read, Write};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};
use weft_lab::runtime::{ConfList, Runtime, Sandbox, Verb};

/// A configuration list and where its plugins are.
#[derive(Debug)]
pub struct Plugins {
    list: ConfList,
    folder: PathBuf,
}

impl Plugins {
    /// The list that the node's runtime finds, with the plugins that were installed.
    pub fn installed(runtime: &Runtime) -> Result<Self> {
        Ok(Self { list: runtime.config()?, folder: "/opt/cni/bin".into() })
    }

    /// Bridge with host-local, portmap and firewall, dual stack: the list that containerd's and Podman's own installers
    /// write, where no port is mapped.
    pub fn reference_chain() -> Result<Self> {
        let folder = PathBuf::from("/usr/lib/cni");
        if !folder.join("bridge").exists() {
            bail!(
                "the reference plugins are missing: `apt-get install containernetworking-plugins iptables`"
            );
        }
        let list = json!({
            "cniVersion": "1.0.0",
            "name": "reference",
            "plugins": [
                {
                    "type": "bridge", "bridge": "cni0", "isGateway": true, "ipMasq": true, "hairpinMode": true,
                    "ipam": {
                        "type": "host-local",
                        "ranges": [[{"subnet": "10.88.0.0/16"}], [{"subnet": "fd88::/64"}]],
                        "routes": [{"dst": "0.0.0.0/0"}, {"dst": "::/0"}],
                    },
                },
                {"type": "portmap", "capabilities": {"portMappings": true}},
                {"type": "firewall"},
            ],
        });
        let list =
            ConfList::parse(&list.to_string()).map_err(|why| anyhow::anyhow!("the chain's list: {why}"))?;
        Ok(Self { list, folder })
    }

    /// ADD through all plugins: how long it took, and the last one's result.
    pub fn add(&self, pod: &Sandbox) -> Result<(Duration, Value)> {
        let start = Instant::now();
        let mut result = None;
        for plugin in self.list.plugins() {
            let answer = self.call(plugin, Verb::Add, pod, result.as_ref())?;
            let answer = serde_json::from_slice(&answer)
                .with_context(|| format!("ADD of {} gave no result", pod.id))?;
            result = Some(answer);
        }
        Ok((start.elapsed(), result.unwrap_or_default()))
    }

    /// DEL through all plugins in reverse order, with the result of ADD: how long it took.
    pub fn del(&self, pod: &Sandbox, result: &Value) -> Result<Duration> {
        let start = Instant::now();
        for plugin in self.list.plugins().iter().rev() {
            self.call(plugin, Verb::Del, pod, Some(result))?;
        }
        Ok(start.elapsed())
    }

    fn call(&self, plugin: &Value, verb: Verb, pod: &Sandbox, previous: Option<&Value>) -> Result<Vec<u8>> {
        let name = plugin.get("type").and_then(Value::as_str).unwrap_or_default();
        let request = self.list.request(plugin, Some(pod), previous).to_string();
        let failed = || format!("{verb} of {} by {name}", pod.id);
        let mut child = Command::new(self.folder.join(name))
            .env_clear()
            .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
            .env("CNI_COMMAND", verb.as_str())
            .env("CNI_PATH", &self.folder)
            .env("CNI_CONTAINERID", &pod.id)
            .env("CNI_NETNS", pod.netns.as_deref().unwrap_or("".as_ref()))
            .env("CNI_IFNAME", &pod.interface)
            .env("CNI_ARGS", pod.cni_args())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .with_context(failed)?;
        // A request fits a pipe's buffer, so that nobody waits for anybody here.
        if let Some(mut stdin) = child.stdin.take() {
            stdin.write_all(request.as_bytes()).with_context(failed)?;
        }
        let mut answer = Vec::new();
        if let Some(mut stdout) = child.stdout.take() {
            stdout.read_to_end(&mut answer).with_context(failed)?;
        }
        let status = child.wait().with_context(failed)?;
        if !status.success() {
            bail!("{}: {status}: {}", failed(), String::from_utf8_lossy(&answer).replace('\n', " "));
        }
        Ok(answer)
    }
}
