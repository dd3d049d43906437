//! The result of an ADD: the interfaces, addresses, routes and names that a container got.
//!
//! What always holds: one shape in memory, that of 1.1.0; [`AddResult::render`] leaves out what the asking version
//! does not know, and adds the address family that versions before 1.0.0 want. Results of all versions parse.
//!
//! Source: CNI specification 1.1.0 §5 "Result Types".

use std::net::IpAddr;

use serde::{Deserialize, Deserializer, Serialize};
use serde_json::{Map, Value, json};

use crate::Version;
use crate::error::{CniError, Code};
use crate::prefix::IpPrefix;

/// Reads `null` as the default: Go writes it for empty lists.
fn nullable<'de, D: Deserializer<'de>, T: Deserialize<'de> + Default>(input: D) -> Result<T, D::Error> {
    Ok(Option::deserialize(input)?.unwrap_or_default())
}

/// Reads an empty address as absent, as some plugins write `"gw": ""`.
fn maybe_address<'de, D: Deserializer<'de>>(input: D) -> Result<Option<IpAddr>, D::Error> {
    let text: Option<String> = Option::deserialize(input)?;
    let text = text.filter(|text| !text.is_empty());
    text.map(|text| text.parse().map_err(serde::de::Error::custom)).transpose()
}

/// One interface that a plugin made.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Interface {
    /// Its name.
    #[serde(deserialize_with = "nullable")]
    pub name: String,
    /// Its MAC address; empty where there is none.
    #[serde(deserialize_with = "nullable")]
    pub mac: String,
    /// MTU in bytes (1.1.0).
    pub mtu: Option<u32>,
    /// Path of the network namespace; empty on the host.
    #[serde(deserialize_with = "nullable")]
    pub sandbox: String,
    /// Path of a vhost-user socket or the like (1.1.0).
    pub socket_path: Option<String>,
    /// The PCI device behind it (1.1.0).
    #[serde(rename = "pciID")]
    pub pci_id: Option<String>,
}

/// One address.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct IpConfig {
    /// The address with its prefix.
    pub address: IpPrefix,
    /// The next hop towards the default route.
    #[serde(default, deserialize_with = "maybe_address")]
    pub gateway: Option<IpAddr>,
    /// Index into the list of interfaces; an IPAM result has none.
    #[serde(default)]
    pub interface: Option<usize>,
}

/// One route in the container.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Route {
    /// The destination.
    pub dst: IpPrefix,
    /// The next hop; nothing means the address's gateway, or on the link.
    #[serde(default, deserialize_with = "maybe_address")]
    pub gw: Option<IpAddr>,
    /// MTU of the path in bytes (1.1.0).
    #[serde(default)]
    pub mtu: Option<u32>,
    /// TCP maximum segment size in bytes (1.1.0).
    #[serde(default)]
    pub advmss: Option<u32>,
    /// Priority; the smaller wins (1.1.0).
    #[serde(default)]
    pub priority: Option<u32>,
    /// Routing table (1.1.0).
    #[serde(default)]
    pub table: Option<u32>,
    /// Scope: 0 global, 253 link, 254 host (1.1.0).
    #[serde(default)]
    pub scope: Option<u32>,
}

impl Route {
    /// A route by a next hop and nothing more.
    pub fn via(dst: IpPrefix, gw: Option<IpAddr>) -> Self {
        Self { dst, gw, mtu: None, advmss: None, priority: None, table: None, scope: None }
    }
}

/// Settings for the container's resolver.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Dns {
    /// Servers, best first.
    #[serde(deserialize_with = "nullable", skip_serializing_if = "Vec::is_empty")]
    pub nameservers: Vec<String>,
    /// The local domain.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub domain: Option<String>,
    /// Search list.
    #[serde(deserialize_with = "nullable", skip_serializing_if = "Vec::is_empty")]
    pub search: Vec<String>,
    /// Resolver options, as in resolv.conf.
    #[serde(deserialize_with = "nullable", skip_serializing_if = "Vec::is_empty")]
    pub options: Vec<String>,
}

/// What a container got.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct AddResult {
    /// Interfaces, on the host and in the container.
    #[serde(deserialize_with = "nullable")]
    pub interfaces: Vec<Interface>,
    /// Addresses.
    #[serde(deserialize_with = "nullable")]
    pub ips: Vec<IpConfig>,
    /// Routes in the container.
    #[serde(deserialize_with = "nullable")]
    pub routes: Vec<Route>,
    /// The resolver.
    #[serde(deserialize_with = "nullable")]
    pub dns: Dns,
}

