//! The plugin's binary against an agent that misbehaves in every way we could think of.
//!
//! The agent is a thread with a real socket; the container is a process in a network namespace of its own.

mod rig;

use std::fs;
use std::process::Command;
use std::time::{Duration, Instant};

use rig::{Act, Agent, Bench, Container, program};
use serde_json::{Value, json};
use weft_cni::wire::Verb;
use weft_cni::{AddResult, AttachmentRef, Interface, Version, tombstone};

/// A result as an agent sends it.
fn result(version: Version) -> Vec<u8> {
    let eth0 = Interface { name: "eth0".into(), mtu: Some(1450), ..Interface::default() };
    AddResult { interfaces: vec![eth0], ..AddResult::default() }.render(version).to_string().into_bytes()
}

fn tombstones(bench: &Bench) -> Vec<AttachmentRef> {
    let all = tombstone::list(&bench.state_dir()).unwrap();
    all.into_iter().map(|(_, stone)| stone.unwrap().id().unwrap()).collect()
}

#[test]
fn every_verb_reaches_the_agent_with_the_call_and_the_namespace() {
    let Some(container) = Container::start() else { return };
    for (command, verb, passes_netns) in [
        ("ADD", Verb::Add, true),
        ("CHECK", Verb::Check, true),
        ("DEL", Verb::Del, true),
        ("GC", Verb::Gc, false),
        ("STATUS", Verb::Status, false),
    ] {
        let bench = Bench::new();
        let body = if verb == Verb::Add { result(Version::V1_1_0) } else { b"{}".to_vec() };
        let agent = Agent::start(&bench, Act::answer(200, &body));
        let config = bench.config("1.1.0", json!({"prevResult": {}, "cni.dev/valid-attachments": []}));
        let run = bench.run(command, container.netns(), &config);
        let seen = agent.seen();
        assert_eq!(run.exit, 0, "{command}: {}", run.stdout);
        assert!(seen.head.starts_with(&format!("POST {} HTTP/1.1\r\n", verb.path())), "{}", seen.head);
        assert!(seen.deadline_ms() > 1000 && seen.deadline_ms() < 30_000, "{}", seen.head);
        assert_eq!(seen.call.container, "abc-1");
        assert_eq!(seen.call.ifname, "eth0");
        assert_eq!(seen.call.netns, container.netns());
        assert_eq!(seen.call.config, config);
        assert_eq!(seen.call.plugin_version(), Some(weft_cni::VERSION));
        assert!(seen.call.request(verb).is_ok());
        let expected = if passes_netns { vec![container.inode()] } else { vec![] };
        assert_eq!(seen.descriptors, expected, "{command}: the descriptors are the container's namespace");
        if verb == Verb::Add {
            assert_eq!(
                serde_json::from_str::<Value>(&run.stdout).unwrap(),
                serde_json::from_slice::<Value>(&body).unwrap()
            );
        } else {
            assert_eq!(run.stdout, "", "{command}");
        }
        assert!(tombstones(&bench).is_empty());
    }
}

