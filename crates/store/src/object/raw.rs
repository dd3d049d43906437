//! The fields of Kubernetes objects that Weft uses, as serde reads them.
//!
//! What always holds: an absent field and a `null` are alike, as they are for the API server.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Deserializer};

/// Reads `null` as the default.
fn nullable<'de, D: Deserializer<'de>, T: Default + Deserialize<'de>>(from: D) -> Result<T, D::Error> {
    Ok(Option::deserialize(from)?.unwrap_or_default())
}

macro_rules! raw {
    ($($(#[$doc:meta])* $name:ident { $($(#[$attribute:meta])* $field:ident: $type:ty),* $(,)? })*) => {$(
        $(#[$doc])*
        #[derive(Debug, Default, Deserialize)]
        #[serde(rename_all = "camelCase")]
        pub(super) struct $name {
            $(
                #[serde(default, deserialize_with = "nullable")]
                $(#[$attribute])*
                pub $field: $type,
            )*
        }
    )*};
}

/// An object of any kind, its `spec` and `status` as `S` and `T`.
#[derive(Debug, Deserialize)]
#[serde(
    rename_all = "camelCase",
    bound(deserialize = "S: Default + Deserialize<'de>, T: Default + Deserialize<'de>")
)]
pub(super) struct Object<S, T> {
    #[serde(default, deserialize_with = "nullable")]
    pub metadata: Meta,
    #[serde(default, deserialize_with = "nullable")]
    pub spec: S,
    #[serde(default, deserialize_with = "nullable")]
    pub status: T,
}

raw! {
    Nothing {}

    /// What kind of object, and which one: enough to name it in a message.
    Head { api_version: String, kind: String, metadata: HeadMeta }
    HeadMeta { name: String, namespace: String }

    Meta {
        name: String,
        namespace: String,
        uid: String,
        labels: BTreeMap<String, String>,
        annotations: BTreeMap<String, String>,
        deletion_timestamp: Option<String>,
    }

    NodeSpec {
        #[serde(rename = "podCIDR")] pod_cidr: String,
        #[serde(rename = "podCIDRs")] pod_cidrs: Vec<String>,
        taints: Vec<Taint>,
    }
    Taint { key: String }
    NodeStatus { addresses: Vec<TypedAddress> }
    TypedAddress { r#type: String, address: String }

    PodSpec {
        node_name: String,
        host_network: bool,
        hostname: String,
        subdomain: String,
        containers: Vec<Container>,
        init_containers: Vec<Container>,
    }
    Container { restart_policy: String, ports: Vec<ContainerPort> }
    ContainerPort {
        name: String,
        container_port: u32,
        host_port: u32,
        #[serde(rename = "hostIP")] host_ip: String,
        protocol: String,
    }
    PodStatus {
        phase: String,
        #[serde(rename = "podIP")] pod_ip: String,
        #[serde(rename = "podIPs")] pod_ips: Vec<PodIp>,
        conditions: Option<Vec<Condition>>,
    }
    PodIp { ip: String }
    Condition { r#type: String, status: String }

    ServiceSpec {
        r#type: String,
        #[serde(rename = "clusterIP")] cluster_ip: String,
        #[serde(rename = "clusterIPs")] cluster_ips: Vec<String>,
        ip_families: Vec<String>,
        ip_family_policy: String,
        ports: Vec<ServicePort>,
        selector: BTreeMap<String, String>,
        #[serde(rename = "externalIPs")] external_ips: Vec<String>,
        external_name: String,
        load_balancer_source_ranges: Vec<String>,
        session_affinity: String,
        session_affinity_config: AffinityConfig,
        internal_traffic_policy: String,
        external_traffic_policy: String,
        health_check_node_port: u32,
        publish_not_ready_addresses: bool,
        traffic_distribution: String,
    }
    ServicePort { name: String, protocol: String, port: u32, target_port: Option<NumberOrName>, node_port: u32 }
    AffinityConfig { #[serde(rename = "clientIP")] client_ip: ClientIp }
    ClientIp { timeout_seconds: Option<u32> }
    ServiceStatus { load_balancer: LoadBalancer }
    LoadBalancer { ingress: Vec<Ingress> }
    Ingress { ip: String, ip_mode: String }

    ServiceCidrSpec { cidrs: Vec<String> }

    EndpointSlice { metadata: Meta, address_type: String, endpoints: Vec<Endpoint>, ports: Vec<EndpointPort> }
    Endpoint {
        addresses: Vec<String>,
        conditions: EndpointConditions,
        hostname: String,
        node_name: String,
        zone: String,
        hints: Hints,
        target_ref: TargetRef,
    }
    EndpointConditions { ready: Option<bool>, serving: Option<bool>, terminating: Option<bool> }
    Hints { for_zones: Vec<Named>, for_nodes: Vec<Named> }
    Named { name: String }
    TargetRef { kind: String, namespace: String, name: String }
    EndpointPort { name: String, protocol: String, port: Option<u32> }

    Endpoints { metadata: Meta, subsets: Vec<Subset> }
    Subset { addresses: Vec<SubsetAddress>, not_ready_addresses: Vec<SubsetAddress>, ports: Vec<EndpointPort> }
    SubsetAddress { ip: String, hostname: String, node_name: String, target_ref: TargetRef }
}

/// `spec` of our own Network.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct NetworkSpec {
    #[serde(default, rename = "podCIDRs", deserialize_with = "nullable")]
    pub pod_cidrs: Vec<String>,
    pub node_prefix_v4: Option<u8>,
    pub node_prefix_v6: Option<u8>,
    #[serde(default, rename = "serviceCIDRs", deserialize_with = "nullable")]
    pub service_cidrs: Vec<String>,
    #[serde(default, deserialize_with = "nullable")]
    pub shape: String,
    #[serde(default, deserialize_with = "nullable")]
    pub overlay: String,
    pub vni: Option<u32>,
    pub vxlan_port: Option<u32>,
    #[serde(default, deserialize_with = "nullable")]
    pub no_masquerade: Vec<String>,
    pub mtu: Option<u32>,
}

/// A port by number, or by the name that a container gives it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum NumberOrName {
    Number(u32),
    Name(String),
}

impl<'de> Deserialize<'de> for NumberOrName {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl serde::de::Visitor<'_> for Visitor {
            type Value = NumberOrName;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a port's number or name")
            }
            fn visit_u64<E: serde::de::Error>(self, value: u64) -> Result<NumberOrName, E> {
                // What doesn't fit is no port either; the range check names the value's field.
                Ok(NumberOrName::Number(u32::try_from(value).unwrap_or(u32::MAX)))
            }
            fn visit_i64<E: serde::de::Error>(self, value: i64) -> Result<NumberOrName, E> {
                Ok(NumberOrName::Number(u32::try_from(value).unwrap_or(u32::MAX)))
            }
            fn visit_str<E: serde::de::Error>(self, value: &str) -> Result<NumberOrName, E> {
                Ok(NumberOrName::Name(value.to_owned()))
            }
        }
        from.deserialize_any(Visitor)
    }
}
