//! What an agent answers, as the binary shows it.

use std::io::Write;
use std::process::Stdio;
use std::sync::{Arc, Mutex};

use serde_json::{Value, json};
use weft_agent::api::{ApiRequest, ApiResponse};
use weft_cni::{CniError, Code};

use crate::run::{Done, FakeAgent, command, weft};

fn fixed(value: Value) -> FakeAgent {
    FakeAgent::new(move |_| ApiResponse::json(&value))
}

fn status(ready: bool) -> Value {
    json!({
        "node": "n1", "version": "0.1.0", "uptimeSeconds": 1, "phase": "running", "ready": ready,
        "addresses": [], "podCidrs": [], "peers": [], "pods": [], "leases": [],
        "facts": {"nodes": 1, "pods": 0, "services": 0, "namespaces": 0},
        "plan": {"generation": 1, "inForce": 1, "kernelRows": 0, "names": 0, "failed": 0,
                 "lastApplied": 0, "lastMessages": 0, "lastMicros": 0},
        "warnings": [], "notices": [],
    })
}

#[test]
fn status_says_by_its_exit_status_whether_the_node_is_ready() {
    fixed(status(true)).ask(&["status"]).says(0, &["node n1 is ready"]);
    fixed(status(false)).ask(&["status"]).says(2, &["node n1 is NOT ready"]);
    let done = fixed(status(false)).ask(&["status", "-o", "json"]);
    done.says(2, &[]);
    assert_eq!(serde_json::from_str::<Value>(&done.out).unwrap(), status(false));
}

#[test]
fn plan_diff_says_by_its_exit_status_whether_the_kernel_differs() {
    fixed(json!({"differences": []})).ask(&["plan", "--diff"]).says(0, &["as the plan has it"]);
    fixed(json!({"differences": ["+ route x"]})).ask(&["plan", "--diff"]).says(1, &["+ route x\n"]);
    let done = fixed(json!({"differences": ["+ route x"]})).ask(&["plan", "--diff", "--output", "json"]);
    assert_eq!(serde_json::from_str::<Value>(&done.out).unwrap()["differences"][0], "+ route x");
    let plan = json!({"generation": 3, "rows": [{"row": "sysctl a = 1", "origin": "host"}], "warnings": []});
    fixed(plan.clone()).ask(&["plan"]).says(0, &["sysctl a = 1\n"]);
    fixed(plan).ask(&["plan", "--origin"]).says(0, &["sysctl a = 1  # host\n"]);
}

#[test]
fn a_preview_names_the_folder_by_its_whole_path() {
    let agent = FakeAgent::new(|request: ApiRequest| {
        let body: Value = serde_json::from_slice(&request.body).unwrap();
        ApiResponse::json(
            &json!({"differences": [format!("+ {}", body["folder"].as_str().unwrap())], "notices": []}),
        )
    });
    let here = std::env::current_dir().unwrap();
    agent.ask(&["plan", "-f", "."]).says(0, &[&format!("+ {}\n", here.display())]);
    agent.ask(&["plan", "-f", "no-such-folder"]).complains(2, &["no-such-folder", "No such file"]);
}

#[test]
fn what_was_installed_is_told_to_programs_too() {
    let folder = tempfile::tempdir().unwrap();
    let (plugin, bin) = (folder.path().join("weft-cni"), folder.path().join("bin"));
    std::fs::write(&plugin, "a program").unwrap();
    for done in ["replaced", "same"] {
        let answer =
            weft(&["install", bin.to_str().unwrap(), "--plugin", plugin.to_str().unwrap(), "-o", "json"]);
        answer.says(0, &[]);
        let expected = json!({"plugin": bin.join("weft"), "done": done});
        assert_eq!(serde_json::from_str::<Value>(&answer.out).unwrap(), expected);
    }
}

fn explanation(verdict: &str, works: bool) -> Value {
    let query = json!({"from": "a", "to": "b:80", "family": null});
    json!({
        "explanations": [{"query": query, "verdict": verdict, "works": works, "text": "the way"}],
        "kernel": {"agrees": true, "differences": []},
    })
}

#[test]
fn explain_says_by_its_exit_status_whether_it_works() {
    let check = |verdict: &str, works, expected: i32| {
        fixed(explanation(verdict, works)).ask(&["explain", "a", "b:80"]).says(expected, &["the way\n"]);
    };
    check("delivered", true, 0);
    check("delivered", false, 1);
    check("dropped", false, 1);
    check("unanswerable", false, 2);
}

