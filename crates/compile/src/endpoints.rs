//! Where a service leads to: its slices, or what its selector selects where nobody has written slices.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::net::IpAddr;

use weft_model::{
    Endpoint, EndpointPort, EndpointSlice, Family, ObjectKey, ObjectName, Pod, Port, Service, SliceSource,
    TargetPort,
};

use crate::facts::{Facts, Transition};

/// The slices that count for a service: EndpointSlices where there are any, else v1 Endpoints, else derived ones.
/// A service without a selector and without slices has none.
pub fn slices<'a>(facts: &'a Facts, service: &'a Service) -> Vec<Cow<'a, EndpointSlice>> {
    let written = |source: SliceSource| -> Vec<Cow<'a, EndpointSlice>> {
        let slices = facts.slices_of(&service.key).filter(|slice| slice.source == source);
        slices.map(Cow::Borrowed).collect()
    };
    [SliceSource::EndpointSlice, SliceSource::Endpoints]
        .into_iter()
        .map(written)
        .find(|slices| !slices.is_empty())
        .unwrap_or_else(|| derived(facts, service).into_iter().map(Cow::Owned).collect())
}

/// Services whose endpoints can differ after a transition.
pub fn affected_services(transition: &Transition, facts: &Facts) -> Vec<ObjectKey> {
    use weft_model::Fact;
    let mut keys: Vec<ObjectKey> = transition
        .states()
        .flat_map(|fact| match fact {
            Fact::Service(service) => vec![service.key.clone()],
            Fact::EndpointSlice(slice) => slice.service_key().into_iter().collect(),
            Fact::Pod(pod) => selecting(facts, pod),
            // Its addresses are those of the pods in its own network.
            Fact::Node(node) => {
                facts.pods_on_host(&node.name).flat_map(|pod| selecting(facts, pod)).collect()
            }
            _ => Vec::new(),
        })
        .collect();
    keys.sort();
    keys.dedup();
    keys
}

/// Services whose derived endpoints a pod can be.
fn selecting(facts: &Facts, pod: &Pod) -> Vec<ObjectKey> {
    facts
        .services_selecting(&pod.key.namespace, &pod.labels)
        .into_iter()
        .filter(|service| !facts.has_slices(&service.key))
        .map(|service| service.key.clone())
        .collect()
}

/// One derived slice for each family and each set of target ports, named by the service, as the endpoint slice controller
/// would write them.
fn derived(facts: &Facts, service: &Service) -> Vec<EndpointSlice> {
    let pods = facts.selected_by(service);
    let mut slices: BTreeMap<(Family, Vec<EndpointPort>), Vec<Endpoint>> = BTreeMap::new();
    for pod in pods.into_iter().filter(|pod| !pod.finished) {
        for ip in facts.addresses_of(pod) {
            let family = Family::of(ip);
            if !service.families.contains(&family) {
                continue;
            }
            let ports = target_ports(service, pod);
            if ports.is_empty() && !service.ports.is_empty() {
                continue;
            }
            slices.entry((family, ports)).or_default().push(endpoint(service, pod, ip));
        }
    }
    slices
        .into_iter()
        .enumerate()
        .filter_map(|(at, ((family, ports), endpoints))| {
            let suffix = if family == Family::V4 { "v4" } else { "v6" };
            let key = ObjectKey {
                namespace: service.key.namespace.clone(),
                name: ObjectName::new(&format!("{}-{suffix}-{at}", service.key.name)).ok()?,
            };
            let service = Some(service.key.name.clone());
            let (ports, endpoints) = (ports.into(), endpoints.into());
            Some(EndpointSlice { key, service, source: SliceSource::Selector, family, ports, endpoints })
        })
        .collect()
}

/// The service's ports as this pod has them; a named port that the pod lacks is left out.
fn target_ports(service: &Service, pod: &Pod) -> Vec<EndpointPort> {
    let resolve = |target: &TargetPort, protocol| -> Option<Port> {
        match target {
            TargetPort::Number(port) => Some(*port),
            TargetPort::Name(name) => {
                pod.named_ports.iter().find(|p| p.name == *name && p.protocol == protocol).map(|p| p.port)
            }
        }
    };
    service
        .ports
        .iter()
        .filter_map(|port| {
            let number = resolve(&port.target, port.protocol)?;
            Some(EndpointPort { name: port.name.clone(), protocol: port.protocol, port: Some(number) })
        })
        .collect()
}

fn endpoint(service: &Service, pod: &Pod, ip: IpAddr) -> Endpoint {
    let hostname =
        pod.hostname.clone().filter(|_| pod.subdomain.as_deref() == Some(service.key.name.as_str()));
    Endpoint {
        addresses: vec![ip],
        ready: service.publish_not_ready || (pod.ready && !pod.terminating),
        serving: pod.ready || service.publish_not_ready,
        terminating: pod.terminating,
        hostname,
        node: pod.node.clone(),
        // Its node's zone; looked up where it matters, so that a node's label isn't every pod's business.
        zone: None,
        hint_zones: Vec::new(),
        hint_nodes: Vec::new(),
        pod: Some(pod.key.clone()),
    }
}
