//! From one object of any kind to facts.

use std::net::{IpAddr, Ipv4Addr};

use serde::de::DeserializeOwned;
use serde_json::Value;
use weft_model::{Fact, Namespace, NamespaceName, ObjectKey, ObjectName, Protocol};

use super::raw::{self, Head, Meta, NetworkSpec, Nothing, Object, ServiceCidrSpec};
use super::{Interner, ObjectError, error, network, node, pod, service, service_cidr, slice};

/// A fact, as far as one object tells it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decoded {
    /// The fact.
    pub fact: Fact,
    /// For a pod that has conditions: whether it is Ready. What their absence means is the store's business; the
    /// fact says "not ready".
    pub ready: Option<bool>,
}

/// A kind that Weft has no use for.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct UnknownKind {
    /// Its `apiVersion`.
    pub api_version: String,
    /// Its `kind`.
    pub kind: String,
}

/// What an object is to Weft.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// These facts: one, or for Endpoints any number.
    Facts(Vec<Decoded>),
    /// Nothing.
    Unknown(UnknownKind),
}

/// `apiVersion` and `kind`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ObjectId {
    /// Group and version, such as `v1` or `discovery.k8s.io/v1`.
    pub api_version: String,
    /// The kind, such as `Pod`.
    pub kind: String,
}

impl ObjectId {
    /// True for a list of objects.
    pub(super) fn is_list(&self) -> bool {
        self.kind.ends_with("List")
    }

    /// The kind of a typed list's items, which need not repeat it.
    pub(super) fn of_items(&self) -> ObjectId {
        ObjectId {
            api_version: self.api_version.clone(),
            kind: self.kind.strip_suffix("List").unwrap_or_default().to_owned(),
        }
    }
}

/// Where the fields come from: text, or a tree that was read already.
pub(super) trait Reader {
    fn read<T: DeserializeOwned>(&self) -> Result<T, ObjectError>;
}

impl Reader for Value {
    fn read<T: DeserializeOwned>(&self) -> Result<T, ObjectError> {
        // Keeping the path along the way doubles the time: only what is wrong is read so.
        if let Ok(read) = T::deserialize(self) {
            return Ok(read);
        }
        serde_path_to_error::deserialize(self).map_err(|e| {
            let mut reason = e.inner().to_string();
            // In YAML a label `1` or `no` is a number or a truth.
            let starts = |kind| reason.starts_with(&format!("invalid type: {kind}"));
            if reason.ends_with("expected a string") && ["integer", "floating", "boolean"].iter().any(starts)
            {
                reason.push_str("; put it in quotes");
            }
            ObjectError::at(error::path_of(e.path()), reason)
        })
    }
}

/// JSON text whose fields are read straight into their types: what isn't used is passed over, and never kept.
struct Json<'a>(&'a str);

impl Reader for Json<'_> {
    fn read<T: DeserializeOwned>(&self) -> Result<T, ObjectError> {
        if let Ok(read) = serde_json::from_str(self.0) {
            return Ok(read);
        }
        let mut from = serde_json::Deserializer::from_str(self.0);
        let read = serde_path_to_error::deserialize(&mut from)
            .map_err(|e| ObjectError::at(error::path_of(e.path()), e.inner()))?;
        from.end().map_err(|e| ObjectError::at("", e))?;
        Ok(read)
    }
}

/// Decodes one object, which is no list, of a kind that is known, out of JSON text.
pub fn decode_text(id: &ObjectId, text: &str, names: &mut Interner) -> Result<Outcome, ObjectError> {
    decode(id, &Json(text), names)
}

/// Decodes one object, or each of a list's, out of a JSON tree. `usual` is the kind where the object doesn't say.
pub fn decode_value(
    value: &Value,
    usual: &ObjectId,
    names: &mut Interner,
) -> Vec<Result<Outcome, ObjectError>> {
    let text = |field: &str, usual: &str| match value.get(field).and_then(Value::as_str) {
        Some(text) if !text.is_empty() => text.to_owned(),
        _ => usual.to_owned(),
    };
    let id =
        ObjectId { api_version: text("apiVersion", &usual.api_version), kind: text("kind", &usual.kind) };
    if !id.is_list() {
        return vec![decode(&id, value, names)];
    }
    let items = match value.get("items") {
        None | Some(Value::Null) => return Vec::new(),
        Some(Value::Array(items)) => items,
        Some(_) => return vec![Err(ObjectError::at("items", "it must be a list of objects"))],
    };
    let usual = id.of_items();
    let mut outcomes = Vec::with_capacity(items.len());
    for (i, item) in items.iter().enumerate() {
        let prefix = format!("items[{i}]");
        let decoded = decode_value(item, &usual, names).into_iter();
        outcomes.extend(decoded.map(|outcome| outcome.map_err(|e| e.under(&prefix))));
    }
    outcomes
}

