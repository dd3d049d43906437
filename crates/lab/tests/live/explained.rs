//! `weft explain` on a node whose peer's agent can be reached as well: each hop says what the kernel of its own node says, and a
//! kernel that differs is told from one that agrees.

use std::process::Command;

use super::rig::{Rig, wait};
use super::unchanged;

/// A setting that the kernel tells nobody of: it is different until the agent looks by the clock.
const FORWARDING: &str = "net/ipv4/ip_forward";

/// See the module.
pub fn hops_are_marked(rig: &Rig) {
    unchanged(rig);
    let alone = explain(rig, &[]);
    assert!(alone.contains("\n= n1 ") && alone.contains("\n? n2 "), "{alone}");
    assert!(
        alone.contains("kernel: ? n2's was not asked: run `weft explain -4 test/a1 test/b1:8080` there"),
        "{alone}"
    );
    let both = explain(rig, &["n2"]);
    assert!(both.contains("\n= n1 ") && both.contains("\n= n2 "), "{both}");
    assert!(both.contains("kernel: = n2's is as its plan has it") && !both.contains("\n? "), "{both}");
    let differs = |node: &str, sign: &str| {
        let machine = rig.lab.machine(node).expect("it runs");
        let mut heard = String::new();
        wait(&format!("{node}'s kernel is said to differ"), || {
            machine.sysctl(&[(FORWARDING, "0")]).expect("it can be set");
            heard = explain(rig, &["n2"]);
            heard.contains(&format!("\n{sign} {node} "))
        });
        assert!(heard.contains(&format!("kernel: ! {node}'s differs from its plan")), "{heard}");
        assert!(heard.contains("- sysctl net.ipv4.ip_forward = 0"), "{heard}");
        unchanged(rig);
        heard
    };
    // Of its own the agent knows which hop asks for the row; of a peer's it doesn't.
    let own = differs("n1", "!");
    let after = own.lines().skip_while(|line| !line.starts_with("! n1 ")).nth(1).unwrap_or_default();
    assert!(after.starts_with("      - sysctl net.ipv4.ip_forward"), "{own}");
    assert!(own.contains("\n= n1 ") && own.contains("\n= n2 "), "{own}");
    differs("n2", "~");
}

/// What the command prints, asked with the agents of these peers.
fn explain(rig: &Rig, peers: &[&str]) -> String {
    let run_dir = |node: &str| format!("/proc/{}/root/run/weft", rig.agents[node].pid());
    let mut command = Command::new(rig.programs.weft());
    command.args(["explain", "-4", "test/a1", "test/b1:8080", "--run-dir", &run_dir("n1")]);
    for peer in peers {
        command.args(["--peer", &format!("{peer}={}", run_dir(peer))]);
    }
    let output = command.output().expect("it runs");
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).expect("it is text")
}
