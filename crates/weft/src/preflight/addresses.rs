//! The machine's own addresses: what peers reach it by.

use weft_agent::AgentConfig;
use weft_model::Host;

use super::Finding;

/// What the agent would take, as it would look: configured addresses and link, or the link with the default route.
pub fn check(config: Option<&AgentConfig>) -> Vec<Finding> {
    match weft_dataplane::observe_host() {
        Ok(host) => vec![finding(&host, config)],
        Err(error) => {
            vec![Finding::warning("addresses", error.to_string(), "ip address shows what is there")]
        }
    }
}

fn finding(host: &Host, config: Option<&AgentConfig>) -> Finding {
    let configured = config.map(|config| config.addresses.as_slice()).unwrap_or_default();
    if let Some(address) = configured.iter().find(|address| host.link_of(**address).is_none()) {
        let text = format!("no link has {address}, which the configuration says is this node's");
        return Finding::missing(
            "addresses",
            text,
            "ip address add it, or mend addresses in the configuration",
        );
    }
    let named = config.and_then(|config| config.uplink);
    let uplink = match named {
        Some(name) => host.links.iter().find(|link| link.name == name),
        None => host.links.first(),
    };
    match (uplink, configured, named) {
        (_, [_, ..], _) => Finding::ok("addresses", "the configured ones are there"),
        (Some(link), ..) => {
            let list: Vec<String> = link.addresses.iter().map(|net| net.addr().to_string()).collect();
            Finding::ok("addresses", format!("{} of {}", list.join(", "), link.name))
        }
        (None, _, Some(name)) => Finding::missing(
            "addresses",
            format!("uplink {name} is no link with an address"),
            "give it one, or mend uplink in the configuration",
        ),
        (None, _, None) => Finding::missing(
            "addresses",
            "no link with an address, so peers can't reach this node",
            "ip address add ADDRESS/PREFIX dev LINK, and a default route by it",
        ),
    }
}

#[cfg(test)]
mod tests {
    use weft_model::{HostLink, IfName};

    use super::super::Verdict;
    use super::*;

    #[track_caller]
    fn check(links: &[(&str, &str)], config: serde_json::Value, expected: Verdict, word: &str) {
        let link = |(name, address): &(&str, &str)| HostLink {
            name: IfName::new(name).unwrap(),
            router_advertisements: false,
            mtu: 1500,
            addresses: vec![address.parse().unwrap()],
        };
        let host = Host { links: links.iter().map(link).collect(), ..Host::default() };
        let config: AgentConfig = serde_json::from_value(config).unwrap();
        let found = finding(&host, Some(&config));
        assert!(found.verdict == expected && found.text.contains(word), "{found:?}");
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
