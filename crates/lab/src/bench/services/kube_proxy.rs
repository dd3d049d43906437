//! The peer: kube-proxy, alone on its node, with an API server that has nothing else to do.

use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context, Result};
use weft_lab::api_server::{ApiServer, Collection};
use weft_lab::kube_proxy::{self, Mode};
use weft_lab::{Lab, Machine, Process};

use super::end_all_on;
use super::objects::{self, Third};
use super::place::{self, Place};
use super::side::Side;

/// Where endpoint slices are.
const SLICES: &str = "/apis/discovery.k8s.io/v1/endpointslices";

/// A kube-proxy and its API server.
pub struct KubeProxy {
    place: Place,
    proxy: kube_proxy::KubeProxy,
    server: ApiServer,
    log: PathBuf,
    process: Option<Process>,
}

impl KubeProxy {
    /// Gets all ready on a machine, but starts no kube-proxy yet.
    pub fn prepare(
        lab: &Lab,
        machine: &Arc<Machine>,
        program: &Path,
        mode: Mode,
        count: usize,
    ) -> Result<Self> {
        let place = Place::by_hand(machine)?;
        let node = place::node_address(lab, machine.name())?;
        let server = ApiServer::start(machine, &collections(machine.name(), node, count))?;
        let program = program.canonicalize().with_context(|| format!("can't find {}", program.display()))?;
        let log = lab.directory().join(format!("{}-kube-proxy.log", machine.name()));
        let proxy = kube_proxy::KubeProxy { program, mode, pods: "10.42.0.0/16" };
        Ok(Self { place, proxy, server, log, process: None })
    }
}

impl Side for KubeProxy {
    fn place(&self) -> &Place {
        &self.place
    }

    fn start(&mut self) -> Result<Instant> {
        let start = Instant::now();
        self.process = Some(self.proxy.start(&self.place.machine, &self.server, &self.log)?);
        Ok(start)
    }

    fn change(&mut self, number: usize, third: Third) -> Result<Instant> {
        let start = Instant::now();
        self.server.change(SLICES, |version| objects::slice(number, third, version))?;
        Ok(start)
    }

    /// It would write all of its rules again every half minute.
    fn rest(&mut self) {
        end_all_on(&self.place.machine);
    }

    fn pid(&self) -> Option<i32> {
        self.process.as_ref().filter(|process| process.is_running()).map(Process::pid)
    }

    fn last_words(&self) -> String {
        let log = std::fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(10)..].join("\n")
    }
}

fn collections(node: &str, address: Ipv4Addr, count: usize) -> [Collection; 4] {
    [
        Collection {
            path: "/api/v1/nodes",
            api_version: "v1",
            kind: "Node",
            objects: vec![objects::node(node, address)],
        },
        Collection {
            path: "/api/v1/services",
            api_version: "v1",
            kind: "Service",
            objects: (0..count).map(objects::service).collect(),
        },
        Collection {
            path: SLICES,
            api_version: "discovery.k8s.io/v1",
            kind: "EndpointSlice",
            objects: (0..count).map(|n| objects::slice(n, Third::Home, 1)).collect(),
        },
        Collection {
            path: "/apis/networking.k8s.io/v1/servicecidrs",
            api_version: "networking.k8s.io/v1",
            kind: "ServiceCIDR",
            objects: Vec::new(),
        },
    ]
}
