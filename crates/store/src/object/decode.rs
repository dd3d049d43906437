//! From one object of any kind to facts.

use std::cell::Cell;
use std::net::{IpAddr, Ipv4Addr};
use std::ops::ControlFlow;

use serde::de::{DeserializeOwned, DeserializeSeed};
use serde_json::Value;
use weft_model::{Fact, Namespace, NamespaceName, ObjectKey, ObjectName, Protocol};

use super::locate::line_of;
use super::raw::{self, Head, Meta, NetworkSpec, Nothing, Object, ServiceCidrSpec};
use super::tree::{Content, Grow, MOST_VALUES, Node};
use super::{Interner, ObjectError, error, network, node, pod, service, service_cidr, slice};

/// Takes what comes of one object after the other, and says when it has enough.
pub type Sink<'a> = &'a mut dyn FnMut(Result<Outcome, ObjectError>) -> ControlFlow<()>;

/// Bytes of one object's text. API servers store 1.5 MiB at most.
pub const LARGEST_OBJECT: usize = 4 << 20;

/// The kinds that are read.
const KINDS: [(&str, &str); 8] = [
    ("v1", "Node"),
    ("v1", "Namespace"),
    ("v1", "Pod"),
    ("v1", "Service"),
    ("discovery.k8s.io/v1", "EndpointSlice"),
    ("v1", "Endpoints"),
    ("weft.dev/v1", "Network"),
    ("networking.k8s.io/v1", "ServiceCIDR"),
];

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

    /// True for a kind that is read.
    pub(super) fn is_known(&self) -> bool {
        KINDS.contains(&(self.api_version.as_str(), self.kind.as_str()))
    }

    /// The kind of a typed list's items, which need not repeat it.
    pub(super) fn of_items(&self) -> ObjectId {
        ObjectId {
            api_version: self.api_version.clone(),
            kind: self.kind.strip_suffix("List").unwrap_or_default().to_owned(),
        }
    }

    /// What an object says that it is; of what it doesn't say, `usual`.
    fn of(root: &Node<'_>, usual: &ObjectId) -> Result<Self, ObjectError> {
        if let Content::Odd(reason) = &root.content {
            return Err(ObjectError::at("", reason));
        }
        if !matches!(root.content, Content::Map(_)) {
            let reason = format!(
                "it is {} where an object is wanted, with apiVersion, kind and metadata (is this another kind of file? \
                 move it elsewhere)",
                root.is_called()
            );
            return Err(ObjectError::at("", reason));
        }
        let text = |field: &str, usual: &str| match root.get(field).map(|node| (&node.content, node)) {
            None | Some((Content::Null, _)) => Ok(usual.to_owned()),
            Some((Content::Text(text), _)) if text.is_empty() => Ok(usual.to_owned()),
            Some((Content::Text(text), _)) => Ok(text.clone().into_owned()),
            Some((Content::Odd(reason), _)) => Err(ObjectError::at(field, reason)),
            Some((_, node)) => {
                let example = if field == "kind" { "Service" } else { "v1" };
                let reason = format!("a text is wanted, such as {example}, and this is {}", node.is_called());
                Err(ObjectError::at(field, reason))
            }
        };
        Ok(ObjectId {
            api_version: text("apiVersion", &usual.api_version)?,
            kind: text("kind", &usual.kind)?,
        })
    }

    /// Refuses what can't be meant: an object that says nothing of what it is, or says it almost right, is not one of a kind of which
    /// Weft knows nothing.
    fn check(&self) -> Result<(), ObjectError> {
        if self.kind.is_empty() || self.api_version.is_empty() {
            let field = if self.kind.is_empty() { "kind" } else { "apiVersion" };
            let reason = "it is missing; every Kubernetes object has it (is this another kind of file? move it elsewhere)";
            return Err(ObjectError::at(field, reason));
        }
        if !is_kind(&self.kind) {
            let reason = format!("{:?} is no name of a kind; write one such as Service", self.kind);
            return Err(ObjectError::at("kind", reason));
        }
        if !is_version(&self.api_version) {
            let reason =
                format!("{:?} is no version; write one such as v1 or discovery.k8s.io/v1", self.api_version);
            return Err(ObjectError::at("apiVersion", reason));
        }
        let almost = |(api_version, kind): &&(&str, &str)| {
            self.api_version.eq_ignore_ascii_case(api_version) && self.kind.eq_ignore_ascii_case(kind)
        };
        match KINDS.iter().find(almost) {
            Some((_, kind)) if self.kind != *kind => {
                Err(ObjectError::at("kind", format!("{:?} is unknown; write {kind}", self.kind)))
            }
            Some((version, _)) if self.api_version != *version => {
                let reason = format!("{:?} is unknown; write {version}", self.api_version);
                Err(ObjectError::at("apiVersion", reason))
            }
            _ => Ok(()),
        }
    }
}

