//! Other firewalls of this machine: chains whose policy is drop, which the agent opens for pods and its own servers.

use weft_dataplane::firewall::{ForeignFirewall, observe};

use super::Finding;

pub fn check() -> Vec<Finding> {
    match observe() {
        Ok(firewalls) => vec![finding(&firewalls)],
        Err(error) => {
            vec![Finding::warning("firewalls", error.to_string(), "nft list ruleset shows what is there")]
        }
    }
}

fn finding(firewalls: &[ForeignFirewall]) -> Finding {
    let drops: Vec<String> = firewalls
        .iter()
        .filter(|firewall| firewall.drops)
        .map(|firewall| firewall.place.to_string())
        .collect();
    match drops.len() {
        0 => Finding::ok("firewalls", "none whose policy is drop"),
        // No trouble: opening it is the agent's work, and it says so where it can't.
        _ => Finding::ok(
            "firewalls",
            format!("{} drops by policy: the agent opens it for pods", drops.join(", ")),
        ),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use weft_dataplane::firewall::{BackEnd, Path};

    use super::*;

    #[test]
    fn chains_that_drop_are_named() {
        let firewall = |drops| ForeignFirewall {
            place: BackEnd::Legacy { binary: "iptables-legacy", chain: "FORWARD" },
            path: Path::Forward,
            drops,
            open: BTreeSet::new(),
        };
        assert_eq!(finding(&[firewall(false)]).text, "none whose policy is drop");
        assert!(finding(&[firewall(true)]).text.contains("iptables-legacy chain FORWARD drops"));
    }
}
