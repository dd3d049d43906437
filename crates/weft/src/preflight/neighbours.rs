//! Who else is on this machine: other network plugins' leftovers, and programs that tidy up networks.

use weft_agent::config::DnsConfig;

use super::{Finding, Machine};

/// Links that other network plugins make: how their names begin, and whose they are.
const FOREIGN_LINKS: [(&str, &str); 12] = [
    ("cni0", "the bridge plugin or flannel"),
    ("flannel", "flannel"),
    ("cali", "Calico"),
    ("vxlan.calico", "Calico"),
    ("cilium_", "Cilium"),
    ("lxc_health", "Cilium"),
    ("kube-bridge", "kube-router"),
    ("antrea-gw", "Antrea"),
    ("ovn-k8s", "OVN-Kubernetes"),
    ("ovn0", "Kube-OVN"),
    ("weave", "Weave Net"),
    ("kindbr", "kindnet"),
];
/// Folders of systemd-networkd's configuration, the strongest first.
const NETWORKD: [&str; 3] = ["/etc/systemd", "/run/systemd", "/usr/lib/systemd"];
/// What systemd-networkd must not do: take away routes and rules that it didn't make.
const NETWORKD_KEYS: [&str; 2] = ["ManageForeignRoutes", "ManageForeignRoutingPolicyRules"];

pub fn check(machine: &Machine) -> Vec<Finding> {
    let mut findings: Vec<Finding> =
        [leftovers(machine), networkd(machine), network_manager(machine)].into_iter().flatten().collect();
    if findings.is_empty() {
        findings.push(Finding::ok("others", "no other network plugin, and nobody who tidies up our routes"));
    }
    if machine.processes().any(|process| process.name == "kube-proxy") {
        findings.push(Finding::ok("others", "kube-proxy runs: its rules and ours leave each other alone"));
    }
    findings
}

fn leftovers(machine: &Machine) -> Option<Finding> {
    let links = machine.links();
    let owner =
        |link: &String| FOREIGN_LINKS.iter().find(|(prefix, _)| link.starts_with(prefix)).map(|(_, o)| *o);
    let found: Vec<(&String, &str)> = links.iter().filter_map(|link| Some((link, owner(link)?))).collect();
    let (first, _) = found.first()?;
    let mut owners: Vec<&str> = found.iter().map(|(_, owner)| *owner).collect();
    owners.dedup();
    Some(Finding::warning(
        "others",
        format!("{first}{} left by {}", others(found.len()), owners.join(" and ")),
        format!("remove that plugin first; then: ip link delete {first}"),
    ))
}

fn others(count: usize) -> String {
    if count > 1 { format!(" and {} other links are", count - 1) } else { " is".into() }
}

/// systemd-networkd removes, at each restart, routes and rules that it finds and doesn't know.
fn networkd(machine: &Machine) -> Option<Finding> {
    if !machine.has("/run/systemd/netif/state") {
        return None;
    }
    let mut texts: Vec<String> = Vec::new();
    for base in NETWORKD.iter().rev() {
        texts.extend(machine.text(format!("{base}/networkd.conf")));
        let folder = format!("{base}/networkd.conf.d");
        let files = machine.names(&folder).into_iter().filter(|name| name.ends_with(".conf"));
        texts.extend(files.filter_map(|name| machine.text(format!("{folder}/{name}"))));
    }
    let off = |key: &str| {
        let values =
            texts.iter().flat_map(|text| text.lines()).filter_map(|line| line.trim().split_once('='));
        let mut named = values.filter(|(name, _)| name.trim() == key);
        named.next_back().is_some_and(|(_, value)| ["no", "false", "0", "off"].contains(&value.trim()))
    };
    let missing: Vec<&str> = NETWORKD_KEYS.into_iter().filter(|key| !off(key)).collect();
    if missing.is_empty() {
        return None;
    }
    Some(Finding::warning(
        "others",
        format!(
            "systemd-networkd removes our routes and rules when it restarts ({} not set to no): they are mended, and \
             packets are lost until then",
            missing.join(", ")
        ),
        "mkdir -p /etc/systemd/networkd.conf.d; printf '[Network]\\nManageForeignRoutes=no\\n\
         ManageForeignRoutingPolicyRules=no\\n' > /etc/systemd/networkd.conf.d/weft.conf; \
         systemctl restart systemd-networkd",
    ))
}

fn network_manager(machine: &Machine) -> Option<Finding> {
    if !machine.processes().any(|process| process.name == "NetworkManager") {
        return None;
    }
    let folders =
        ["/usr/lib/NetworkManager/conf.d", "/run/NetworkManager/conf.d", "/etc/NetworkManager/conf.d"];
    let told = folders.iter().any(|folder| {
        let texts =
            machine.names(folder).into_iter().filter_map(|name| machine.text(format!("{folder}/{name}")));
        texts.flat_map(|text| text.lines().map(str::to_owned).collect::<Vec<_>>()).any(|line| {
            line.split_once('=').is_some_and(|(key, value)| {
                key.trim() == "unmanaged-devices" && value.contains("interface-name:weft*")
            })
        })
    });
    if told {
        return None;
    }
    Some(Finding::warning(
        "others",
        "NetworkManager runs and may configure pods' links",
        "printf '[keyfile]\\nunmanaged-devices=interface-name:weft*\\n' > /etc/NetworkManager/conf.d/weft.conf; \
         systemctl reload NetworkManager",
    ))
}

