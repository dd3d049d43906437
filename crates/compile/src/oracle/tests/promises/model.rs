//! The model: a service's endpoints and doors, who comes from where, and what Kubernetes promises them.
//!
//! Sources: the Service and EndpointSlice API references; KEP-1669 (terminating endpoints), KEP-2086 and KEP-3836 (traffic
//! policies), KEP-2433 and KEP-3015 (hints). Beyond them Weft promises that a source address is kept unless the answer
//! would not come back.

use std::collections::BTreeSet;

use weft_model::{Family, IngressMode, Protocol, TrafficDistribution, TrafficPolicy};

/// A pod of a node, or the node's own network.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Spot {
    pub node: usize,
    pub pod: Option<usize>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    Ready,
    NotReady,
    /// Terminating, and serving.
    Draining,
    /// Terminating, and not serving.
    Dying,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Backend {
    pub spot: Spot,
    pub state: State,
    /// Nodes and zones that should use it, where slices are written.
    pub nodes: Vec<usize>,
    pub zones: Vec<char>,
    /// Which of two slices it is in; they have different ports.
    pub slice: usize,
}

/// Who wrote the endpoints.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    Slices,
    Selector { publish_not_ready: bool, distribution: Option<TrafficDistribution> },
}

/// Who may use the load balancer's address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ranges {
    Outside,
    Pods,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Offer {
    pub number: usize,
    pub families: Vec<Family>,
    pub ports: Vec<Protocol>,
    pub node_port: bool,
    pub external: bool,
    pub balancer: Option<IngressMode>,
    pub ranges: Option<Ranges>,
    pub internal_policy: TrafficPolicy,
    pub external_policy: TrafficPolicy,
    pub affinity: bool,
    /// Nobody else's (`service-proxy-name`).
    pub is_ours: bool,
    pub source: Source,
    pub backends: Vec<Backend>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Client {
    Pod(Spot),
    Node(usize),
    /// Somebody outside, whose packets come to this node.
    Outside(usize),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Door {
    Cluster,
    /// The cluster address, at a port that isn't the service's.
    Closed,
    External,
    Balancer,
    NodePort(usize),
}

/// Whose address the receiver sees.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Seen {
    Spot(Spot),
    Outside,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum End {
    /// An endpoint of this slice.
    At(Spot, usize, Seen),
    Refused,
    Dropped,
    /// It went on as if there were no service.
    Untouched,
}

fn zone(node: usize) -> char {
    ['a', 'a', 'b'][node]
}

impl Client {
    /// The node that it is on; somebody outside is on none.
    fn home(self) -> Option<usize> {
        match self {
            Client::Pod(spot) => Some(spot.node),
            Client::Node(node) => Some(node),
            Client::Outside(_) => None,
        }
    }

    fn seen(self) -> Seen {
        match self {
            Client::Pod(spot) => Seen::Spot(spot),
            Client::Node(node) => Seen::Spot(Spot { node, pod: None }),
            Client::Outside(_) => Seen::Outside,
        }
    }
}

impl Offer {
    fn state(&self, backend: &Backend) -> State {
        match self.source {
            Source::Selector { publish_not_ready: true, .. } => State::Ready,
            _ => backend.state,
        }
    }

    fn hints(&self, backend: &Backend) -> (Vec<usize>, Vec<char>) {
        let (node, own_zone) = (vec![backend.spot.node], vec![zone(backend.spot.node)]);
        match self.source {
            Source::Slices => (backend.nodes.clone(), backend.zones.clone()),
            Source::Selector { distribution: None, .. } => (Vec::new(), Vec::new()),
            Source::Selector { distribution: Some(TrafficDistribution::SameZone), .. } => {
                (Vec::new(), own_zone)
            }
            Source::Selector { distribution: Some(TrafficDistribution::SameNode), .. } => (node, own_zone),
        }
    }

    fn in_state(&self, state: State) -> Vec<&Backend> {
        self.backends.iter().filter(|backend| self.state(backend) == state).collect()
    }

    /// Ready ones that are meant for a node there; where none is ready, those that still serve.
    fn anywhere(&self, node: usize) -> Vec<&Backend> {
        let ready = self.in_state(State::Ready);
        if ready.is_empty() {
            return self.in_state(State::Draining);
        }
        let hints: Vec<_> = ready.iter().map(|backend| (*backend, self.hints(backend))).collect();
        let for_node = |at: &(Vec<usize>, Vec<char>)| at.0.contains(&node);
        if hints.iter().all(|(_, hint)| !hint.0.is_empty()) && hints.iter().any(|(_, hint)| for_node(hint)) {
            return hints
                .into_iter()
                .filter(|(_, hint)| for_node(hint))
                .map(|(backend, _)| backend)
                .collect();
        }
        let for_zone = |at: &(Vec<usize>, Vec<char>)| at.1.contains(&zone(node));
        if hints.iter().all(|(_, hint)| !hint.1.is_empty()) && hints.iter().any(|(_, hint)| for_zone(hint)) {
            return hints
                .into_iter()
                .filter(|(_, hint)| for_zone(hint))
                .map(|(backend, _)| backend)
                .collect();
        }
        ready
    }

    fn here(&self, node: usize) -> Vec<&Backend> {
        let on_node = |state| -> Vec<&Backend> {
            self.in_state(state).into_iter().filter(|backend| backend.spot.node == node).collect()
        };
        let ready = on_node(State::Ready);
        if ready.is_empty() { on_node(State::Draining) } else { ready }
    }

    fn may_use_balancer(&self, client: Client) -> bool {
        match self.ranges {
            None => true,
            Some(Ranges::Outside) => matches!(client, Client::Outside(_)),
            Some(Ranges::Pods) => matches!(client, Client::Pod(_)),
        }
    }
}

/// Where a packet may end, each end as likely as the others.
pub fn promised(offer: &Offer, client: Client, door: Door) -> BTreeSet<End> {
    let (Client::Pod(Spot { node: entry, .. }) | Client::Node(entry) | Client::Outside(entry)) = client;
    // The node that translates.
    let at = if let Door::NodePort(node) = door { node } else { entry };
    match door {
        // Its own proxy isn't here, and an address of the cluster's services is never passed on untranslated.
        Door::Cluster | Door::Closed if !offer.is_ours => return [End::Dropped].into(),
        Door::Closed => return [End::Refused].into(),
        _ if !offer.is_ours => return [End::Untouched].into(),
        Door::Balancer if offer.balancer == Some(IngressMode::Proxy) => return [End::Untouched].into(),
        Door::Balancer if !offer.may_use_balancer(client) => return [End::Dropped].into(),
        _ => {}
    }
    // Pods and the node itself would have come by any node: the policy for outside is not for them.
    let is_inside = matches!(client, Client::Pod(_)) || client.home() == Some(at);
    let policy = match door {
        Door::Cluster | Door::Closed => offer.internal_policy,
        _ if is_inside => TrafficPolicy::Cluster,
        _ => offer.external_policy,
    };
    let anywhere = offer.anywhere(at);
    let used = if policy == TrafficPolicy::Local { offer.here(at) } else { anywhere.clone() };
    if used.is_empty() {
        return [if anywhere.is_empty() { End::Refused } else { End::Dropped }].into();
    }
    used.into_iter()
        .map(|backend| {
            let itself = client == Client::Pod(backend.spot);
            let passes_through = client.home() != Some(at) && backend.spot.node != at;
            let by_node = Seen::Spot(Spot { node: at, pod: None });
            let seen = if itself || passes_through { by_node } else { client.seen() };
            End::At(backend.spot, backend.slice, seen)
        })
        .collect()
}
