//! What a configuration names of this machine's links, and whether it is there.

use weft_model::Host;

use super::AgentConfig;

/// An address or a link that the configuration names and that this machine hasn't.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Absent {
    /// What is wrong, with its field.
    pub problem: String,
    /// What to do.
    pub mend: &'static str,
}

impl AgentConfig {
    /// What is named by `addresses`, or else by `uplink`, and isn't there now.
    pub fn absent_on(&self, host: &Host) -> Option<Absent> {
        if let Some(address) = self.addresses.iter().find(|address| !host.has(**address)) {
            return Some(Absent {
                problem: format!("addresses: no link of this machine has {address}"),
                mend: "ip address add it, or mend `addresses` in the configuration",
            });
        }
        let uplink = self.uplink.filter(|uplink| host.links.iter().all(|link| link.name != *uplink))?;
        // Peers may be reached all the same, by the addresses that are named.
        Some(Absent {
            problem: format!("uplink: {uplink} is no link with a global address here"),
            mend: "give it one, or mend `uplink` in the configuration",
        })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};
    use weft_model::{HostLink, IfName};

    use super::*;

    #[test]
    fn what_is_named_must_be_there() {
        let check = |named: Value, expected: Option<&str>| {
            let mut config = json!({"store": {"directory": "/x"}});
            config.as_object_mut().unwrap().extend(named.as_object().unwrap().clone());
            let config: AgentConfig = serde_json::from_value(config).unwrap();
            let link = HostLink {
                name: IfName::new("eth0").unwrap(),
                mtu: 1500,
                router_advertisements: false,
                addresses: vec!["192.0.2.1/24".parse().unwrap()],
            };
            let host = Host { links: vec![link], loopback: vec!["198.51.100.1".parse().unwrap()] };
            assert_eq!(config.absent_on(&host).map(|absent| absent.problem).as_deref(), expected);
        };
        check(json!({}), None);
        check(json!({"addresses": ["192.0.2.1"], "uplink": "eth0"}), None);
        // A router's address is on the loopback link, as a rule.
        check(json!({"addresses": ["198.51.100.1"]}), None);
        check(
            json!({"addresses": ["192.0.2.1", "192.0.2.9"]}),
            Some("addresses: no link of this machine has 192.0.2.9"),
        );
        let uplink = Some("uplink: eth7 is no link with a global address here");
        check(json!({"uplink": "eth7"}), uplink);
        check(json!({"uplink": "eth7", "addresses": ["192.0.2.1"]}), uplink);
    }
}
