//! Services turned off on a running node, and on again: all that they had made in the kernel goes, and comes back.

use weft_lab::Machine;
use weft_lab::weft::Agent;

use super::rig::{Rig, is_in_force, wait};

/// What a node's configuration says of services.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Services {
    On,
    Off,
}

/// Sets `services.enabled` of a node and starts its agent anew; returns when it is in force.
pub fn turn(rig: &mut Rig, name: &str, services: Services) {
    let node = rig.lab.machine(name).expect("it runs");
    let path = node.path("/etc/weft/agent.yaml");
    let text = std::fs::read_to_string(&path).expect("it is there");
    let mut config: serde_json::Value = serde_json::from_str(&text).expect("the lab writes JSON");
    config["services"] = serde_json::json!({"enabled": services == Services::On});
    std::fs::write(&path, config.to_string()).expect("it can be written");
    assert!(rig.agents[name].stop(), "the agent doesn't end");
    rig.start_agent(&node);
    rig.wait_ready(name);
    wait("it is as it was told to be", || {
        let agent = &rig.agents[name];
        serves(agent) == (services == Services::On) && is_in_force(agent)
    });
}

/// Whether a node's plan has services.
pub fn serves(agent: &Agent) -> bool {
    agent.plan().expect("there is a plan").iter().any(|row| row.contains("services_masquerade"))
}

/// What a node's kernel has of Weft's services: sets and chains of the table, and routes to their blocks, in the words of `nft` and
/// `ip`.
pub fn left(node: &Machine) -> Vec<String> {
    let table = node.run("nft", &["list", "table", "inet", "weft"]).expect("it is there");
    let ours = ["service", "endpoint", "slot", "cluster_ip", "usable", "restricted", " source", "client"];
    let names = |line: &&str| ["set ", "map ", "chain "].iter().any(|kind| line.trim().starts_with(kind));
    let mut left: Vec<String> = table
        .lines()
        .filter(names)
        .filter(|line| ours.iter().any(|word| line.contains(word)))
        .map(str::to_owned)
        .collect();
    for (family, block) in [("-4", "10.43.0.0/16"), ("-6", "fd43::/112")] {
        let routes = node.run("ip", &[family, "route", "show", block]).expect("ip runs");
        left.extend(routes.lines().map(str::to_owned));
    }
    left
}

/// At which of these TCP ports somebody listens on a node.
pub fn listening<'a>(node: &Machine, ports: &[&'a str]) -> Vec<&'a str> {
    let sockets = node.run("ss", &["-Hltn"]).expect("ss runs");
    let is_there = |port: &&&str| sockets.contains(&format!(":{port} "));
    ports.iter().filter(is_there).copied().collect()
}
