//! Compares a pod's interface with its row, for CNI CHECK: both ends, addresses and routes.
//!
//! What others added in the pod's namespace is no fault.

use std::net::IpAddr;
use std::os::fd::BorrowedFd;

use weft_model::{Family, IfName};
use weft_plan::kernel::{GATEWAY_V6, MAIN_TABLE};
use weft_plan::{Link, PodLink};

use super::host_end::{self, Gateway};
use super::pod_end::{addresses, gateway};
use super::request::find;
use super::state::LinkState;
use super::{netns, pod_routes};
use crate::KernelError;
use crate::netlink::{Received, Rtnl};
use crate::route::{ROUTE_FIXED, af, list_all_routes};

/// A sentence for each thing that is not as it should be; empty where all is well.
///
/// # Errors
/// When a namespace can't be entered or asked.
pub(crate) fn check(
    rtnl: &mut Rtnl,
    name: IfName,
    link: &Link,
    pod: &PodLink,
    namespace: BorrowedFd<'_>,
) -> Result<Vec<String>, KernelError> {
    let mut faults = Vec::new();
    let host = find(rtnl, name)?;
    match &host {
        None => faults.push(format!("the host end {name} is missing")),
        Some(state) => check_host_end(rtnl, state, link, pod, &mut faults)?,
    }
    let inner = pod.attachment.ifname;
    let mut inside = netns::socket(namespace, name)?;
    let Some(end) = find(&mut inside, inner)? else {
        faults.push(format!("the interface {inner} is missing in the pod"));
        return Ok(faults);
    };
    if host.as_ref().is_some_and(|host| host.peer != Some(end.index) || end.peer != Some(host.index)) {
        faults.push(format!("{inner} is not the other end of {name}"));
    }
    check_pod_end(&end, pod, &mut faults);
    let present = addresses(&mut inside, end.index)?;
    for address in &pod.addresses {
        if !present.iter().any(|(a, _)| a == address) {
            faults.push(format!("{inner} does not have the address {address}"));
        }
    }
    for family in Family::ALL {
        if !pod.addresses.iter().any(|a| Family::of(*a) == family) {
            continue;
        }
        let present = default_routes(&mut inside, end.index, family)?;
        for table in pod_routes::tables(pod, end.index).into_iter().filter(|table| !present.contains(table)) {
            let place = if table == MAIN_TABLE { String::new() } else { format!(" in table {table}") };
            faults.push(format!("{inner} has no {family} default route by {}{place}", gateway(family)));
        }
    }
    Ok(faults)
}

fn check_host_end(
    rtnl: &mut Rtnl,
    state: &LinkState,
    link: &Link,
    pod: &PodLink,
    faults: &mut Vec<String>,
) -> Result<(), KernelError> {
    if !state.is_ours() {
        faults.push(format!("the host end {} is not ours: its group is {}", state.name, state.group));
        return Ok(());
    }
    let gateway = addresses(rtnl, state.index)?.iter().any(|(address, _)| *address == IpAddr::V6(GATEWAY_V6));
    let gateway = if gateway { Gateway::Present } else { Gateway::Missing };
    if let Some(damage) = host_end::damage(state, pod, gateway) {
        faults.push(format!("host end {}: {damage}", state.name));
    }
    if state.mtu != pod.mtu {
        faults.push(format!("the MTU of {} is {}, not {}", state.name, state.mtu, pod.mtu));
    }
    if *state.alias != *link.alias {
        faults.push(format!("the alias of {} is {:?}, not {:?}", state.name, state.alias, link.alias));
    }
    Ok(())
}

fn check_pod_end(end: &LinkState, pod: &PodLink, faults: &mut Vec<String>) {
    let name = end.name;
    if !end.is_up() {
        faults.push(format!("{name} is down"));
    }
    if end.mtu != pod.mtu {
        faults.push(format!("the MTU of {name} is {}, not {}", end.mtu, pod.mtu));
    }
    if end.mac != Some(pod.pod_mac) {
        let mac = end.mac.map_or("absent".to_owned(), |mac| mac.to_string());
        faults.push(format!("the MAC of {name} is {mac}, not {}", pod.pod_mac));
    }
}

/// Tables that have a default route by the gateway on the link.
fn default_routes(rtnl: &mut Rtnl, link: u32, family: Family) -> Result<Vec<u32>, KernelError> {
    let table = |message: &Received<'_>| {
        let attributes = message.attributes(ROUTE_FIXED);
        let leads_there = message.body.get(1) == Some(&0)
            && message.body.first() == Some(&af(family))
            && attributes.u32(libc::RTA_OIF) == Some(link)
            && attributes.address(libc::RTA_GATEWAY) == Some(gateway(family));
        attributes.u32(libc::RTA_TABLE).filter(|_| leads_there)
    };
    Ok(rtnl.list("routes", &list_all_routes(family), table)?)
}
