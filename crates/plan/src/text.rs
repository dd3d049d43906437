//! The plan as text: a line a row, in the words of `sysctl`, `ip`, `bridge` and `nft`, in an order that is always the
//! same. It is for people, for golden tests and for `weft plan`; nothing parses it.

use std::fmt::{self, Write};

use crate::filter::{Atoms, Chain, Element, Flush, Ident, SetKind, SetSpec, Type};
use crate::kernel::{
    KernelKey, KernelRow, LOCAL_TABLE, Link, LinkKind, MAIN_TABLE, Route, RouteKey, RouteKind,
};
use crate::names::{Below, DnsName, NameRow};
use crate::{Entry, Plan, health};

/// One kernel row as text; chains take several lines.
pub fn kernel_row(key: &KernelKey, row: &KernelRow) -> String {
    match (key, row) {
        (KernelKey::Sysctl(path), KernelRow::Sysctl(value)) => {
            format!("sysctl {} = {value}", path.replace('/', "."))
        }
        (KernelKey::Link(name), KernelRow::Link(link)) => format!("link {name} {}", Detail(link.as_ref())),
        (KernelKey::Route(key), KernelRow::Route(route)) => route_line(key, route),
        (KernelKey::Rule(rule), _) => {
            let mark = match rule.unless_mark {
                0 => String::new(),
                mask => format!(" fwmark 0/{mask:#x}"),
            };
            format!("rule {}: from {}{mark} lookup {}", rule.priority, rule.from, table_name(rule.table))
        }
        (KernelKey::Neighbour(link, address), KernelRow::Neighbour(n)) => {
            format!("neighbour {address} dev {link} lladdr {} permanent", n.mac)
        }
        (KernelKey::Fdb(link, mac), KernelRow::Fdb(fdb)) => {
            format!("fdb {mac} dev {link} dst {}", fdb.destination)
        }
        (KernelKey::Opening(opening), _) => format!("opening {opening}"),
        (KernelKey::Set(name), KernelRow::Set(set)) => set_line(name, set),
        (KernelKey::Chain(name), KernelRow::Chain(chain)) => chain_lines(name, chain),
        (KernelKey::Element(set, key), KernelRow::Element(element)) => element_line(set, key, element),
        // A row under a key of another kind: `Plan::check` reports it, and it prints as what it is.
        (key, row) => format!("inconsistent {key:?} {row:?}"),
    }
}

/// One name with its records.
pub fn name_row(name: &DnsName, row: &NameRow) -> String {
    let mut line = format!("name {name}");
    for (at, record) in row.records.iter().enumerate() {
        let _ = write!(line, "{} {record}", if at == 0 { "" } else { "," });
    }
    if row.records.is_empty() {
        line.push_str(" (exists)");
    }
    if let Some(zone) = &row.zone {
        let _ = write!(line, " (zone of {}, mailbox {}, ttl {})", zone.primary, zone.mailbox, zone.ttl);
    }
    match row.below {
        Below::Nothing => {}
        Below::DashedAddresses => line.push_str(" (dashed addresses below)"),
        Below::InnerNames(labels) => {
            let _ = write!(line, " (names of fewer than {labels} labels exist below)");
        }
    }
    line
}

fn table_name(table: u32) -> String {
    match table {
        MAIN_TABLE => "main".into(),
        LOCAL_TABLE => "local".into(),
        other => other.to_string(),
    }
}

fn route_line(key: &RouteKey, route: &Route) -> String {
    let mut line = String::from("route ");
    match route.kind {
        RouteKind::Unicast => {}
        RouteKind::Local => line.push_str("local "),
        RouteKind::Unreachable => line.push_str("unreachable "),
    }
    let _ = write!(line, "{}", key.destination);
    if let Some(via) = route.via {
        let _ = write!(line, " via {via}");
    }
    if let Some(link) = route.link {
        let _ = write!(line, " dev {link}");
    }
    if let Some(source) = route.source {
        let _ = write!(line, " src {source}");
    }
    if key.metric != 0 {
        let _ = write!(line, " metric {}", key.metric);
    }
    if route.onlink {
        line.push_str(" onlink");
    }
    if key.table != MAIN_TABLE {
        let _ = write!(line, " table {}", table_name(key.table));
    }
    line
}