/// The node's own resolvers, to which questions for outside names go.
pub fn resolver(machine: &Machine, dns: &DnsConfig) -> Vec<Finding> {
    if !dns.enabled {
        return Vec::new();
    }
    if !dns.upstreams.is_empty() {
        let named: Vec<String> = dns.upstreams.iter().map(ToString::to_string).collect();
        return vec![Finding::ok("resolvers", format!("{} of dns.upstreams", named.join(", ")))];
    }
    let file = dns.resolv_conf.display();
    let text = machine.text(&dns.resolv_conf).unwrap_or_default();
    let servers: Vec<&str> = text
        .lines()
        .filter_map(|line| line.trim().strip_prefix("nameserver"))
        .map(str::trim)
        .filter(|server| !server.is_empty())
        .collect();
    vec![match servers.as_slice() {
        [] => Finding::warning(
            "resolvers",
            format!("{file} names no nameserver: pods can't resolve names outside the cluster"),
            "name some in dns.upstreams of the configuration",
        ),
        ["127.0.0.53", ..] => {
            Finding::ok("resolvers", "systemd-resolved, which listens elsewhere than we do")
        }
        servers => Finding::ok("resolvers", format!("{} of {file}", servers.join(", "))),
    }]
}

#[cfg(test)]
mod tests {
    use super::super::Verdict;
    use super::super::machine::testing::FakeMachine;
    use super::*;

    #[track_caller]
    fn check_files(files: &[(&str, &str)], expected: Option<&str>) {
        let findings = check(&FakeMachine::new(files).machine());
        match (&findings[..], expected) {
            ([finding], None) => assert_eq!(finding.verdict, Verdict::Ok, "{findings:?}"),
            ([finding], Some(text)) => {
                assert_eq!(finding.verdict, Verdict::Warning);
                assert!(finding.text.contains(text), "{findings:?}");
            }
            _ => panic!("{findings:?}"),
        }
    }

    #[test]
    fn leftovers_of_other_plugins_are_named() {
        let dev = |links: &str| format!("Inter-|   Receive\n face |bytes\n{links}");
        check_files(&[("/proc/self/net/dev", &dev("    lo: 0 0\n  eth0: 0 0\n"))], None);
        check_files(&[("/proc/self/net/dev", &dev("  cni0: 0\n"))], Some("cni0 is left by"));
        check_files(
            &[("/proc/self/net/dev", &dev("  cali1: 0\ncali2: 0\n"))],
            Some("cali1 and 1 other links are left by Calico"),
        );
    }

    #[test]
    fn networkd_must_leave_our_routes() {
        let runs = ("/run/systemd/netif/state", "");
        check_files(&[runs], Some("ManageForeignRoutes"));
        let both = "[Network]\nManageForeignRoutes=no\nManageForeignRoutingPolicyRules = false\n";
        check_files(&[runs, ("/etc/systemd/networkd.conf.d/weft.conf", both)], None);
        let half = "[Network]\nManageForeignRoutes=no\n";
        check_files(
            &[runs, ("/etc/systemd/networkd.conf", half)],
            Some("(ManageForeignRoutingPolicyRules not"),
        );
        // What stands in /etc wins over what the system brought.
        let yes = "ManageForeignRoutes=yes";
        check_files(
            &[runs, ("/usr/lib/systemd/networkd.conf", both), ("/etc/systemd/networkd.conf", yes)],
            Some("(ManageForeignRoutes not"),
        );
    }

    #[test]
    fn network_manager_must_be_told() {
        let runs = ("/proc/7/comm", "NetworkManager\n");
        check_files(&[runs], Some("NetworkManager"));
        let told = "[keyfile]\nunmanaged-devices=interface-name:weft*\n";
        check_files(&[runs, ("/etc/NetworkManager/conf.d/weft.conf", told)], None);
    }

    #[test]
    fn resolvers_are_named_or_missed() {
        let check = |text: &str, expected: Verdict| {
            let fake = FakeMachine::new(&[("/etc/resolv.conf", text)]);
            let finding = resolver(&fake.machine(), &DnsConfig::default()).remove(0);
            assert_eq!(finding.verdict, expected, "{finding:?}");
        };
        check("nameserver 127.0.0.53\n", Verdict::Ok);
        check("# nothing\nsearch example\n", Verdict::Warning);
        let fixed = DnsConfig { upstreams: vec!["192.0.2.53".parse().unwrap()], ..DnsConfig::default() };
        let finding = resolver(&FakeMachine::new(&[]).machine(), &fixed).remove(0);
        assert_eq!((finding.verdict, finding.text.as_str()), (Verdict::Ok, "192.0.2.53 of dns.upstreams"));
    }
}
