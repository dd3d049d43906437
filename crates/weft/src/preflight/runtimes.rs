//! Container runtimes: other network configurations that they would take first, and where our plugin is.

use std::path::Path;

use serde_json::Value;
use weft_agent::config::CniConfig;

use super::{Finding, Machine};
use crate::traces::PLUGIN_DIRS;

/// What libcni takes for a network configuration.
const EXTENSIONS: [&str; 3] = ["conf", "conflist", "json"];

pub fn check(machine: &Machine, cni: &CniConfig) -> Vec<Finding> {
    vec![earlier(machine, cni), plugin(machine)]
}

/// Runtimes take the first configuration by name.
fn earlier(machine: &Machine, cni: &CniConfig) -> Finding {
    let is_conf = |name: &&String| {
        let extension = Path::new(name).extension().and_then(|e| e.to_str());
        extension.is_some_and(|e| EXTENSIONS.contains(&e))
    };
    let names = machine.names(&cni.conf_dir);
    let earlier: Vec<&str> = names
        .iter()
        .filter(is_conf)
        .map(String::as_str)
        .take_while(|name| *name < cni.conf_name.as_str())
        .collect();
    let folder = cni.conf_dir.display();
    let Some(first) = earlier.first() else {
        return Finding::ok(
            "runtimes",
            format!("{} will be the first configuration in {folder}", cni.conf_name),
        );
    };
    let aside = format!("mv {folder}/{first} {folder}/{first}.disabled");
    let mend = match is_of_movers(&machine.text(cni.conf_dir.join(first)).unwrap_or_default()) {
        true => {
            format!("weft migrate --dry-run shows how its pods move in; where none is to be kept: {aside}")
        }
        false => format!("{aside}, or choose a smaller cni.confName"),
    };
    Finding::warning(
        "runtimes",
        format!(
            "{} in {folder} sorts before {}: runtimes use it instead",
            earlier.join(" and "),
            cni.conf_name
        ),
        mend,
    )
}

/// True for the configuration of a network whose pods `weft migrate` can take over.
fn is_of_movers(text: &str) -> bool {
    let conf: Value = serde_json::from_str(text).unwrap_or_default();
    let plugins = conf["plugins"].as_array().into_iter().flatten().chain([&conf]);
    plugins.into_iter().any(|plugin| ["flannel", "bridge"].iter().any(|kind| plugin["type"] == *kind))
}

fn plugin(machine: &Machine) -> Finding {
    let there = PLUGIN_DIRS.iter().map(|dir| Path::new(dir).join("weft")).find(|path| machine.has(path));
    match there {
        Some(path) => Finding::ok("plugin", format!("{} is there", path.display())),
        None => Finding::warning(
            "plugin",
            format!("no CNI plugin weft in {}: runtimes can't attach pods", PLUGIN_DIRS.join(", ")),
            format!("install -D -m 0755 weft-cni {}/weft", PLUGIN_DIRS[0]),
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::super::Verdict;
    use super::super::machine::testing::FakeMachine;
    use super::*;

    #[test]
    fn configurations_that_sort_before_ours_are_named() {
        let check = |names: &[&str], expected: Verdict| {
            let paths: Vec<String> = names.iter().map(|name| format!("/etc/cni/net.d/{name}")).collect();
            let files: Vec<(&str, &str)> = paths.iter().map(|path| (path.as_str(), "{}")).collect();
            let finding = earlier(&FakeMachine::new(&files).machine(), &CniConfig::default());
            assert_eq!(finding.verdict, expected, "{finding:?}");
        };
        check(&[], Verdict::Ok);
        check(&["87-podman.conflist", "10-weft.conflist"], Verdict::Ok);
        check(&["10-flannel.conflist"], Verdict::Warning);
        check(&["05-cilium.conf.disabled", "00-notes.txt"], Verdict::Ok);
    }

    #[test]
    fn whoever_has_pods_to_move_is_told_of_it() {
        let check = |text: &str, expected: &str| {
            let fake = FakeMachine::new(&[("/etc/cni/net.d/05-other.conflist", text)]);
            let mend = earlier(&fake.machine(), &CniConfig::default()).mend.unwrap();
            assert!(mend.starts_with(expected), "{mend}");
        };
        let moves = "weft migrate --dry-run";
        check(r#"{"name": "cbr0", "plugins": [{"type": "flannel"}, {"type": "portmap"}]}"#, moves);
        check(r#"{"name": "pods", "type": "bridge"}"#, moves);
        check(r#"{"name": "x", "plugins": [{"type": "calico"}]}"#, "mv /etc/cni/net.d/05-other.conflist ");
        check("broken", "mv ");
    }

    #[test]
    fn the_plugin_is_looked_for_where_runtimes_do() {
        assert_eq!(plugin(&FakeMachine::new(&[]).machine()).verdict, Verdict::Warning);
        assert_eq!(plugin(&FakeMachine::new(&[("/usr/lib/cni/weft", "")]).machine()).verdict, Verdict::Ok);
    }
}
