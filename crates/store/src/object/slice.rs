//! EndpointSlices, and v1 Endpoints as the slices that they stand for.

use std::net::IpAddr;
use std::sync::Arc;

use weft_model::{Endpoint, EndpointPort, EndpointSlice, Family, ObjectKey, ObjectName, Port, SliceSource};

use super::decode::{ip, key_of, protocol};
use super::raw::{self, TargetRef};
use super::{Interner, ObjectError};

/// Label of an EndpointSlice: the service that it belongs to.
const SERVICE_NAME: &str = "kubernetes.io/service-name";

/// `None` for names instead of addresses (`addressType: FQDN`), which no packet can be sent to.
pub(super) fn endpoint_slice(
    raw: &raw::EndpointSlice,
    names: &mut Interner,
) -> Result<Option<EndpointSlice>, ObjectError> {
    let key = key_of(&raw.metadata, names)?;
    let family = match raw.address_type.as_str() {
        "IPv4" => Family::V4,
        "IPv6" => Family::V6,
        "FQDN" => return Ok(None),
        other => {
            return Err(ObjectError::at("addressType", format!("{other:?} is unknown; use IPv4 or IPv6")));
        }
    };
    let service = match raw.metadata.labels.get(SERVICE_NAME) {
        Some(name) => Some(
            ObjectName::new(name)
                .map_err(|e| ObjectError::at(super::error::keyed("metadata.labels", SERVICE_NAME), e))?,
        ),
        None => None,
    };
    let ports = ports("ports", &raw.ports, names)?.into();
    let endpoints = raw.endpoints.iter().enumerate();
    let endpoints = endpoints
        .map(|(i, e)| {
            endpoint(e, family, &key, names).map_err(|error| error.under(&format!("endpoints[{i}]")))
        })
        .collect::<Result<_, _>>()?;
    Ok(Some(EndpointSlice { key, service, source: SliceSource::EndpointSlice, family, ports, endpoints }))
}

fn endpoint(
    raw: &raw::Endpoint,
    family: Family,
    slice: &ObjectKey,
    names: &mut Interner,
) -> Result<Endpoint, ObjectError> {
    let addresses = raw.addresses.iter().enumerate();
    let addresses = addresses.map(|(i, text)| address(&format!("addresses[{i}]"), text, Some(family)));
    let ready = raw.conditions.ready.unwrap_or(true);
    let zones = raw.hints.for_zones.iter().map(|z| names.string(&z.name)).collect();
    let node = |names: &mut Interner, field: String, name: &str| {
        names.node(name).map_err(|e| ObjectError::at(field, e))
    };
    Ok(Endpoint {
        addresses: addresses.collect::<Result<_, _>>()?,
        ready,
        serving: raw.conditions.serving.unwrap_or(ready),
        terminating: raw.conditions.terminating.unwrap_or(false),
        hostname: (!raw.hostname.is_empty()).then(|| names.string(&raw.hostname)),
        node: match raw.node_name.as_str() {
            "" => None,
            name => Some(node(names, "nodeName".into(), name)?),
        },
        zone: (!raw.zone.is_empty()).then(|| names.string(&raw.zone)),
        hint_zones: zones,
        hint_nodes: raw
            .hints
            .for_nodes
            .iter()
            .enumerate()
            .map(|(i, n)| node(names, format!("hints.forNodes[{i}].name"), &n.name))
            .collect::<Result<_, _>>()?,
        pod: pod(&raw.target_ref, slice, names)?,
    })
}

fn address(field: &str, text: &str, family: Option<Family>) -> Result<IpAddr, ObjectError> {
    let ip = ip(text).map_err(|e| ObjectError::at(field, e))?;
    match family {
        Some(family) if Family::of(ip) != family => {
            Err(ObjectError::at(field, format!("{ip} is not {family}, as addressType says")))
        }
        _ => Ok(ip),
    }
}

