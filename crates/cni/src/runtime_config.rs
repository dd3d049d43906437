//! What a runtime wishes for one container: ports of the node, fixed addresses, a MAC address. Labels (`args.cni.labels`) are not read:
//! nothing goes by them.
//!
//! Wishes arrive three ways; the later wins, field by field: `CNI_ARGS`, then `args.cni` in the configuration, then
//! `runtimeConfig` (CONVENTIONS.md of the CNI project).

use std::net::IpAddr;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::args::CniArgs;
use crate::error::CniError;
use crate::field::{Object, wrong};
use crate::prefix::IpPrefix;

/// A transport protocol of a port mapping.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum HostPortProtocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
    /// SCTP.
    Sctp,
}

/// One entry of the `portMappings` capability.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PortMapping {
    /// The node's address; nothing means all. The unspecified address means all of its family.
    pub host_ip: Option<IpAddr>,
    /// The node's port, 1–65535.
    pub host_port: u16,
    /// The container's port, 1–65535.
    pub container_port: u16,
    /// The protocol; TCP where the runtime names none.
    pub protocol: HostPortProtocol,
}

impl PortMapping {
    /// Reads one as runtimes write it, field names in any case; nothing where the host port is 0, which is how Kubernetes says
    /// that it wants none.
    ///
    /// # Errors
    /// Code 7 with the field, under `path`, that can't be read.
    pub fn read(entry: &Value, path: String) -> Result<Option<Self>, CniError> {
        port_mapping(&Object::element(entry, path)?)
    }
}

/// Everything that the runtime wishes for this container.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Wishes {
    /// Fixed addresses, in the order given and without repeats.
    pub ips: Vec<IpAddr>,
    /// A unicast MAC address, lower case with colons.
    pub mac: Option<String>,
    /// Ports of the node.
    pub port_mappings: Vec<PortMapping>,
}

impl Wishes {
    /// Collects the wishes from all three places.
    ///
    /// # Errors
    /// Code 7 with the path of the field that can't be read.
    pub(crate) fn collect(root: &Object<'_>, args: &CniArgs) -> Result<Self, CniError> {
        let in_args = root.object("args")?.object("cni")?;
        let runtime = root.object("runtimeConfig")?;
        let mut wishes = Self { ips: args.ips.clone(), ..Self::default() };
        for source in [&in_args, &runtime] {
            if source.get("ips").is_some() {
                wishes.ips = addresses(source)?;
            }
        }
        let mut seen = Vec::new();
        wishes.ips.retain(|ip| !seen.contains(ip) && (seen.push(*ip), true).1);
        let asked = match (runtime.string("mac")?, in_args.string("mac")?) {
            (Some(mac), _) => Some((runtime.path("mac"), mac)),
            (None, Some(mac)) => Some((in_args.path("mac"), mac)),
            (None, None) => args.mac.as_deref().map(|mac| ("MAC in CNI_ARGS".to_owned(), mac)),
        };
        wishes.mac = asked
            .filter(|(_, mac)| !mac.is_empty())
            .map(|(path, mac)| unicast_mac(&path, mac))
            .transpose()?;
        for (path, value) in runtime.list("portMappings")? {
            wishes.port_mappings.extend(PortMapping::read(value, path)?);
        }
        Ok(wishes)
    }
}

fn addresses(source: &Object<'_>) -> Result<Vec<IpAddr>, CniError> {
    let address = |(path, text): (String, &str)| match text.parse::<IpPrefix>() {
        Ok(prefix) => Ok(prefix.address),
        Err(_) => {
            Err(wrong(&path, &text.into(), "an address such as 10.1.2.3 or fd00::3, with or without /BITS"))
        }
    };
    source.strings("ips")?.into_iter().map(address).collect()
}

/// Six pairs of hexadecimal digits joined by colons or dashes, made lower case with colons.
fn unicast_mac(path: &str, text: &str) -> Result<String, CniError> {
    let expected = "a unicast MAC address, six pairs of hexadecimal digits joined by colons";
    let refuse = || wrong(path, &text.into(), expected);
    let pairs: Vec<&str> = text.split([':', '-']).collect();
    let byte =
        |pair: &&str| u8::from_str_radix(pair, 16).ok().filter(|_| pair.len() == 2 && !pair.starts_with('+'));
    let bytes: Vec<u8> = pairs.iter().map(byte).collect::<Option<_>>().ok_or_else(refuse)?;
    if bytes.len() != 6 || bytes[0] & 1 == 1 || bytes.iter().all(|b| *b == 0) {
        return Err(refuse());
    }
    Ok(pairs.join(":").to_ascii_lowercase())
}

