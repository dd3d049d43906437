//! The cluster that the steps work with.

use std::collections::BTreeMap;
use std::process::Command;

use anyhow::{Context, Result};
use weft_lab::kubernetes::{Cluster, Kubectl, Parts, Shape};
use weft_lab::{Lab, Tool};

use super::leave;
use super::options::Options;

/// The commit that is tried, with `-dirty` where files differ from it.
fn commit() -> String {
    let git = Command::new("git").args(["describe", "--always", "--dirty"]).output();
    let text = git
        .ok()
        .filter(|out| out.status.success())
        .map(|out| String::from_utf8_lossy(&out.stdout).trim().to_owned());
    text.unwrap_or_else(|| "unknown".into())
}

/// A running cluster, and what the steps have to show.
pub struct Rig {
    cluster: Cluster,
    options: Options,
    tables: Vec<String>,
    before: BTreeMap<String, Vec<String>>,
}

impl Rig {
    /// Starts machines and control plane.
    pub fn start(options: &Options) -> Result<Self> {
        let parts = Parts::in_folders(&options.programs, &options.images)
            .context("`cargo xtask e2e` builds them, or takes them from WEFT_KUBERNETES_BIN")?;
        std::fs::create_dir_all(&options.logs).context("can't make the folder for logs")?;
        let logs = options.logs.canonicalize().context("can't find the folder for logs")?;
        let shape = Shape { lab: "kubernetes".into(), nodes: options.nodes, logs };
        let cluster = Cluster::start(&parts, &shape, Tool::current()?)?;
        Ok(Self { cluster, options: options.clone(), tables: Vec::new(), before: BTreeMap::new() })
    }

    /// What has been started.
    pub fn describe(&self) -> String {
        let version = self.kubectl().run(&["version", "-o", "json"]).ok().and_then(|text| {
            let version: serde_json::Value = serde_json::from_str(&text).ok()?;
            version["serverVersion"]["gitVersion"].as_str().map(str::to_owned)
        });
        format!("Kubernetes {}", version.unwrap_or_else(|| "of an unknown version".into()))
    }

    /// When this is, and with what, in a sentence.
    pub fn describe_run(&self) -> Result<String> {
        let machine = self.lab().machine("n1")?;
        let ask = |line: &str| machine.run("sh", &["-c", line]).map(|text| text.trim().to_owned());
        let parts = "/opt/kubernetes/bin";
        Ok(format!(
            "Run on {} of commit {}: {}, {} nodes, containerd {}, Linux {}.",
            ask("date -u +%F")?,
            commit(),
            self.describe(),
            self.options.nodes,
            ask(&format!("{parts}/containerd --version | awk '{{print $3}}' | sed 's/+.*//'"))?,
            ask("uname -r | sed 's/[-+].*//'")?
        ))
    }

    /// Step: containerd and kubelets.
    pub fn start_nodes(&mut self) -> Result<String> {
        self.cluster.start_nodes()?;
        self.before = leave::look(self)?;
        Ok(self.cluster.node_names().join(", "))
    }

    /// The cluster.
    pub fn cluster(&mut self) -> &mut Cluster {
        &mut self.cluster
    }

    /// What the nodes looked like before Weft came.
    pub fn before(&self) -> &BTreeMap<String, Vec<String>> {
        &self.before
    }

    /// The lab that the cluster runs in.
    pub fn lab(&self) -> &Lab {
        self.cluster.lab()
    }

    /// What was asked for.
    pub fn options(&self) -> &Options {
        &self.options
    }

    /// Asks the cluster.
    pub fn kubectl(&self) -> Kubectl {
        self.cluster.kubectl()
    }

    /// Shows a block of text under the step.
    pub fn show(&mut self, table: String) {
        self.tables.push(table);
    }

    /// What the last step had to show.
    pub fn take_tables(&mut self) -> Vec<String> {
        std::mem::take(&mut self.tables)
    }

    /// What helps where nothing makes sense any more.
    pub fn last_words(&self) -> String {
        let ask = |arguments: &[&str]| self.kubectl().run(arguments).unwrap_or_else(|e| e.to_string());
        format!(
            "{}\n{}\n{}\nlogs: {}",
            ask(&["get", "nodes", "-o", "wide"]),
            ask(&["get", "pods", "-A", "-o", "wide"]),
            ask(&[
                "logs",
                "-n",
                "kube-system",
                "-l",
                "app.kubernetes.io/name=weft",
                "--prefix",
                "--tail",
                "15"
            ]),
            self.options.logs.display()
        )
    }

    /// Waits for Enter.
    pub fn invite(&self) -> Result<()> {
        println!(
            "The cluster stays up until you press Enter. Look around, as root:\n\
             \x20 weft-lab exec --lab kubernetes control -- env KUBECONFIG={} /opt/kubernetes/bin/kubectl get pods -A\n\
             \x20 weft-lab exec --lab kubernetes n1\n\
             Logs: {}",
            Kubectl::KUBECONFIG,
            self.options.logs.display()
        );
        std::io::stdin().read_line(&mut String::new()).context("can't wait for Enter")?;
        Ok(())
    }

    /// Step: takes everything down, and looks whether anything is left.
    pub fn close(self) -> Result<String> {
        Ok(self.cluster.close()?.to_string())
    }
}
