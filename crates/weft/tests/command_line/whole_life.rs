//! A node's whole life in a network namespace of its own: preflight, agent, questions, uninstall, nothing left.

use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Child, Command};
use std::thread::sleep;
use std::time::{Duration, Instant};

use nix::sched::{CloneFlags, unshare};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};

use crate::run::{Done, command, weft};

/// What another firewall had before: its policy drops, so that the agent has to open it.
const FIREWALL: &str =
    "table ip mine { chain forward { type filter hook forward priority 0; policy drop; }; }";

fn sh(line: &str) -> String {
    let output = Command::new("sh").args(["-ec", line]).output().unwrap();
    assert!(output.status.success(), "{line}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// Everything that an uninstall must put back. Link-local addresses come and go by themselves.
fn network() -> String {
    sh("ip -o link | grep -o '^[0-9]*: [^:]*'; ip route show table all | sort; ip -6 route show table all | \
        grep -v -e fe80 -e ff00 | sort; ip rule; ip -6 rule; nft list ruleset; cat /proc/sys/net/ipv4/ip_forward \
        /proc/sys/net/ipv6/conf/all/forwarding /proc/sys/net/ipv4/conf/*/rp_filter")
}

fn write_files(folder: &Path) -> String {
    let at = |name: &str| folder.join(name);
    std::fs::create_dir(at("cluster")).unwrap();
    let manifests = "apiVersion: weft.dev/v1\nkind: Network\nmetadata: {name: default}\n\
                     spec: {podCIDRs: [10.244.0.0/16, \"fd00:244::/48\"]}\n---\n\
                     apiVersion: v1\nkind: Node\nmetadata: {name: n2}\nspec: {podCIDRs: [10.244.9.0/24]}\n\
                     status: {addresses: [{type: InternalIP, address: 198.51.100.2}]}\n";
    std::fs::write(at("cluster/all.yaml"), manifests).unwrap();
    let config = json!({
        "node": "n1",
        "store": {"directory": at("cluster")},
        "stateDir": at("state"),
        "runDir": at("run"),
        "cni": {"confDir": at("cni"), "leaseDir": at("leases")},
    });
    std::fs::write(at("agent.yaml"), config.to_string()).unwrap();
    at("agent.yaml").display().to_string()
}

fn until_ready(run: &str, agent: &mut Child) -> Done {
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        let status = weft(&["status", "--run-dir", run]);
        if status.status == 0 {
            return status;
        }
        assert!(agent.try_wait().unwrap().is_none(), "the agent has ended");
        assert!(Instant::now() < deadline, "not ready in time: {status:?}");
        sleep(Duration::from_millis(50));
    }
}

#[test]
fn a_node_comes_and_goes_without_a_trace() {
    if let Err(error) = unshare(CloneFlags::CLONE_NEWNET) {
        println!("SKIPPED: a_node_comes_and_goes_without_a_trace: no network namespace of its own: {error}");
        return;
    }
    sh("ip link set lo up; ip link add eth0 type veth peer name wire; ip addr add 192.0.2.1/24 dev eth0; \
        ip addr add 2001:db8::1/64 dev eth0 nodad; ip link set eth0 up; ip link set wire up; \
        ip route add default via 192.0.2.254");
    sh(&format!("nft '{FIREWALL}'"));
    let folder = tempfile::tempdir().unwrap();
    let config = write_files(folder.path());
    let run = folder.path().join("run").display().to_string();
    let before = network();

    weft(&["preflight", "--config", &config])
        .says(0, &["ok       kernel", "192.0.2.1", "chain ip mine forward"]);
    assert_eq!(network(), before, "preflight changes nothing");

    let mut agent = command(&["agent", "--config", &config]).spawn().unwrap();
    until_ready(&run, &mut agent).says(0, &["node n1 is ready", "192.0.2.1", "n2    198.51.100.2"]);
    let deadline = Instant::now() + Duration::from_secs(10);
    while weft(&["plan", "--diff", "--run-dir", &run]).status != 0 {
        assert!(Instant::now() < deadline, "{:?}", weft(&["plan", "--diff", "--run-dir", &run]));
        sleep(Duration::from_millis(50));
    }
    weft(&["plan", "--origin", "--run-dir", &run]).says(0, &["sysctl net.ipv4.ip_forward = 1  # node n1"]);
    let cluster = folder.path().join("cluster").display().to_string();
    weft(&["plan", "--run-dir", &run, "-f", &cluster]).says(0, &["Nothing would change."]);
    weft(&["explain", "n1", "198.51.100.2:80", "--run-dir", &run])
        .says(0, &["works:", "= n1 ", "kernel: = n1's is as", "? n2 ", "kernel: ? n2's was not asked"]);
    weft(&["explain", "n1", "nobody", "--run-dir", &run]).says(2, &["nobody"]);
    let json = weft(&["uninstall", "--verify", "--config", &config, "-o", "json"]);
    let left: Value = serde_json::from_str(&json.out).unwrap();
    assert!(json.status == 1 && left["leftovers"].as_array().unwrap().len() > 5, "{json:?}");
    weft(&["uninstall", "--config", &config]).complains(2, &["nothing was removed", &agent.id().to_string()]);
    // Whatever run folder it has, its state is in use.
    let elsewhere = folder.path().join("elsewhere").display().to_string();
    let state = folder.path().join("state").display().to_string();
    weft(&["uninstall", "--config", &config, "--run-dir", &elsewhere])
        .complains(2, &["nothing was removed", "another agent uses", &state]);
    weft(&["agent", "--config", &config]).complains(1, &["another agent holds", &run]);

    kill(Pid::from_raw(i32::try_from(agent.id()).unwrap()), Signal::SIGTERM).unwrap();
    let ended = agent.wait().unwrap();
    assert_eq!((ended.code(), ended.signal()), (Some(0), None));
    assert_ne!(network(), before, "the network outlives the agent");
    // An agent that ends while it tries the kernel out leaves this.
    std::fs::create_dir_all(folder.path().join("run/trial/part")).unwrap();
    weft(&["uninstall", "--config", &config]).says(0, &["removed  link weftx", "nothing of Weft is left"]);
    assert_eq!(network(), before, "uninstall puts everything back");
    weft(&["uninstall", "--verify", "--config", &config]).says(0, &["nothing of Weft is left"]);
    weft(&["uninstall", "--config", &config]).says(0, &["nothing of Weft is left"]);
    for name in ["state", "run", "leases", "cni/10-weft.conflist"] {
        assert!(!folder.path().join(name).exists(), "{name} is left");
    }
    only_its_own_machine_takes_a_node_out_of_the_store(folder.path(), &config);
}

/// In a folder whose state folder stays, as a mount does.
fn only_its_own_machine_takes_a_node_out_of_the_store(folder: &Path, config: &str) {
    let (state, published) = (folder.join("state"), folder.join("cluster/.weft/nodes/n1.json"));
    let seat = std::fs::read_to_string(folder.join("cluster/.weft/machines/n1")).unwrap();
    let ours = seat.split_whitespace().next().unwrap();
    let word = |word: &str| std::fs::write(state.join("machine"), word).unwrap();
    let uninstall = || weft(&["uninstall", "--config", config, "--forget", "n1"]);
    std::fs::create_dir(&state).unwrap();
    std::fs::write(state.join("theirs"), "").unwrap();
    let forget = "`weft forget n1 --force`";
    uninstall().says(1, &["refused  what node n1 has in the store", "whose word went", forget]);
    weft(&["forget", "--config", config, "n1"]).complains(1, &["whose word went", forget]);
    // A copied image: what was refused takes itself down, and the node stays, however often it is asked.
    word("00000000-1111-2222-3333-444444444444\n");
    let other = ["(00000000-1111-2222-3333-444444444444) is another", ours, forget];
    weft(&["forget", "--config", config, "n1"]).complains(1, &other);
    let refused = uninstall();
    refused.says(1, &other).says(1, &["state/machine", "nothing of Weft is left"]);
    uninstall().says(1, &["refused"]);
    assert!(published.exists());
    // An outage takes the word from nobody.
    word(ours);
    std::fs::rename(folder.join("cluster"), folder.join("away")).unwrap();
    uninstall().says(1, &["left     what node n1 has in the store", "state/machine", "tries again"]);
    std::fs::rename(folder.join("away"), folder.join("cluster")).unwrap();
    assert!(published.exists());
    uninstall().says(0, &["removed  what node n1 had in the store"]);
    assert!(!published.exists());
    uninstall().says(0, &["absent   anything of node n1 in the store"]);
    weft(&["forget", "--config", config, "typo"]).says(0, &["the store had nothing of node typo"]);
    // Nothing is put there for asking the store.
    weft(&["uninstall", "--verify", "--config", config]).says(0, &["nothing of Weft is left"]);
    assert_eq!(std::fs::read_dir(&state).unwrap().count(), 1);
}