/// True for what a kind may be called, by what its resource may be called (RFC 1035, in any case).
pub(super) fn is_kind(text: &str) -> bool {
    let is_letter = |c: char| c.is_ascii_alphanumeric() || c == '-';
    text.len() <= 63 && text.starts_with(|c: char| c.is_ascii_alphabetic()) && text.chars().all(is_letter)
}

/// True for what a group and a version may be called.
pub(super) fn is_version(text: &str) -> bool {
    let is_letter = |c: char| c.is_ascii_alphanumeric() || "./-".contains(c);
    text.len() <= 253 + 1 + 63
        && text.starts_with(|c: char| c.is_ascii_alphanumeric())
        && text.chars().all(is_letter)
}

/// Where the fields come from: text, or a tree that was read already.
pub(super) trait Reader {
    fn read<T: DeserializeOwned>(&self) -> Result<T, ObjectError>;

    /// The line of a field, where it is known.
    fn line_of(&self, field: &str) -> Option<u64> {
        let _ = field;
        None
    }
}

impl Reader for Node<'_> {
    fn read<T: DeserializeOwned>(&self) -> Result<T, ObjectError> {
        // Keeping the path along the way doubles the time: only what is wrong is read so.
        if let Ok(read) = T::deserialize(self) {
            return Ok(read);
        }
        serde_path_to_error::deserialize(self)
            .map_err(|e| ObjectError::at(error::path_of(e.path()), error::plainly(&e.inner().to_string())))
    }

    fn line_of(&self, field: &str) -> Option<u64> {
        line_of(self, field)
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
    let mut outcomes = Vec::new();
    let mut take = |outcome| {
        outcomes.push(outcome);
        ControlFlow::Continue(())
    };
    let _ = match Grow::root(&Cell::new(MOST_VALUES)).deserialize(value) {
        Ok(root) => decode_node(&root, usual, 0, names, &mut take),
        Err(error) => take(Err(ObjectError::at("", error))),
    };
    outcomes
}

/// Decodes one object, or each of a list's, out of a tree. `size` is the length of its text.
pub(crate) fn decode_node(
    root: &Node<'_>,
    usual: &ObjectId,
    size: usize,
    names: &mut Interner,
    take: Sink<'_>,
) -> ControlFlow<()> {
    let placed = |mut error: ObjectError| {
        error.line = line_of(root, &error.field);
        Err(error)
    };
    let id = match ObjectId::of(root, usual) {
        Ok(id) => id,
        Err(error) => return take(placed(error)),
    };
    let items = match root.get("items").map(|node| &node.content) {
        _ if !id.is_list() => {
            if size > LARGEST_OBJECT {
                let reason =
                    format!("it has {size} bytes, and an object has no more than {LARGEST_OBJECT}; split it");
                return take(placed(ObjectError::at("", reason)));
            }
            return take(decode(&id, root, names));
        }
        Some(Content::List(items)) => items,
        Some(Content::Null) => return ControlFlow::Continue(()),
        Some(Content::Odd(reason)) => return take(placed(ObjectError::at("items", reason))),
        Some(_) => return take(placed(ObjectError::at("items", "it must be a list of objects"))),
        None if id.kind == "List" || id.of_items().is_known() => {
            let reason = "it is missing; write [] where there are no objects";
            return take(placed(ObjectError::at("items", reason)));
        }
        // Another kind whose name ends so.
        None => return take(decode(&id, root, names)),
    };
    let usual = id.of_items();
    items.iter().enumerate().try_for_each(|(i, item)| {
        let prefix = format!("items[{i}]");
        decode_node(item, &usual, 0, names, &mut |outcome| take(outcome.map_err(|e| e.under(&prefix))))
    })
}

/// Decodes one object that is no list.
pub(super) fn decode<R: Reader>(
    id: &ObjectId,
    from: &R,
    names: &mut Interner,
) -> Result<Outcome, ObjectError> {
    let decoded = match id.check() {
        Ok(()) => decode_kind(id, from, names).map_err(|error| error.of(&named(id, from))),
        Err(error) => Err(error),
    };
    decoded.map_err(|mut error| {
        error.line = error.line.or_else(|| from.line_of(&error.field));
        error
    })
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
            one(Fact::Namespace(Namespace { name, labels: names.labels(&*raw.metadata.labels) }))
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
