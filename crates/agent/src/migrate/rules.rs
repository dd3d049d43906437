//! The rules that the former plugins made for each pod: mapped ports (`portmap`) and masquerade (`bridge` with `ipMasq`).
//!
//! Ours do the same from the agent's start, and the plugins won't be asked to take theirs away again. Connections that stand
//! keep their translation, since connection tracking has it. Rules are known by the comment that the plugins write on each, and
//! by the name of the chain that it leads to; flannel's own chains are no pod's, and stay.
//!
//! Source: `plugins/meta/portmap/chain.go` and `pkg/ip/ipmasq_linux.go` of containernetworking/plugins.

use std::io::Write;
use std::process::{Command, Stdio};

/// Tools of both families: what lists the rules, and what changes them.
const TOOLS: [(&str, &str); 2] =
    [("iptables-save", "iptables-restore"), ("ip6tables-save", "ip6tables-restore")];

/// Takes away what is these containers' in both families; says what could not be.
pub(super) fn clear(network: &str, containers: &[&str]) -> Vec<String> {
    let mut left = Vec::new();
    for (save, restore) in TOOLS {
        // Without the tool the plugins had none either.
        let Ok(listed) = Command::new(save).args(["-t", "nat"]).stderr(Stdio::null()).output() else {
            continue;
        };
        let text = removals(&String::from_utf8_lossy(&listed.stdout), network, containers);
        if text.is_empty() {
            continue;
        }
        if let Err(reason) = feed(restore, &text) {
            left.push(format!(
                "rules of moved pods stay in table nat ({restore}: {reason}): remove those with `name: \"{network}\"` in their \
                 comment"
            ));
        }
    }
    left
}

fn feed(program: &str, text: &str) -> Result<(), String> {
    let mut command = Command::new(program);
    command
        .args(["--noflush", "--wait", "5"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped());
    let mut child = command.spawn().map_err(|error| error.to_string())?;
    if let Some(mut input) = child.stdin.take() {
        input.write_all(text.as_bytes()).map_err(|error| error.to_string())?;
    }
    let output = child.wait_with_output().map_err(|error| error.to_string())?;
    let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    if output.status.success() { Ok(()) } else { Err(said) }
}

/// What to feed in so that the rules of these containers go, and the chains that only they lead to; empty where there are none.
fn removals(listing: &str, network: &str, containers: &[&str]) -> String {
    let of_ours = |line: &str| {
        containers.iter().any(|id| line.contains(&format!("name: \\\"{network}\\\" id: \\\"{id}\\\"\"")))
    };
    let mut rules = Vec::new();
    let mut chains: Vec<&str> = Vec::new();
    for line in listing.lines().filter(|line| of_ours(line)) {
        let words: Vec<&str> = line.split(' ').collect();
        let (Some(rule), [.., "-j", chain]) = (line.strip_prefix("-A "), &words[..]) else { continue };
        if chain.starts_with("CNI-") {
            rules.push(format!("-D {rule}\n"));
            chains.push(*chain);
        }
    }
    if rules.is_empty() {
        return String::new();
    }
    chains.sort_unstable();
    chains.dedup();
    let emptied = chains.iter().map(|chain| format!("-F {chain}\n"));
    let removed = chains.iter().map(|chain| format!("-X {chain}\n"));
    let changes: String = rules.into_iter().chain(emptied).chain(removed).collect();
    format!("*nat\n{changes}COMMIT\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_rules_of_the_named_containers_go() {
        let listing = r#"*nat
:POSTROUTING ACCEPT [0:0]
:CNI-5a0d8 - [0:0]
:CNI-DN-77 - [0:0]
:CNI-99999 - [0:0]
-A PREROUTING -m addrtype --dst-type LOCAL -j CNI-HOSTPORT-DNAT
-A POSTROUTING -s 10.22.0.5/32 -m comment --comment "name: \"old\" id: \"c1\"" -j CNI-5a0d8
-A POSTROUTING -s 10.22.0.6/32 -m comment --comment "name: \"old\" id: \"c11\"" -j CNI-99999
-A POSTROUTING -s 10.9.0.5/32 -m comment --comment "name: \"other\" id: \"c1\"" -j CNI-99999
-A CNI-5a0d8 -d 10.22.0.0/16 -m comment --comment "name: \"old\" id: \"c1\"" -j ACCEPT
-A CNI-HOSTPORT-DNAT -p tcp -m comment --comment "dnat name: \"old\" id: \"c1\"" -m multiport --dports 8080 -j CNI-DN-77
-A CNI-DN-77 -p tcp -m tcp --dport 8080 -j DNAT --to-destination 10.22.0.5:80
COMMIT
"#;
        let expected = r#"*nat
-D POSTROUTING -s 10.22.0.5/32 -m comment --comment "name: \"old\" id: \"c1\"" -j CNI-5a0d8
-D CNI-HOSTPORT-DNAT -p tcp -m comment --comment "dnat name: \"old\" id: \"c1\"" -m multiport --dports 8080 -j CNI-DN-77
-F CNI-5a0d8
-F CNI-DN-77
-X CNI-5a0d8
-X CNI-DN-77
COMMIT
"#;
        assert_eq!(removals(listing, "old", &["c1"]), expected);
        assert_eq!(removals(listing, "old", &["c2"]), "");
    }
}