/// Decodes one object that is no list.
pub(super) fn decode<R: Reader>(
    id: &ObjectId,
    from: &R,
    names: &mut Interner,
) -> Result<Outcome, ObjectError> {
    if id.kind.is_empty() || id.api_version.is_empty() {
        let field = if id.kind.is_empty() { "kind" } else { "apiVersion" };
        let reason =
            "it is missing; every Kubernetes object has it (is this another kind of file? move it elsewhere)";
        return Err(ObjectError::at(field, reason));
    }
    decode_kind(id, from, names).map_err(|e| e.of(&named(id, from)))
}

fn decode_kind<R: Reader>(id: &ObjectId, from: &R, names: &mut Interner) -> Result<Outcome, ObjectError> {
    let one = |fact| Ok(Outcome::Facts(vec![Decoded { fact, ready: None }]));
    let unknown = |kind: &str| {
        Ok(Outcome::Unknown(UnknownKind { api_version: id.api_version.clone(), kind: kind.to_owned() }))
    };
    match (id.api_version.as_str(), id.kind.as_str()) {
        ("v1", "Node") => one(Fact::Node(node::node(&from.read()?, names)?)),
        ("v1", "Namespace") => {
            let raw: Object<Nothing, Nothing> = from.read()?;
            let name = names.namespace(&raw.metadata.name);
            let name = name.map_err(|e| ObjectError::at("metadata.name", e))?;
            one(Fact::Namespace(Namespace { name, labels: names.labels(&raw.metadata.labels) }))
        }
        ("v1", "Pod") => {
            let (pod, ready) = pod::pod(&from.read()?, names)?;
            Ok(Outcome::Facts(vec![Decoded { fact: Fact::Pod(pod), ready }]))
        }
        ("v1", "Service") => one(Fact::Service(service::service(&from.read()?, names)?)),
        ("discovery.k8s.io/v1", "EndpointSlice") => {
            let raw: raw::EndpointSlice = from.read()?;
            match slice::endpoint_slice(&raw, names)? {
                Some(slice) => one(Fact::EndpointSlice(slice)),
                None => unknown("EndpointSlice of addressType FQDN"),
            }
        }
        ("v1", "Endpoints") => {
            let slices = slice::endpoints(&from.read()?, names)?;
            let fact = |slice| Decoded { fact: Fact::EndpointSlice(slice), ready: None };
            Ok(Outcome::Facts(slices.into_iter().map(fact).collect()))
        }
        ("weft.dev/v1", "Network") => {
            let raw: Object<NetworkSpec, Nothing> = from.read()?;
            one(Fact::Network(network::network(&raw.metadata, &raw.spec)?))
        }
        ("networking.k8s.io/v1", "ServiceCIDR") => {
            let raw: Object<ServiceCidrSpec, Nothing> = from.read()?;
            one(Fact::ServiceCidr(service_cidr::service_cidr(&raw.metadata, &raw.spec)?))
        }
        _ => unknown(&id.kind),
    }
}

/// What a person calls the object: `service shop/web`.
fn named<R: Reader>(id: &ObjectId, from: &R) -> String {
    let kind = id.kind.to_lowercase();
    let Ok(Head { metadata, .. }) = from.read::<Head>() else { return kind };
    match (metadata.namespace.as_str(), metadata.name.as_str()) {
        (_, "") => kind,
        ("", name) if matches!(id.kind.as_str(), "Node" | "Namespace" | "Network" | "ServiceCIDR") => {
            format!("{kind} {name}")
        }
        ("", name) => format!("{kind} default/{name}"),
        (namespace, name) => format!("{kind} {namespace}/{name}"),
    }
}

/// Namespace and name; the namespace is `default` where none is given.
pub(super) fn key_of(meta: &Meta, names: &mut Interner) -> Result<ObjectKey, ObjectError> {
    let namespace = if meta.namespace.is_empty() { "default" } else { &meta.namespace };
    let namespace: NamespaceName =
        names.namespace(namespace).map_err(|e| ObjectError::at("metadata.namespace", e))?;
    let name = ObjectName::new(&meta.name).map_err(|e| ObjectError::at("metadata.name", e))?;
    Ok(ObjectKey { namespace, name })
}

/// An address as API servers take it: older ones let zeros stand before an IPv4 address's numbers, which are decimal all the
/// same (KEP-4858), and what they stored once they never refuse again. IPv4 inside IPv6 is IPv4.
pub(super) fn ip(text: &str) -> Result<IpAddr, String> {
    let read = text.parse::<IpAddr>().or_else(|_| without_zeros(text).parse::<Ipv4Addr>().map(IpAddr::V4));
    read.map(|ip| ip.to_canonical()).map_err(|_| format!("{text:?} is no IP address"))
}

fn without_zeros(text: &str) -> String {
    let short = |number: &str| match number.trim_start_matches('0') {
        "" if !number.is_empty() => "0".to_owned(),
        kept => kept.to_owned(),
    };
    text.split('.').map(short).collect::<Vec<_>>().join(".")
}

/// A protocol; TCP where none is given.
pub(super) fn protocol(text: &str) -> Result<Protocol, weft_model::InvalidNet> {
    if text.is_empty() { Ok(Protocol::Tcp) } else { text.parse() }
}