/// The pod that a reference means; references to anything else are none.
fn pod(raw: &TargetRef, owner: &ObjectKey, names: &mut Interner) -> Result<Option<ObjectKey>, ObjectError> {
    if raw.kind != "Pod" || raw.name.is_empty() {
        return Ok(None);
    }
    let namespace = match raw.namespace.as_str() {
        "" => owner.namespace.clone(),
        text => names.namespace(text).map_err(|e| ObjectError::at("targetRef.namespace", e))?,
    };
    let name = ObjectName::new(&raw.name).map_err(|e| ObjectError::at("targetRef.name", e))?;
    Ok(Some(ObjectKey { namespace, name }))
}

fn ports(
    field: &str,
    raw: &[raw::EndpointPort],
    names: &mut Interner,
) -> Result<Vec<EndpointPort>, ObjectError> {
    let one = |(i, port): (usize, &raw::EndpointPort)| {
        let at = |name: &str| format!("{field}[{i}].{name}");
        Ok(EndpointPort {
            name: names.string(&port.name),
            protocol: protocol(&port.protocol).map_err(|e| ObjectError::at(at("protocol"), e))?,
            port: match port.port {
                Some(number) => Some(Port::new(number).map_err(|e| ObjectError::at(at("port"), e))?),
                None => None,
            },
        })
    };
    raw.iter().enumerate().map(one).collect()
}

/// An Endpoints object is one slice for each subset and family, named `NAME.endpoints.INDEX.ipv4` (a name that no
/// generated slice has).
pub(super) fn endpoints(
    raw: &raw::Endpoints,
    names: &mut Interner,
) -> Result<Vec<EndpointSlice>, ObjectError> {
    let key = key_of(&raw.metadata, names)?;
    let mut slices = Vec::new();
    for (i, subset) in raw.subsets.iter().enumerate() {
        let path = format!("subsets[{i}]");
        let ports: Arc<[EndpointPort]> = ports(&format!("{path}.ports"), &subset.ports, names)?.into();
        let mut all: Vec<(Family, Endpoint)> = Vec::new();
        let lists = [
            ("addresses", &subset.addresses, true),
            ("notReadyAddresses", &subset.not_ready_addresses, false),
        ];
        for (list, addresses, ready) in lists {
            for (j, raw) in addresses.iter().enumerate() {
                let endpoint = subset_endpoint(raw, &key, ready, names);
                all.push(endpoint.map_err(|e| e.under(&format!("{path}.{list}[{j}]")))?);
            }
        }
        for family in Family::ALL {
            let of_family = all.iter().filter(|(f, _)| *f == family).map(|(_, e)| e.clone());
            let endpoints: Arc<[Endpoint]> = of_family.collect();
            if endpoints.is_empty() {
                continue;
            }
            let suffix = if family == Family::V4 { "ipv4" } else { "ipv6" };
            let name = ObjectName::new(&format!("{}.endpoints.{i}.{suffix}", key.name))
                .map_err(|e| ObjectError::at("metadata.name", e))?;
            slices.push(EndpointSlice {
                key: ObjectKey { namespace: key.namespace.clone(), name },
                service: Some(key.name.clone()),
                source: SliceSource::Endpoints,
                family,
                ports: ports.clone(),
                endpoints,
            });
        }
    }
    Ok(slices)
}

fn subset_endpoint(
    raw: &raw::SubsetAddress,
    owner: &ObjectKey,
    ready: bool,
    names: &mut Interner,
) -> Result<(Family, Endpoint), ObjectError> {
    let ip = address("ip", &raw.ip, None)?;
    let node = match raw.node_name.as_str() {
        "" => None,
        name => Some(names.node(name).map_err(|e| ObjectError::at("nodeName", e))?),
    };
    let endpoint = Endpoint {
        addresses: vec![ip],
        ready,
        serving: ready,
        terminating: false,
        hostname: (!raw.hostname.is_empty()).then(|| names.string(&raw.hostname)),
        node,
        zone: None,
        hint_zones: Vec::new(),
        hint_nodes: Vec::new(),
        pod: pod(&raw.target_ref, owner, names)?,
    };
    Ok((Family::of(ip), endpoint))
}