#[test]
fn peers_are_asked_for_their_kernels_and_each_by_its_own_name() {
    let heard = Arc::new(Mutex::new(Value::Null));
    let kept = heard.clone();
    let asked = FakeAgent::new(move |request: ApiRequest| {
        *kept.lock().unwrap() = serde_json::from_slice(&request.body).unwrap();
        ApiResponse::json(&explanation("delivered", true))
    });
    let peer = FakeAgent::new(|request: ApiRequest| {
        ApiResponse::json(&match request.path.as_str() {
            "/v1/status" => json!({"node": "n2"}),
            _ => json!({"differences": ["+ route x"]}),
        })
    });
    let folder = peer.folder.path().display().to_string();
    asked.ask(&["explain", "a", "b:80", "--peer", &format!("n2={folder}")]).says(0, &["the way\n"]);
    let body = heard.lock().unwrap().clone();
    assert_eq!(body["peers"], json!([{"node": "n2", "differences": ["+ route x"]}]));
    assert_eq!(body["checkKernel"], true);
    asked
        .ask(&["explain", "a", "b:80", "--peer", &format!("n3={folder}")])
        .complains(2, &["--peer n3", "is of n2's agent"]);
}

#[test]
fn a_peer_that_says_nothing_takes_nothing_from_the_answer() {
    let asked = fixed(explanation("delivered", true));
    let peer = FakeAgent::new(|request: ApiRequest| {
        ApiResponse::json(&match request.path.as_str() {
            "/v1/status" => json!({"node": "n2"}),
            _ => json!({"differences": []}),
        })
    });
    // Somebody listens there and never answers: two of them take no longer than one.
    let stuck = tempfile::tempdir().unwrap();
    let _listener = std::os::unix::net::UnixListener::bind(stuck.path().join("weft.sock")).unwrap();
    let [alive, stuck] = [peer.folder.path(), stuck.path()].map(|folder| folder.display().to_string());
    let began = std::time::Instant::now();
    let peers = [format!("n2={alive}"), "n3=/nowhere".into(), format!("n4={stuck}"), format!("n5={stuck}")];
    let peers = peers.iter().flat_map(|peer| ["--peer", peer]);
    let arguments: Vec<&str> = ["explain", "a", "b:80"].into_iter().chain(peers).collect();
    let done = asked.ask(&arguments);
    let took = began.elapsed();
    done.says(
        0,
        &[
            "the way\n",
            "peer n3 did not answer",
            "/nowhere",
            "--peer NODE=DIR",
            "peer n4 did not answer",
            "within 2000 ms",
        ],
    );
    assert!(!done.out.contains("peer n2"), "{done:?}");
    assert!(took < std::time::Duration::from_secs(10), "{took:?}");
    let arguments: Vec<&str> = arguments.into_iter().chain(["-o", "json"]).collect();
    let answer: Value = serde_json::from_str(&asked.ask(&arguments).out).unwrap();
    assert_eq!(answer["silentPeers"][0]["node"], "n3");
    assert_eq!(answer["explanations"][0]["works"], true);
}

#[test]
fn a_matrix_goes_in_parts_and_comes_out_whole() {
    let agent = FakeAgent::new(|request: ApiRequest| {
        let body: Value = serde_json::from_slice(&request.body).unwrap();
        let queries = body["queries"].as_array().unwrap();
        assert!(queries.len() <= 200 && body["checkKernel"] == false);
        let answer =
            |query: &Value| json!({"query": query, "verdict": "delivered", "works": true, "text": ""});
        ApiResponse::json(
            &json!({"explanations": queries.iter().map(answer).collect::<Vec<_>>(), "kernel": null}),
        )
    });
    let queries: Vec<Value> = (0..450).map(|n| json!({"from": format!("p{n}"), "to": "b:80"})).collect();
    let mut child = command(&["explain", "--matrix", "-", "--run-dir"])
        .arg(agent.folder.path())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(json!(queries).to_string().as_bytes()).unwrap();
    let done = Done::from(child.wait_with_output().unwrap());
    done.says(0, &[]);
    let cells: Vec<Value> = serde_json::from_str(&done.out).unwrap();
    assert_eq!((cells.len(), &cells[449]["query"]["from"]), (450, &json!("p449")));
    assert_eq!(cells[0]["works"], true);
}

#[test]
fn an_agents_error_is_shown_with_its_mend() {
    let error = || CniError::new(Code::IO_FAILURE, "the folder can't be read", "mount it");
    let agent = FakeAgent::new(move |_| ApiResponse::error(&error()));
    agent.ask(&["plan"]).complains(2, &["the folder can't be read: mount it"]);
    let older = FakeAgent::new(|request: ApiRequest| ApiResponse::not_found(&request.path));
    older.ask(&["status"]).complains(1, &["/v1/status", "weft --version"]);
}

#[test]
fn a_reader_that_has_seen_enough_is_no_error() {
    let rows: Vec<Value> =
        (0..20_000).map(|n| json!({"row": format!("row {n}"), "origin": "host"})).collect();
    let agent = fixed(json!({"generation": 1, "rows": rows, "warnings": []}));
    let line = format!(
        "{} plan --run-dir {} | head -n 2",
        env!("CARGO_BIN_EXE_weft"),
        agent.folder.path().display()
    );
    let done = Done::from(std::process::Command::new("sh").args(["-c", &line]).output().unwrap());
    assert_eq!((done.out.lines().count(), done.err.as_str()), (2, ""), "{done:?}");
}
