//! What Weft needs of a machine, checked one by one.
//!
//! Each check looks, and gives findings; none changes anything. What can be read from files is read below a
//! [`Machine`]'s root, so that it can be tested without one; what only the kernel can tell is tried in a network namespace
//! of its own ([`trial`]).
//!
//! What it does not do: look into the cluster, or at other nodes.

mod addresses;
mod finding;
mod firewalls;
mod machine;
mod neighbours;
mod ports;
mod rights;
mod runtimes;
mod storage;
mod sysctls;
mod trial;

pub use finding::{Finding, Verdict};
pub use machine::Machine;

use weft_agent::AgentConfig;
use weft_agent::config::{CniConfig, DnsConfig, ServicesConfig};
use weft_model::Port;

/// Looks at everything. Without a configuration, what depends on one is looked at with the customary values.
pub fn examine(machine: &Machine, config: Option<&AgentConfig>) -> Vec<Finding> {
    let (usual_cni, usual_dns) = (CniConfig::default(), DnsConfig::default());
    let cni = config.map_or(&usual_cni, |config| &config.cni);
    let dns = config.map_or(&usual_dns, |config| &config.dns);
    let addresses = config.map(AgentConfig::dns_addresses).unwrap_or_else(|| dns.link_local.clone());
    let (storage, cluster) = storage::check(machine, config);
    let mut findings = rights::check(machine);
    // Without the rights each trial would fail for the same reason.
    if findings.iter().all(|finding| finding.verdict == Verdict::Ok) {
        findings.extend(trial::check());
        findings.extend(firewalls::check());
    }
    findings.extend(addresses::check(config, cluster.registered.as_deref()));
    findings.extend(sysctls::check(machine, &cluster));
    let usual_health = || Port::new(u32::from(ServicesConfig::default().health_port)).ok();
    let health = config.map_or_else(usual_health, AgentConfig::health_port);
    findings.extend(ports::check(machine, &addresses, &cluster.networks, health));
    findings.extend(runtimes::check(machine, cni));
    findings.extend(neighbours::check(machine));
    findings.extend(neighbours::resolver(machine, dns));
    findings.extend(storage);
    findings
}