struct Detail<'a>(&'a Link);

impl fmt::Display for Detail<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0.kind {
            LinkKind::Pod(pod) => {
                write!(
                    f,
                    "veth peer {} netns {:?} lladdr {} addresses",
                    pod.attachment.ifname, pod.netns, pod.pod_mac
                )?;
                for address in &pod.addresses {
                    write!(f, " {address}")?;
                }
                write!(f, " mtu {}", pod.mtu)?;
            }
            LinkKind::Vxlan(vxlan) => write!(
                f,
                "vxlan id {} dstport {} local {} lladdr {} mtu {}",
                vxlan.vni.get(),
                vxlan.port,
                vxlan.local,
                vxlan.mac,
                vxlan.mtu
            )?,
        }
        write!(f, " alias {:?}", self.0.alias)
    }
}

fn set_line(name: &Ident, set: &SetSpec) -> String {
    let numbers = set.key.contains(&Type::Number);
    let (word, spoken): (_, fn(Type) -> &'static str) =
        if numbers { ("typeof", Type::example) } else { ("type", Type::name) };
    let types = |list: &[Type]| list.iter().map(|of| spoken(*of)).collect::<Vec<_>>().join(" . ");
    let mut line = match &set.kind {
        SetKind::Set => format!("set {name} {{ {word} {}", types(&set.key)),
        SetKind::Map(data) => format!("map {name} {{ {word} {} : {}", types(&set.key), types(data)),
    };
    if set.interval {
        line.push_str("; flags interval");
    }
    if let Some(seconds) = set.dynamic_timeout {
        let _ = write!(line, "; flags dynamic,timeout; timeout {seconds}s");
    }
    let _ = write!(line, "; comment \"{}\" }}", set.comment);
    // Behind nft's own sign for what it does not read.
    if set.rank != 0 {
        let _ = write!(line, " # rank {}", set.rank);
    }
    match &set.flush {
        None => {}
        Some(Flush::Led) => line.push_str(" # flushes connections"),
        Some(Flush::Served { mark, listed }) => {
            let _ = write!(
                line,
                " # flushes UDP that leads to no end, marked {mark:#x}, and other connections once {listed} lacks it too"
            );
        }
        Some(Flush::Listed { of }) => {
            let _ = write!(line, " # keeps connections of {of}");
        }
    }
    line
}

fn chain_lines(name: &Ident, chain: &Chain) -> String {
    let mut text = format!("chain {name} {{");
    if let Some(hook) = chain.hook {
        let kind = if hook.nat { "nat" } else { "filter" };
        let _ = write!(text, "\n    type {kind} hook {} priority {}; policy accept;", hook.at, hook.priority);
    }
    for rule in &chain.rules {
        let _ = write!(text, "\n    {rule}");
    }
    text.push_str("\n}");
    text
}

fn element_line(set: &Ident, key: &Atoms, element: &Element) -> String {
    let join = |atoms: &Atoms| atoms.iter().map(|atom| atom.to_string()).collect::<Vec<_>>().join(" . ");
    if element.data.is_empty() {
        format!("element {set} {{ {} }}", join(key))
    } else {
        format!("element {set} {{ {} : {} }}", join(key), join(&element.data))
    }
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (key, Entry { value, .. }) in self.kernel.sorted() {
            writeln!(f, "{}", kernel_row(key, value))?;
        }
        for (name, Entry { value, .. }) in self.names.sorted() {
            writeln!(f, "{}", name_row(name, value))?;
        }
        for (key, Entry { value, .. }) in self.health.sorted() {
            writeln!(f, "{}", health::line(key, value))?;
        }
        for warning in &self.warnings {
            writeln!(f, "warning {warning}")?;
        }
        Ok(())
    }
}
