//! The fields of Kubernetes objects that Weft uses, as serde reads them.
//!
//! What always holds: an absent field and a `null` are alike, as they are for the API server. A structure is read from a mapping, and never by
//! position from a list; a field that stands twice is an error.

use std::collections::BTreeMap;
use std::fmt;

use serde::de::{Error, IgnoredAny, MapAccess, Visitor};
use serde::{Deserialize, Deserializer, forward_to_deserialize_any};

/// Reads `null` as the default.
fn nullable<'de, D: Deserializer<'de>, T: Default + Deserialize<'de>>(from: D) -> Result<T, D::Error> {
    Ok(Option::deserialize(from)?.unwrap_or_default())
}

/// A deserializer of a structure that takes mappings only: what serde derives would take a list as well.
pub(crate) struct Mapping<D>(pub D);

impl<'de, D: Deserializer<'de>> Deserializer<'de> for Mapping<D> {
    type Error = D::Error;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, D::Error> {
        self.0.deserialize_map(OfMapping(visitor))
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf option unit unit_struct
        newtype_struct seq tuple tuple_struct map struct enum identifier ignored_any
    }
}

struct OfMapping<V>(V);

impl<'de, V: Visitor<'de>> Visitor<'de> for OfMapping<V> {
    type Value = V::Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a mapping")
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<V::Value, A::Error> {
        self.0.visit_map(map)
    }
}

/// Lets a type whose derived reader is a function of its own (`remote = "Self"`) be read from mappings.
macro_rules! from_mapping {
    ($($name:ident)*) => {$(
        impl<'de> serde::Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
                $name::deserialize($crate::object::raw::Mapping(from))
            }
        }
    )*};
}
pub(crate) use from_mapping;

/// Texts by their names: labels and selectors.
#[derive(Debug, Default)]
pub(super) struct Texts(BTreeMap<String, String>);

impl std::ops::Deref for Texts {
    type Target = BTreeMap<String, String>;
    fn deref(&self) -> &Self::Target {
        &self.0
    }
}

/// Annotations, as far as Weft reads them: those of its own and of flannel's. What others write into theirs is their business.
#[derive(Debug, Default)]
pub(super) struct Annotations(BTreeMap<String, String>);

impl Annotations {
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str)
    }
}

/// Reads texts by their names, of which `is_read` says which count.
struct TextsOf(fn(&str) -> bool);

impl<'de> Visitor<'de> for TextsOf {
    type Value = BTreeMap<String, String>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a mapping")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut texts = BTreeMap::new();
        while let Some(name) = map.next_key::<String>()? {
            if !self.0(&name) {
                map.next_value::<IgnoredAny>()?;
                continue;
            }
            let text: Option<String> = map.next_value()?;
            if texts.contains_key(&name) {
                return Err(A::Error::custom(super::tree::given_twice(&name)));
            }
            texts.insert(name, text.unwrap_or_default());
        }
        Ok(texts)
    }
}

impl<'de> Deserialize<'de> for Texts {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        from.deserialize_map(TextsOf(|_| true)).map(Texts)
    }
}

impl<'de> Deserialize<'de> for Annotations {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let is_read =
            |name: &str| name.starts_with("weft.dev/") || name.starts_with("flannel.alpha.coreos.com/");
        from.deserialize_map(TextsOf(is_read)).map(Annotations)
    }
}

macro_rules! raw {
    ($($(#[$doc:meta])* $name:ident { $($(#[$attribute:meta])* $field:ident: $type:ty),* $(,)? })*) => {$(
        $(#[$doc])*
        #[derive(Debug, Default, Deserialize)]
        #[serde(rename_all = "camelCase", remote = "Self")]
        pub(super) struct $name {
            $(
                #[serde(default, deserialize_with = "nullable")]
                $(#[$attribute])*
                pub $field: $type,
            )*
        }
        from_mapping!($name);
    )*};
}

/// An object of any kind, its `spec` and `status` as `S` and `T`.
#[derive(Debug, Deserialize)]
#[serde(
    rename_all = "camelCase",
    remote = "Self",
    bound(deserialize = "S: Default + Deserialize<'de>, T: Default + Deserialize<'de>")
)]
pub(super) struct Object<S, T> {
    /// Read before; here only so that it is noticed where it stands twice.
    #[serde(default, rename = "apiVersion")]
    _api_version: IgnoredAny,
    #[serde(default, rename = "kind")]
    _kind: IgnoredAny,
    #[serde(default, deserialize_with = "nullable")]
    pub metadata: Meta,
    #[serde(default, deserialize_with = "nullable")]
    pub spec: S,
    #[serde(default, deserialize_with = "nullable")]
    pub status: T,
}

impl<'de, S, T> Deserialize<'de> for Object<S, T>
where
    S: Default + Deserialize<'de>,
    T: Default + Deserialize<'de>,
{
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        Object::deserialize(Mapping(from))
    }
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
        labels: Texts,
        annotations: Annotations,
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
        selector: Texts,
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

    EndpointSlice {
        #[serde(rename = "apiVersion")] _api_version: IgnoredAny,
        #[serde(rename = "kind")] _kind: IgnoredAny,
        metadata: Meta,
        address_type: String,
        endpoints: Vec<Endpoint>,
        ports: Vec<EndpointPort>,
    }
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

    Endpoints {
        #[serde(rename = "apiVersion")] _api_version: IgnoredAny,
        #[serde(rename = "kind")] _kind: IgnoredAny,
        metadata: Meta,
        subsets: Vec<Subset>,
    }
    Subset { addresses: Vec<SubsetAddress>, not_ready_addresses: Vec<SubsetAddress>, ports: Vec<EndpointPort> }
    SubsetAddress { ip: String, hostname: String, node_name: String, target_ref: TargetRef }
}

/// `spec` of our own Network.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, remote = "Self")]
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

from_mapping!(NetworkSpec);

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
            fn visit_u64<E: Error>(self, value: u64) -> Result<NumberOrName, E> {
                // What doesn't fit is no port either; the range check names the value's field.
                Ok(NumberOrName::Number(u32::try_from(value).unwrap_or(u32::MAX)))
            }
            fn visit_i64<E: Error>(self, value: i64) -> Result<NumberOrName, E> {
                Ok(NumberOrName::Number(u32::try_from(value).unwrap_or(u32::MAX)))
            }
            fn visit_str<E: Error>(self, value: &str) -> Result<NumberOrName, E> {
                Ok(NumberOrName::Name(value.to_owned()))
            }
        }
        from.deserialize_any(Visitor)
    }
}
