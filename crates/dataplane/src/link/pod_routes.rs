//! The ways out of a pod, inside its namespace: by its first interface, and for what belongs to a further one by that one.
//!
//! A further interface, as a meta-plugin asks for it, has a default route of its own in a table of its own, which its
//! address selects: what comes for it is answered by it, so that no reverse path check is in doubt, neither the pod's nor the
//! host's. In the main table its default route has a worse metric than any other, and leads out when the others have gone.

use weft_model::{Cidr, Family};
use weft_plan::kernel::MAIN_TABLE;
use weft_plan::{KernelKey, KernelRow, PodLink, PolicyRule};

use super::pod_end::{EXISTS, gateway, object};
use super::request::Request;
use crate::netlink::{Message, headers};
use crate::route::{Presence, af, set};

/// A further interface's metric, table and rule have this number and the interface's index. The metric is above IPv6's
/// ordinary 1024, the rule before the main table's.
const FURTHER: u32 = 1024;

/// Kubernetes' runtimes, podman and meta-plugins all call a pod's first interface so.
const FIRST: &str = "eth0";

/// A default route, and where it stands.
#[derive(Debug, Clone, Copy)]
struct Place {
    table: u32,
    /// 0 is the kernel's own choice.
    metric: u32,
}

/// What leads out by the pod's link `index`. Another interface of the pod may have taken the first one's place: then that
/// one leads out.
pub(super) fn requests(pod: &PodLink, index: u32, family: Family) -> Vec<Request> {
    let main = |metric| Place { table: MAIN_TABLE, metric };
    let mut requests = Vec::with_capacity(4);
    if pod.attachment.ifname.as_str() == FIRST {
        requests.extend(to_gateway(pod, index, family, main(0)));
        requests.push(default(pod, index, family, main(0), libc::NLM_F_EXCL));
    } else {
        let number = FURTHER + index;
        requests.extend(to_gateway(pod, index, family, main(number)));
        requests.push(default(pod, index, family, main(number), libc::NLM_F_EXCL));
        requests.push(default(pod, index, family, Place { table: number, metric: 0 }, libc::NLM_F_EXCL));
        for address in pod.addresses.iter().filter(|a| Family::of(**a) == family) {
            let rule =
                PolicyRule { from: Cidr::host(*address), table: number, priority: number, unless_mark: 0 };
            let message = set(&KernelKey::Rule(rule), &KernelRow::Rule, 0, Presence::Absent);
            let object = format!("the rule for {address} of {}", object(pod));
            requests.extend(message.map(|message| Request::new(message, "add", object)));
        }
    }
    requests.into_iter().map(|r| r.tolerate(EXISTS)).collect()
}

/// The default route of a pod's first interface, in the place of whatever stands there.
pub(super) fn lead_out(pod: &PodLink, index: u32, family: Family) -> Option<Request> {
    let place = Place { table: MAIN_TABLE, metric: 0 };
    (pod.attachment.ifname.as_str() == FIRST).then(|| default(pod, index, family, place, libc::NLM_F_REPLACE))
}

/// Tables that have a default route by the link.
pub(super) fn tables(pod: &PodLink, index: u32) -> Vec<u32> {
    if pod.attachment.ifname.as_str() == FIRST { vec![MAIN_TABLE] } else { vec![MAIN_TABLE, FURTHER + index] }
}

/// The gateway on the link, for IPv4; IPv6's is link-local and needs no route.
fn to_gateway(pod: &PodLink, index: u32, family: Family, place: Place) -> Option<Request> {
    if family == Family::V6 {
        return None;
    }
    let message = route(index, family, place, libc::NLM_F_EXCL, (32, libc::RT_SCOPE_LINK))
        .address(libc::RTA_DST, gateway(family));
    Some(Request::new(message, "add", format!("the route to the gateway on {}", object(pod))))
}

fn default(pod: &PodLink, index: u32, family: Family, place: Place, flag: i32) -> Request {
    let message = route(index, family, place, flag, (0, libc::RT_SCOPE_UNIVERSE))
        .address(libc::RTA_GATEWAY, gateway(family));
    Request::new(message, "add", format!("the {family} default route on {}", object(pod)))
}

/// `flag` says what happens where a route stands already: `NLM_F_EXCL` or `NLM_F_REPLACE`.
fn route(index: u32, family: Family, place: Place, flag: i32, (prefix, scope): (u8, u8)) -> Message {
    let header = headers::Route {
        family: af(family),
        destination_len: prefix,
        source_len: 0,
        table: place.table,
        // As if typed: `ip route` prints it without a word about its origin.
        protocol: libc::RTPROT_BOOT,
        scope,
        kind: libc::RTN_UNICAST,
        flags: 0,
    };
    let flags = libc::NLM_F_CREATE | flag;
    let message = Message::new(libc::RTM_NEWROUTE, flags, &header.bytes()).u32(libc::RTA_OIF, index);
    let message = match place.table {
        MAIN_TABLE => message,
        table => message.u32(libc::RTA_TABLE, table),
    };
    match place.metric {
        0 => message,
        metric => message.u32(libc::RTA_PRIORITY, metric),
    }
}
