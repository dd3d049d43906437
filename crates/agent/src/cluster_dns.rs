//! Whether this node answers at the address that pods ask for names: pure.
//!
//! By custom that is the address of the Service `kube-dns` in `kube-system`, whatever runs behind it, and kubelets give it to pods.
//! Where the configuration names others, agents serve addresses that nobody asks, and nobody would notice as long as another server
//! is behind that Service. Nothing here changes what is served.

use std::net::IpAddr;

use weft_model::Service;

/// What a person should know of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Advice {
    /// Two addresses for one thing: somebody has mistyped one of them.
    Contradiction(String),
    /// Another server answers the cluster's names, perhaps on purpose.
    Elsewhere(String),
}

/// Compares the Service with `dns.clusterAddresses`; `None` where it has no address that isn't among them.
pub fn advice(kube_dns: &Service, configured: &[IpAddr]) -> Option<Advice> {
    let missing = kube_dns.cluster_ips.iter().filter(|ip| !configured.contains(ip));
    let missing = missing.map(ToString::to_string).collect::<Vec<_>>().join(", ");
    if missing.is_empty() {
        return None;
    }
    let whose = format!("service {}: pods ask it for names at {missing}", kube_dns.key);
    if configured.is_empty() {
        return Some(Advice::Elsewhere(format!(
            "{whose}, and its endpoints answer; to have each node answer by itself, name the address in dns.clusterAddresses"
        )));
    }
    let configured = configured.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
    Some(Advice::Contradiction(format!(
        "{whose}, but dns.clusterAddresses has {configured}, so this node doesn't answer there: name in it what kubelets have as \
         clusterDNS, before what is behind the service is removed"
    )))
}

#[cfg(test)]
mod tests {
    use weft_model::ObjectKey;

    use super::*;

    #[test]
    fn only_an_address_that_is_not_answered_is_said() {
        let check = |service: &[&str], configured: &[&str], expected: Option<(&str, &str)>| {
            let ips = |texts: &[&str]| texts.iter().map(|t| t.parse().unwrap()).collect::<Vec<IpAddr>>();
            let mut kube_dns = Service::named(ObjectKey::new("kube-system", "kube-dns").unwrap());
            kube_dns.cluster_ips = ips(service);
            let said = advice(&kube_dns, &ips(configured));
            let said = said.as_ref().map(|advice| match advice {
                Advice::Contradiction(text) => ("warning", text.as_str()),
                Advice::Elsewhere(text) => ("notice", text.as_str()),
            });
            assert_eq!(said.map(|(kind, _)| kind), expected.map(|(kind, _)| kind), "{said:?}");
            if let (Some((_, text)), Some((_, part))) = (said, expected) {
                assert!(text.contains(part), "{text}");
            }
        };
        check(&["10.96.0.10"], &["10.96.0.10"], None);
        check(&["10.96.0.10"], &["10.96.0.10", "fd00::a"], None);
        check(&[], &["10.96.0.10"], None);
        check(
            &["10.43.0.10"],
            &["10.96.0.10"],
            Some(("warning", "at 10.43.0.10, but dns.clusterAddresses has 10.96.0.10,")),
        );
        check(&["10.96.0.10", "fd00::a"], &["10.96.0.10"], Some(("warning", "at fd00::a, but")));
        check(&["10.96.0.10"], &[], Some(("notice", "name the address in dns.clusterAddresses")));
    }
}
