//! Rights of the process: capabilities, by `/proc/self/status`.

use super::{Finding, Machine};

/// Capabilities that are needed, by number (linux/capability.h), and what for.
const NEEDED: [(u8, &str, &str); 3] = [
    (12, "CAP_NET_ADMIN", "links, routes and the packet filter"),
    (21, "CAP_SYS_ADMIN", "entering pods' network namespaces"),
    (10, "CAP_NET_BIND_SERVICE", "the DNS server's port 53"),
];

pub fn check(machine: &Machine) -> Vec<Finding> {
    let status = machine.text("/proc/self/status").unwrap_or_default();
    let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    let Some(effective) = effective.and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok()) else {
        return vec![Finding::missing(
            "rights",
            "/proc/self/status doesn't say them",
            "mount -t proc proc /proc",
        )];
    };
    let lacking: Vec<String> = NEEDED
        .iter()
        .filter(|(bit, _, _)| effective & (1 << bit) == 0)
        .map(|(_, name, purpose)| format!("{name} ({purpose})"))
        .collect();
    if lacking.is_empty() {
        return vec![Finding::ok("rights", "all capabilities that are needed")];
    }
    let text = format!("{} lacking, so what the kernel can do was not tried", lacking.join(" and "));
    vec![Finding::missing("rights", text, "run as root: sudo weft preflight")]
}

#[cfg(test)]
mod tests {
    use super::super::Verdict;
    use super::super::machine::testing::FakeMachine;

    #[test]
    fn capabilities_are_read_bit_by_bit() {
        let check = |status: &str, expected: Verdict, word: &str| {
            let fake = FakeMachine::new(&[("/proc/self/status", status)]);
            let finding = super::check(&fake.machine()).remove(0);
            assert_eq!(finding.verdict, expected, "{status}");
            assert!(finding.text.contains(word), "{}", finding.text);
        };
        check("Name:\tweft\nCapEff:\t000001ffffffffff\n", Verdict::Ok, "all");
        check("CapEff:\t0000000000000000\n", Verdict::Missing, "CAP_NET_ADMIN");
        check("CapEff:\t0000000000001400\n", Verdict::Missing, "CAP_SYS_ADMIN");
        check("Name:\tweft\n", Verdict::Missing, "/proc/self/status");
    }
}