impl AddResult {
    /// Reads a result of any version that we speak, such as `prevResult`. Its own `cniVersion`, where it has one,
    /// must be among them.
    ///
    /// # Errors
    /// Code 1 for a version of another shape, code 6 for what is no result.
    pub fn parse(value: &Value) -> Result<Self, CniError> {
        if let Some(version) = value.get("cniVersion").and_then(Value::as_str).filter(|text| !text.is_empty())
        {
            Version::negotiate(Some(version), &[])?;
        }
        Self::deserialize(value).map_err(|error| {
            let mend = format!("{error}; it must be the result of the plugin before this one");
            CniError::new(Code::DECODING_FAILURE, "prevResult can't be read", mend)
        })
    }

    /// This result after those of the plugins before: their interfaces first, then ours with indexes moved on.
    #[must_use]
    pub fn after(mut self, previous: AddResult) -> Self {
        let moved = previous.interfaces.len();
        for index in self.ips.iter_mut().filter_map(|ip| ip.interface.as_mut()) {
            *index += moved;
        }
        let mut merged = previous;
        merged.interfaces.append(&mut self.interfaces);
        merged.ips.append(&mut self.ips);
        merged.routes.append(&mut self.routes);
        if self.dns != Dns::default() {
            merged.dns = self.dns;
        }
        merged
    }

    /// As JSON in `version`, `cniVersion` included.
    pub fn render(&self, version: Version) -> Value {
        let mut object = Map::new();
        object.insert("cniVersion".to_owned(), version.as_str().into());
        let mut list = |key: &str, items: Vec<Value>| {
            if !items.is_empty() {
                object.insert(key.to_owned(), items.into());
            }
        };
        list("interfaces", self.interfaces.iter().map(|interface| interface.render(version)).collect());
        list("ips", self.ips.iter().map(|ip| ip.render(version)).collect());
        list("routes", self.routes.iter().map(|route| route.render(version)).collect());
        object.insert("dns".to_owned(), json!(self.dns));
        object.into()
    }
}

/// Adds `key` where there is a value.
fn put(object: &mut Value, key: &str, value: Option<impl Into<Value>>) {
    if let Some(value) = value {
        object[key] = value.into();
    }
}

/// Text that counts only where it is not empty.
fn filled(text: &str) -> Option<&str> {
    Some(text).filter(|text| !text.is_empty())
}

impl Interface {
    fn render(&self, version: Version) -> Value {
        let mut object = json!({"name": self.name});
        put(&mut object, "mac", filled(&self.mac));
        put(&mut object, "sandbox", filled(&self.sandbox));
        if version >= Version::V1_1_0 {
            put(&mut object, "mtu", self.mtu);
            put(&mut object, "socketPath", self.socket_path.as_deref());
            put(&mut object, "pciID", self.pci_id.as_deref());
        }
        object
    }
}

impl IpConfig {
    fn render(&self, version: Version) -> Value {
        let mut object = json!({"address": self.address});
        put(&mut object, "gateway", self.gateway.map(|gateway| gateway.to_string()));
        put(&mut object, "interface", self.interface);
        if version < Version::V1_0_0 {
            object["version"] = if self.address.address.is_ipv4() { "4" } else { "6" }.into();
        }
        object
    }
}

