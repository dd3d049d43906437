//! The machine's own addresses: what peers reach it by.

use std::net::IpAddr;

use weft_agent::AgentConfig;
use weft_agent::addresses::own_addresses;
use weft_model::Host;

use super::Finding;

/// What the agent would take, as it would look ([`own_addresses`]). `registered` are the addresses by which the cluster knows this node; `None`
/// where that can't be asked.
pub fn check(config: Option<&AgentConfig>, registered: Option<&[IpAddr]>) -> Vec<Finding> {
    match weft_dataplane::observe_host() {
        Ok(host) => vec![finding(&host, config, registered)],
        Err(error) => {
            vec![Finding::warning("addresses", error.to_string(), "ip address shows what is there")]
        }
    }
}

fn finding(host: &Host, config: Option<&AgentConfig>, registered: Option<&[IpAddr]>) -> Finding {
    if let Some(absent) = config.and_then(|config| config.absent_on(host)) {
        return Finding::missing("addresses", absent.problem, absent.mend);
    }
    if config.is_some_and(|config| !config.addresses.is_empty()) {
        return Finding::ok("addresses", "the configured ones are there");
    }
    let uplink = config.and_then(|config| config.uplink);
    let own = own_addresses(&[], uplink, host, registered.unwrap_or_default());
    let Some(first) = own.first() else {
        return Finding::missing(
            "addresses",
            "no link with an address, so peers can't reach this node",
            "ip address add ADDRESS/PREFIX dev LINK, and a default route by it",
        );
    };
    let link = host.link_of(first.ip).map(|link| link.name.to_string()).unwrap_or_default();
    let why = match registered {
        // What the cluster says counts for nothing, or there is nothing else to take.
        _ if uplink.is_some() || host.nets().count() == own.len() => String::new(),
        Some([]) => String::new(),
        Some(known) if known.contains(&first.ip) => ", by which the cluster knows this node".to_owned(),
        Some(known) => {
            format!("; the cluster knows this node by {}, which no link here has", list(known.iter().copied()))
        }
        None => "; should the cluster know this node by another address that is here (InternalIP), the agent takes that one, and the \
                 store could not be asked"
            .to_owned(),
    };
    Finding::ok("addresses", format!("{} of {link}{why}", list(own.iter().map(|address| address.ip))))
}

fn list(addresses: impl Iterator<Item = IpAddr>) -> String {
    addresses.map(|address| address.to_string()).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use weft_model::{HostLink, IfName};

    use super::super::Verdict;
    use super::*;

    #[track_caller]
    fn check(links: &[(&str, &str)], config: serde_json::Value, expected: Verdict, word: &str) {
        let found = found(links, config, Some(&[]));
        assert!(found.verdict == expected && found.text.contains(word), "{found:?}");
    }

    fn found(links: &[(&str, &str)], config: serde_json::Value, registered: Option<&[&str]>) -> Finding {
        let link = |(name, address): &(&str, &str)| HostLink {
            name: IfName::new(name).unwrap(),
            router_advertisements: false,
            mtu: 1500,
            addresses: vec![address.parse().unwrap()],
        };
        let host = Host { links: links.iter().map(link).collect(), ..Host::default() };
        let config: AgentConfig = serde_json::from_value(config).unwrap();
        let registered: Option<Vec<IpAddr>> =
            registered.map(|known| known.iter().map(|ip| ip.parse().unwrap()).collect());
        finding(&host, Some(&config), registered.as_deref())
    }

    #[test]
    fn what_the_cluster_knows_counts_as_it_does_for_the_agent() {
        let two = [("eth0", "192.0.2.1/24"), ("eth1", "10.99.0.1/24")];
        let check = |links: &[(&str, &str)], config: serde_json::Value, registered, expected: &str| {
            let found = found(links, config, registered);
            let text = found.text.split(" (InternalIP)").next().unwrap();
            assert_eq!((found.verdict, text), (Verdict::Ok, expected));
        };
        let plain = || serde_json::json!({"store": {"directory": "/x"}});
        check(&two, plain(), Some(&[]), "192.0.2.1 of eth0");
        check(&two, plain(), Some(&["10.99.0.1"]), "10.99.0.1 of eth1, by which the cluster knows this node");
        check(
            &two,
            plain(),
            Some(&["203.0.113.7"]),
            "192.0.2.1 of eth0; the cluster knows this node by 203.0.113.7, which no link here has",
        );
        check(
            &two,
            plain(),
            None,
            "192.0.2.1 of eth0; should the cluster know this node by another address that is here",
        );
        check(&two[..1], plain(), None, "192.0.2.1 of eth0");
        let named = serde_json::json!({"store": {"directory": "/x"}, "uplink": "eth0"});
        check(&two, named, Some(&["10.99.0.1"]), "192.0.2.1 of eth0");
    }

    #[test]
    fn a_node_needs_an_address_that_is_there() {
        use serde_json::json;
        let store = json!({"directory": "/x"});
        let plain = || json!({"store": store});
        check(&[("eth0", "192.0.2.1/24")], plain(), Verdict::Ok, "192.0.2.1 of eth0");
        check(&[], plain(), Verdict::Missing, "no link with an address");
        let link = |name: &str| json!({"store": store, "uplink": name});
        check(&[("eth0", "192.0.2.1/24"), ("eth1", "192.0.2.9/24")], link("eth1"), Verdict::Ok, "192.0.2.9");
        check(&[("eth0", "192.0.2.1/24")], link("eth9"), Verdict::Missing, "eth9");
        let fixed = |address: &str| json!({"store": store, "addresses": [address]});
        check(&[("eth0", "192.0.2.1/24")], fixed("192.0.2.1"), Verdict::Ok, "configured");
        check(&[("eth0", "192.0.2.1/24")], fixed("192.0.2.7"), Verdict::Missing, "192.0.2.7");
    }
}
