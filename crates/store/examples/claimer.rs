//! A node that does nothing but hold blocks of addresses at etcd, and say so: `claimer ENDPOINTS PREFIX NODE LEASE_SECONDS`.
//!
//! While it relies on a block it prints, every few milliseconds, `BLOCK NOW UNTIL` in nanoseconds since the machine's start. Tests
//! stop it, for longer than its lease, and see whether two ever relied on one block.

use std::io::Write;
use std::time::Duration;

use weft_model::{Cidr, Network, NodeName};
use weft_store::{BootTime, EtcdOptions, EtcdStore, Hold, Store};

const PAUSE: Duration = Duration::from_millis(20);

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().collect();
    let [_, endpoints, prefix, node, lease] = &arguments[..] else {
        return Err("claimer ENDPOINTS PREFIX NODE LEASE_SECONDS".into());
    };
    let node = NodeName::new(node)?;
    let store = EtcdStore::open(EtcdOptions {
        endpoints: endpoints.split(',').map(str::to_owned).collect(),
        prefix: prefix.clone(),
        lease: Duration::from_secs(lease.parse()?),
        patience: Duration::from_secs(1),
        ..EtcdOptions::default()
    })?;
    let network = Network { pod_cidrs: vec!["10.244.0.0/21".parse()?], ..Network::ordinary() };
    let taken: [Cidr; 2] = ["10.244.0.0/24".parse()?, "10.244.5.0/24".parse()?];
    let mut blocks: Vec<Cidr> = Vec::new();
    loop {
        if blocks.is_empty() || matches!(store.hold(), Hold::Lapsed(_)) {
            blocks.clear();
            // All may be taken, or etcd away: the next turn tries again.
            blocks.extend(store.claim_pod_cidrs(&network, &node, &taken).into_iter().flat_map(|c| c.cidrs));
        }
        let hold = store.hold();
        let now = BootTime::now();
        if let Hold::Until(until) = hold
            && now < until
        {
            let mut out = std::io::stdout().lock();
            for block in &blocks {
                let [now, until] = [now, until].map(|time| time.since_boot().as_nanos());
                writeln!(out, "{block} {now} {until}")?;
            }
            out.flush()?;
        }
        std::thread::sleep(PAUSE);
    }
}
