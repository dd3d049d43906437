//! Our side: an agent on a folder of its own, with a pod that it has connected.
//!
//! Services and slices lie in lists of a thousand; slices that change have a file each, which is replaced in one step.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use weft_lab::runtime::Sandbox;
use weft_lab::weft::{Agent, Programs};
use weft_lab::{Lab, Machine};

use super::super::cluster;
use super::objects::{self, ENDPOINTS, Third};
use super::place::{self, Place};
use super::side::Side;

/// Objects of one file.
const A_FILE: usize = 1000;

/// An agent, its node and its folder.
pub struct Weft {
    place: Place,
    programs: Programs,
    folder: PathBuf,
    log: PathBuf,
    agent: Option<Agent>,
    version: u64,
}

impl Weft {
    /// Connects a pod on a machine, stops the agent, and puts `count` services into its folder.
    pub fn prepare(lab: &Lab, machine: &Arc<Machine>, programs: &Programs, count: usize) -> Result<Self> {
        let name = machine.name();
        let cluster = format!("cluster-{name}");
        // Nobody translates what goes to endpoints, though they are no pods of this node.
        let network = format!(
            "podCIDRs: [10.42.0.0/16]\n  nodePrefixV4: 24\n  serviceCIDRs: [10.43.0.0/16]\n  noMasquerade: [{ENDPOINTS}]"
        );
        let mut nodes = cluster::start_with(lab, programs, &cluster, &[name], &network)?;
        let node = nodes.pop().context("one agent was started")?;
        let netns = node.runtime.create_netns(place::CLIENT)?;
        node.runtime.add(&Sandbox::new(place::CLIENT, &netns))?;
        ensure!(node.agent.stop(), "the agent on {name} had to be killed");
        let folder = lab.directory().join(cluster);
        write_all(&folder, count)?;
        Ok(Self {
            place: Place::around_client(machine)?,
            programs: programs.clone(),
            folder,
            log: lab.directory().join(format!("{name}.log")),
            agent: None,
            version: 1,
        })
    }
}

impl Side for Weft {
    fn place(&self) -> &Place {
        &self.place
    }

    fn start(&mut self) -> Result<Instant> {
        let start = Instant::now();
        self.agent = Some(self.programs.start_agent(&self.place.machine, &self.log)?);
        Ok(start)
    }

    fn change(&mut self, number: usize, third: Third) -> Result<Instant> {
        self.version += 1;
        let text = objects::slice(number, third, self.version).to_string() + "\n";
        let path = self.folder.join(of_its_own(number));
        let beside = self.folder.join(format!(".{}", of_its_own(number)));
        std::fs::write(&beside, text).with_context(|| format!("can't write {}", beside.display()))?;
        let start = Instant::now();
        std::fs::rename(&beside, &path).with_context(|| format!("can't replace {}", path.display()))?;
        Ok(start)
    }

    /// An agent hears of changes of the packet filter. While anybody on the machine does, in whatever network namespace, the kernel
    /// makes a notification of 8 KiB of each element that anybody writes, and keeps them until the transaction is over.
    fn rest(&mut self) {
        if let Some(agent) = self.agent.take() {
            agent.stop();
        }
    }

    fn pid(&self) -> Option<i32> {
        self.agent.as_ref().filter(|agent| agent.is_running()).map(Agent::pid)
    }

    fn last_words(&self) -> String {
        self.agent.as_ref().map(Agent::last_words).unwrap_or_default()
    }
}

fn of_its_own(number: usize) -> String {
    format!("changing-{number:05}.json")
}

fn write_all(folder: &Path, count: usize) -> Result<()> {
    let write = |name: &str, value: &Value| {
        let path = folder.join(name);
        std::fs::write(&path, value.to_string() + "\n")
            .with_context(|| format!("can't write {}", path.display()))
    };
    let list = |items: Vec<Value>| json!({"apiVersion": "v1", "kind": "List", "items": items});
    let changing: Vec<usize> = objects::changing(count).collect();
    for first in (0..count).step_by(A_FILE) {
        let numbers = || first..count.min(first + A_FILE);
        let slices = numbers().filter(|n| !changing.contains(n));
        write(&format!("services-{first:05}.json"), &list(numbers().map(objects::service).collect()))?;
        write(
            &format!("slices-{first:05}.json"),
            &list(slices.map(|n| objects::slice(n, Third::Home, 1)).collect()),
        )?;
    }
    changing.iter().try_for_each(|n| write(&of_its_own(*n), &objects::slice(*n, Third::Home, 1)))
}