#[test]
fn the_agents_errors_are_the_plugins() {
    let Some(container) = Container::start() else { return };
    let check = |command: &str, status: u16, body: &str, expected: u64| {
        let bench = Bench::new();
        let _agent = Agent::start(&bench, Act::answer(status, body.as_bytes()));
        let config = bench.config("1.0.0", json!({"prevResult": {}}));
        let config = if command == "STATUS" { bench.config("1.1.0", json!({})) } else { config };
        let run = bench.run(command, container.netns(), &config);
        assert_eq!((run.exit, run.error_code()), (1, expected), "{command} {body}");
        let shown: Value = serde_json::from_str(&run.stdout).unwrap();
        assert_eq!(shown["cniVersion"], config["cniVersion"]);
        assert_eq!(shown["msg"], "said by the agent");
        assert!(tombstones(&bench).is_empty());
    };
    check("ADD", 500, r#"{"code":100,"msg":"said by the agent","details":"free some"}"#, 100);
    check("ADD", 503, r#"{"code":11,"msg":"said by the agent"}"#, 11);
    check("CHECK", 500, r#"{"code":103,"msg":"said by the agent"}"#, 103);
    check("DEL", 500, r#"{"code":102,"msg":"said by the agent"}"#, 102);
    check("STATUS", 503, r#"{"code":51,"msg":"said by the agent"}"#, 51);
}

#[test]
fn with_the_agent_down_a_del_succeeds_and_the_others_say_so() {
    let Some(container) = Container::start() else { return };
    let check = |command: &str, expected: Option<u64>, stones: usize| {
        let bench = Bench::new();
        let extra = json!({"deadlineMs": 300, "prevResult": {}, "cni.dev/valid-attachments": []});
        let run = bench.run(command, container.netns(), &bench.config("1.1.0", extra));
        let code = (run.exit != 0).then(|| run.error_code());
        assert_eq!(code, expected, "{command}: {}", run.stdout);
        assert_eq!(tombstones(&bench).len(), stones, "{command}");
    };
    check("ADD", Some(11), 0);
    check("DEL", None, 1);
    check("CHECK", Some(11), 0);
    check("GC", Some(11), 0);
    check("STATUS", Some(50), 0);
}

#[test]
fn a_socket_that_nobody_listens_on_is_an_agent_that_is_down() {
    let bench = Bench::new();
    drop(std::os::unix::net::UnixListener::bind(bench.socket()).unwrap());
    let run = bench.run("DEL", "", &bench.config("0.4.0", json!({"deadlineMs": 300})));
    assert_eq!((run.exit, run.stdout.as_str()), (0, ""));
    assert_eq!(tombstones(&bench).len(), 1);
    let again = bench.run("DEL", "/no/such/namespace", &bench.config("0.4.0", json!({"deadlineMs": 300})));
    assert_eq!(again.exit, 0, "{}", again.stdout);
    assert_eq!(tombstones(&bench).len(), 1, "a repeated DEL leaves one tombstone");
}

#[test]
fn without_agent_and_without_tombstone_a_del_fails_with_code_5() {
    let bench = Bench::new();
    fs::write(bench.state_dir(), "a file where the folder should be").unwrap();
    let run = bench.run("DEL", "", &bench.config("1.0.0", json!({"deadlineMs": 200})));
    assert_eq!((run.exit, run.error_code()), (1, 5));
}

#[test]
fn an_answer_that_is_broken_leaves_a_tombstone_for_add_and_del() {
    let Some(container) = Container::start() else { return };
    let check = |what: &str, act: Act, add_code: u64| {
        for (command, expected) in [("ADD", Some(add_code)), ("DEL", None)] {
            let bench = Bench::new();
            let _agent = Agent::start(&bench, act.clone());
            let run =
                bench.run(command, container.netns(), &bench.config("1.1.0", json!({"deadlineMs": 2000})));
            let code = (run.exit != 0).then(|| run.error_code());
            assert_eq!(code, expected, "{what}, {command}: {}", run.stdout);
            let id = AttachmentRef::new("abc-1", "eth0").unwrap();
            assert_eq!(tombstones(&bench), [id], "{what}, {command}");
        }
    };
    check("it hangs up at once", Act::Bytes(vec![]), 11);
    check("it dies in the head", Act::Bytes(b"HTTP/1.1 200 OK\r\ncontent-le".to_vec()), 11);
    check(
        "it dies in the body",
        Act::Bytes(b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\n{\"cni".to_vec()),
        11,
    );
    check("it speaks another protocol", Act::Bytes(b"SSH-2.0-OpenSSH_9.2\r\n".to_vec()), 6);
    check("it errs without JSON", Act::answer(500, b"internal server error"), 6);
    check("it redirects", Act::answer(302, b""), 6);
    check("it is silent", Act::Silent, 11);
}

#[test]
fn an_add_answered_with_nonsense_fails_and_leaves_a_tombstone() {
    let Some(container) = Container::start() else { return };
    for body in [&b"null"[..], b"not json", b"{}", &result(Version::V0_4_0)] {
        let bench = Bench::new();
        let _agent = Agent::start(&bench, Act::answer(200, body));
        let run = bench.run("ADD", container.netns(), &bench.config("1.1.0", json!({})));
        assert_eq!((run.exit, run.error_code()), (1, 6), "{}", String::from_utf8_lossy(body));
        assert_eq!(tombstones(&bench).len(), 1);
    }
}

#[test]
fn a_silent_agent_is_given_up_at_the_deadline() {
    let Some(container) = Container::start() else { return };
    let bench = Bench::new();
    let _agent = Agent::start(&bench, Act::Silent);
    let start = Instant::now();
    let run = bench.run("ADD", container.netns(), &bench.config("1.1.0", json!({"deadlineMs": 700})));
    let took = start.elapsed();
    assert_eq!(run.error_code(), 11);
    assert!(took >= Duration::from_millis(690) && took < Duration::from_millis(5000), "{took:?}");
}

#[test]
fn an_agent_that_is_just_restarting_is_waited_for() {
    let Some(container) = Container::start() else { return };
    let bench = Bench::new();
    let agent =
        Agent::start_after(&bench, Duration::from_millis(300), Act::answer(200, &result(Version::V0_3_1)));
    let run = bench.run("ADD", container.netns(), &bench.config("0.3.1", json!({})));
    assert_eq!(run.exit, 0, "{}", run.stdout);
    assert_eq!(agent.seen().descriptors, [container.inode()]);
}

#[test]
fn a_del_put_off_by_the_agent_becomes_a_tombstone() {
    let bench = Bench::new();
    let _agent = Agent::start(&bench, Act::answer(503, br#"{"code":11,"msg":"busy"}"#));
    let run = bench.run("DEL", "", &bench.config("1.0.0", json!({})));
    assert_eq!((run.exit, tombstones(&bench).len()), (0, 1), "{}", run.stdout);
}

#[test]
fn a_path_that_is_no_container_never_reaches_the_agent() {
    for path in ["/proc/self/ns/net", "/proc/self/ns/mnt", "/dev/null", "/no/such/file"] {
        let bench = Bench::new();
        let run = bench.run("ADD", path, &bench.config("1.1.0", json!({})));
        assert_eq!((run.exit, run.error_code()), (1, 4), "{path}: {}", run.stdout);
        assert!(run.stdout.contains("CNI_NETNS"), "{}", run.stdout);
        let agent = Agent::start(&bench, Act::answer(200, b"{}"));
        assert_eq!(bench.run("DEL", path, &bench.config("1.1.0", json!({}))).exit, 0);
        assert!(agent.seen().descriptors.is_empty(), "{path}: a DEL must not hand over the host's namespace");
    }
}

#[test]
fn a_person_can_ask_the_file_for_its_version() {
    for word in ["--version", "-V"] {
        let output = Command::new(program()).arg(word).env_clear().output().unwrap();
        let said = String::from_utf8(output.stdout).unwrap();
        assert_eq!((output.status.code(), said), (Some(0), format!("weft-cni {}\n", weft_cni::VERSION)));
    }
}

#[test]
fn version_and_bad_input_need_no_agent() {
    let bench = Bench::new();
    let check = |command: &str, stdin: &[u8], exit: i32, expected: Value| {
        let run = bench.run_raw(command, "", stdin);
        let mut shown: Value = serde_json::from_str(&run.stdout).unwrap();
        shown.as_object_mut().unwrap().retain(|key, _| expected.get(key).is_some());
        assert_eq!((run.exit, shown), (exit, expected), "{command}");
    };
    let supported = json!(["0.3.1", "0.4.0", "1.0.0", "1.1.0"]);
    check("VERSION", b"", 0, json!({"cniVersion": "1.1.0", "supportedVersions": supported}));
    check(
        "VERSION",
        br#"{"cniVersion":"0.4.0"}"#,
        0,
        json!({"cniVersion": "0.4.0", "supportedVersions": supported}),
    );
    check("ADD", b"", 1, json!({"cniVersion": "1.1.0", "code": 6}));
    check("ADD", br#"{"cniVersion":"0.4.0","type":"weft"}"#, 1, json!({"cniVersion": "0.4.0", "code": 7}));
    check("", b"", 1, json!({"cniVersion": "1.1.0", "code": 4}));
    check("FROBNICATE", b"{}", 1, json!({"cniVersion": "1.1.0", "code": 4}));
    check("STATUS", &vec![b' '; (4 << 20) + 1], 1, json!({"code": 6}));
    // No list of the living: nothing to do, whether there is an agent or not.
    let run = bench.run("GC", "", &bench.config("1.1.0", json!({})));
    assert_eq!((run.exit, run.stdout.as_str()), (0, ""));
}