impl Route {
    fn render(&self, version: Version) -> Value {
        let mut object = json!({"dst": self.dst});
        put(&mut object, "gw", self.gw.map(|gw| gw.to_string()));
        if version >= Version::V1_1_0 {
            put(&mut object, "mtu", self.mtu);
            put(&mut object, "advmss", self.advmss);
            put(&mut object, "priority", self.priority);
            put(&mut object, "table", self.table);
            put(&mut object, "scope", self.scope);
        }
        object
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> AddResult {
        AddResult {
            interfaces: vec![
                Interface {
                    name: "weftp1".into(),
                    mac: "02:00:00:00:00:01".into(),
                    mtu: Some(1450),
                    ..Interface::default()
                },
                Interface {
                    name: "eth0".into(),
                    mac: "02:00:00:00:00:02".into(),
                    mtu: Some(1450),
                    sandbox: "/run/netns/a".into(),
                    ..Interface::default()
                },
            ],
            ips: vec![
                IpConfig {
                    address: "10.1.2.3/32".parse().unwrap(),
                    gateway: Some([169, 254, 1, 1].into()),
                    interface: Some(1),
                },
                IpConfig { address: "fd00::3/128".parse().unwrap(), gateway: None, interface: Some(1) },
            ],
            routes: vec![Route {
                mtu: Some(1400),
                ..Route::via("0.0.0.0/0".parse().unwrap(), Some([169, 254, 1, 1].into()))
            }],
            dns: Dns { nameservers: vec!["10.96.0.10".into()], ..Dns::default() },
        }
    }

    /// The sample as a version without the newest fields can carry it.
    fn without_new_fields(mut result: AddResult) -> AddResult {
        result.interfaces.iter_mut().for_each(|interface| interface.mtu = None);
        result.routes.iter_mut().for_each(|route| route.mtu = None);
        result
    }

    #[test]
    fn each_version_has_its_own_shape() {
        insta::assert_snapshot!(sample().render(Version::V0_3_1), @r#"{"cniVersion":"0.3.1","dns":{"nameservers":["10.96.0.10"]},"interfaces":[{"mac":"02:00:00:00:00:01","name":"weftp1"},{"mac":"02:00:00:00:00:02","name":"eth0","sandbox":"/run/netns/a"}],"ips":[{"address":"10.1.2.3/32","gateway":"169.254.1.1","interface":1,"version":"4"},{"address":"fd00::3/128","interface":1,"version":"6"}],"routes":[{"dst":"0.0.0.0/0","gw":"169.254.1.1"}]}"#);
        insta::assert_snapshot!(sample().render(Version::V1_0_0), @r#"{"cniVersion":"1.0.0","dns":{"nameservers":["10.96.0.10"]},"interfaces":[{"mac":"02:00:00:00:00:01","name":"weftp1"},{"mac":"02:00:00:00:00:02","name":"eth0","sandbox":"/run/netns/a"}],"ips":[{"address":"10.1.2.3/32","gateway":"169.254.1.1","interface":1},{"address":"fd00::3/128","interface":1}],"routes":[{"dst":"0.0.0.0/0","gw":"169.254.1.1"}]}"#);
        insta::assert_snapshot!(sample().render(Version::V1_1_0), @r#"{"cniVersion":"1.1.0","dns":{"nameservers":["10.96.0.10"]},"interfaces":[{"mac":"02:00:00:00:00:01","mtu":1450,"name":"weftp1"},{"mac":"02:00:00:00:00:02","mtu":1450,"name":"eth0","sandbox":"/run/netns/a"}],"ips":[{"address":"10.1.2.3/32","gateway":"169.254.1.1","interface":1},{"address":"fd00::3/128","interface":1}],"routes":[{"dst":"0.0.0.0/0","gw":"169.254.1.1","mtu":1400}]}"#);
    }

    #[test]
    fn what_a_version_renders_it_parses_again() {
        for version in Version::ALL {
            let expected = if version == Version::V1_1_0 { sample() } else { without_new_fields(sample()) };
            assert_eq!(AddResult::parse(&sample().render(version)), Ok(expected), "{version}");
        }
    }

    #[test]
    fn results_of_other_plugins_parse() {
        let check = |value: Value, expected: Result<usize, u32>| {
            let got = AddResult::parse(&value).map(|result| result.ips.len()).map_err(|error| error.code.0);
            assert_eq!(got, expected, "{value}");
        };
        check(json!({}), Ok(0));
        check(json!({"interfaces": null, "ips": null, "routes": null, "dns": {}}), Ok(0));
        check(
            json!({"ips": [{"version": "4", "address": "10.0.0.5/32", "interface": 2}], "dns": null}),
            Ok(1),
        );
        check(json!({"cniVersion": "1.0.0", "routes": [{"dst": "0.0.0.0/0", "gw": ""}]}), Ok(0));
        check(json!({"cniVersion": "0.2.0", "ip4": {"ip": "10.0.0.5/24"}}), Err(1));
        check(json!({"ips": [{"address": "10.0.0.300/24"}]}), Err(6));
        check(json!({"ips": 7}), Err(6));
        check(json!("x"), Err(6));
    }

    #[test]
    fn a_chained_result_keeps_what_came_before() {
        let merged = sample().after(without_new_fields(sample()));
        assert_eq!(merged.interfaces.len(), 4);
        assert_eq!(
            merged.ips.iter().map(|ip| ip.interface).collect::<Vec<_>>(),
            [Some(1), Some(1), Some(3), Some(3)]
        );
        assert_eq!(merged.dns, sample().dns);
        let kept = AddResult::default().after(sample());
        assert_eq!(kept, sample());
    }
}