fn port_mapping(entry: &Object<'_>) -> Result<Option<PortMapping>, CniError> {
    let port = |key: &str| -> Result<u16, CniError> {
        Ok(u16::try_from(entry.number(key, 65_535)?.unwrap_or(0)).unwrap_or(0))
    };
    let host_port = port("hostPort")?;
    if host_port == 0 {
        return Ok(None);
    }
    let container_port = port("containerPort")?;
    if container_port == 0 {
        return Err(wrong(&entry.path("containerPort"), &Value::from(0), "from 1 to 65535"));
    }
    let protocol = entry.string("protocol")?.unwrap_or_default();
    let protocol = match protocol.to_ascii_lowercase().as_str() {
        "tcp" | "" => HostPortProtocol::Tcp,
        "udp" => HostPortProtocol::Udp,
        "sctp" => HostPortProtocol::Sctp,
        _ => return Err(wrong(&entry.path("protocol"), &protocol.into(), "tcp, udp or sctp")),
    };
    let host_ip = match entry.string("hostIP")?.filter(|text| !text.is_empty()) {
        None => None,
        Some(text) => match text.trim_start_matches('[').trim_end_matches(']').parse() {
            Ok(address) => Some(address),
            Err(_) => return Err(wrong(&entry.path("hostIP"), &text.into(), "an address of this node")),
        },
    };
    Ok(Some(PortMapping { host_ip, host_port, container_port, protocol }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn collect(input: &Value, args: &str) -> Result<Wishes, CniError> {
        Wishes::collect(&Object::root(input.as_object().unwrap()), &CniArgs::parse(args).unwrap())
    }

    #[test]
    fn the_later_place_wins_field_by_field() {
        let ip = |text: &str| text.parse::<IpAddr>().unwrap();
        let args = "IP=10.0.0.1;MAC=02:00:00:00:00:01";
        let check = |input: Value, ips: &[&str], mac: &str| {
            let wishes = collect(&input, args).unwrap();
            assert_eq!(wishes.ips, ips.iter().map(|text| ip(text)).collect::<Vec<_>>(), "{input}");
            assert_eq!(wishes.mac.as_deref(), Some(mac), "{input}");
        };
        check(json!({}), &["10.0.0.1"], "02:00:00:00:00:01");
        check(json!({"args": {"cni": {"ips": ["10.0.0.2"]}}}), &["10.0.0.2"], "02:00:00:00:00:01");
        check(
            json!({"args": {"cni": {"ips": ["10.0.0.2"], "mac": "02-00-00-00-00-0B"}},
                   "runtimeConfig": {"ips": ["10.0.0.3/24", "fd00::3", "10.0.0.3"], "mac": null}}),
            &["10.0.0.3", "fd00::3"],
            "02:00:00:00:00:0b",
        );
        check(json!({"runtimeConfig": {"mac": "06:00:00:00:00:00"}}), &["10.0.0.1"], "06:00:00:00:00:00");
    }

    #[test]
    fn port_mappings_of_runtimes_are_read() {
        let wishes = collect(
            &json!({"runtimeConfig": {"portMappings": [
                {"hostPort": 8080, "containerPort": 80, "protocol": "TCP", "hostIP": ""},
                {"hostPort": 0, "containerPort": 81},
                {"hostPort": 53, "containerPort": 5353, "protocol": "udp", "hostIP": "192.0.2.1"},
                {"hostPort": 54, "containerPort": 54, "hostIP": "[2001:db8::1]"},
                // In containerd's own words.
                {"HostPort": 8088, "ContainerPort": 8080, "Protocol": "tcp", "HostIP": ""},
            ]}, "args": {"cni": {"labels": [{"key": "app", "value": "web"}]}, "labels": {"x": "y"}}}),
            "",
        )
        .unwrap();
        let mapping = |host_ip: Option<&str>, host_port, container_port, protocol| PortMapping {
            host_ip: host_ip.map(|text| text.parse().unwrap()),
            host_port,
            container_port,
            protocol,
        };
        assert_eq!(
            wishes.port_mappings,
            [
                mapping(None, 8080, 80, HostPortProtocol::Tcp),
                mapping(Some("192.0.2.1"), 53, 5353, HostPortProtocol::Udp),
                mapping(Some("2001:db8::1"), 54, 54, HostPortProtocol::Tcp),
                mapping(None, 8088, 8080, HostPortProtocol::Tcp),
            ]
        );
        assert_eq!(
            collect(&json!({"runtimeConfig": {"portMappings": null}}), "").unwrap(),
            Wishes::default()
        );
    }

    #[test]
    fn mistakes_name_the_field() {
        let check = |input: Value, expected: &str| {
            let error = collect(&input, "").unwrap_err();
            assert_eq!((error.code.0, error.msg.as_str()), (7, expected), "{input}");
        };
        let ports = |mapping: Value| json!({"runtimeConfig": {"portMappings": [mapping]}});
        check(ports(json!({"hostPort": 70000})), "runtimeConfig.portMappings[0].hostPort is 70000");
        check(ports(json!({"hostPort": 80})), "runtimeConfig.portMappings[0].containerPort is 0");
        check(
            ports(json!({"hostPort": 80, "containerPort": 80, "protocol": "icmp"})),
            "runtimeConfig.portMappings[0].protocol is \"icmp\"",
        );
        check(
            ports(json!({"hostPort": 80, "containerPort": 80, "hostIP": "eth0"})),
            "runtimeConfig.portMappings[0].hostIP is \"eth0\"",
        );
        check(ports(json!(1)), "runtimeConfig.portMappings[0] is 1");
        check(json!({"runtimeConfig": {"ips": "10.0.0.1"}}), "runtimeConfig.ips is \"10.0.0.1\"");
        check(json!({"args": {"cni": {"ips": ["10.0.0"]}}}), "args.cni.ips[0] is \"10.0.0\"");
        for mac in [
            "ff:ff:ff:ff:ff:ff",
            "00:00:00:00:00:00",
            "02:00:00:00:00",
            "02:00:00:00:00:0g",
            "+2:00:00:00:00:00",
        ] {
            check(json!({"runtimeConfig": {"mac": mac}}), &format!("runtimeConfig.mac is \"{mac}\""));
        }
    }
}
