//! Mistakes: of the user, of the machine, of another program. Each is one line that says what to do.

use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::{fs, thread};

use crate::run::{Done, ask, command, weft};

#[test]
fn without_an_agent_each_question_says_what_to_do() {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("weft.sock").display().to_string();
    let check = |arguments: &[&str], status| {
        ask(folder.path(), arguments)
            .complains(status, &[&socket, "No such file", "weft agent --config", "--run-dir"]);
    };
    check(&["status"], 1);
    check(&["plan"], 2);
    check(&["plan", "--diff"], 2);
    check(&["explain", "a", "b"], 2);
    // A socket that a killed agent left.
    drop(UnixListener::bind(folder.path().join("weft.sock")).unwrap());
    ask(folder.path(), &["status"]).complains(1, &["refused", "weft agent --config"]);
}

/// Somebody else's socket that answers every connection with these bytes.
fn stranger(folder: &Path, answer: &'static [u8]) {
    let listener = UnixListener::bind(folder.join("weft.sock")).unwrap();
    // It ends with the test's process.
    thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let _ = stream.read(&mut [0; 1024]);
            let _ = stream.write_all(answer);
        }
    });
}

#[test]
fn another_programs_socket_is_recognised() {
    let check = |answer: &'static [u8], words: &[&str]| {
        let folder = tempfile::tempdir().unwrap();
        stranger(folder.path(), answer);
        ask(folder.path(), &["status"]).complains(1, words);
    };
    check(b"SSH-2.0-OpenSSH_9.2\r\n\r\n", &["is no weft agent", "--run-dir"]);
    check(b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello", &["is no weft agent"]);
    check(b"HTTP/1.1 404 Not Found\r\ncontent-length: 5\r\n\r\nhello", &["is no weft agent"]);
    check(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}", &["of another version"]);
    check(b"", &["went away"]);
}

#[test]
fn a_broken_configuration_is_named_with_file_line_and_field() {
    let folder = tempfile::tempdir().unwrap();
    let check = |text: &str, words: &[&str]| {
        let file = folder.path().join("agent.yaml");
        fs::write(&file, text).unwrap();
        let file = file.display().to_string();
        for (subcommand, status) in [("agent", 1), ("preflight", 2), ("uninstall", 2)] {
            weft(&[subcommand, "--config", &file]).complains(status, &[&[file.as_str()], words].concat());
        }
    };
    check("node: n1\nstore:\n  directory: /x\ncni:\n  confDri: /y\n", &["line 5", "`confDri`", "confDir"]);
    check("node: n1\n", &["`store`"]);
    check("store: {directory: /x}\nnode: N_1\n", &["line 2", "N_1"]);
    check(
        "store: {directory: /x}\ncni: {deadlineMs: soon}\n",
        &["cni.deadlineMs", "line 2", "`cni: {deadlineMs: soon}`"],
    );
    check("", &["nothing in it"]);
    weft(&["agent", "--config", "/no/such.yaml"]).complains(1, &["/no/such.yaml", "examples/agent.yaml"]);
}

#[test]
fn a_command_line_that_makes_no_sense_has_a_status_of_its_own() {
    let check = |arguments: &[&str], word: &str| {
        let done = weft(arguments);
        assert_eq!((done.status, done.out.as_str()), (64, ""), "{done:?}");
        assert!(done.err.contains(word), "{done:?}");
    };
    check(&[], "Usage");
    check(&["stats"], "'status'");
    check(&["explain", "a"], "<TO>");
    check(&["plan", "--diff", "-f", "x"], "--diff");
    check(&["explain", "a", "b", "-4", "-6"], "-6");
    check(&["status", "-o", "yaml"], "json");
    weft(&["--version"]).says(0, &[&format!("weft {}\n", env!("CARGO_PKG_VERSION"))]);
    weft(&["plan", "--help"]).says(0, &["--origin", "Exit status"]);
}

#[test]
fn the_lab_keeps_to_the_same_statuses() {
    weft(&["lab", "exec", "--help"]).says(0, &["Exit status", "--lab LAB"]);
    for misuse in [&["lab"][..], &["lab", "lst"], &["lab", "exec", "n1", "ip"]] {
        let done = weft(misuse);
        assert_eq!((done.status, done.out.as_str()), (64, ""), "{done:?}");
        assert!(done.err.contains("Usage: weft lab exec"), "{done:?}");
    }
    let full = fs::File::options().write(true).open("/dev/full").unwrap();
    let done = Done::from(command(&["lab", "--help"]).stdout(full).output().unwrap());
    assert_eq!((done.status, done.err.lines().count()), (2, 1), "{done:?}");
    assert!(done.err.contains("can't write to standard output: No space left"), "{done:?}");
}

#[test]
fn questions_for_a_matrix_are_checked_before_they_are_put() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("queries.json").display().to_string();
    weft(&["explain", "--matrix", &file]).complains(2, &[&file, "No such file"]);
    fs::write(&file, "[{\"from\": \"a\"}]").unwrap();
    weft(&["explain", "--matrix", &file]).complains(2, &[&file, "`to`", "line 1"]);
    fs::write(&file, "[{\"from\": \"a\", \"to\": \"b\", \"famly\": \"IPv4\"}]").unwrap();
    weft(&["explain", "--matrix", &file]).complains(2, &[&file, "[0]", "`famly`"]);
}

/// The binary as a user without rights; `None`, said aloud, where that user can't run it.
fn as_nobody(folder: &Path, arguments: &[&str]) -> Option<Done> {
    if !nix::unistd::geteuid().is_root() {
        return Some(ask(folder, arguments));
    }
    let mut command = command(arguments);
    command.arg("--run-dir").arg(folder).uid(65_534).gid(65_534);
    match command.output() {
        Ok(output) => Some(output.into()),
        Err(error) => {
            println!(
                "SKIPPED: without rights {arguments:?}: the binary can't be run by another user: {error}"
            );
            None
        }
    }
}

#[test]
fn without_rights_it_says_so() {
    let folder = tempfile::tempdir().unwrap();
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let _listener = UnixListener::bind(folder.path().join("weft.sock")).unwrap();
    fs::set_permissions(folder.path().join("weft.sock"), fs::Permissions::from_mode(0o600)).unwrap();
    if nix::unistd::geteuid().is_root()
        && let Some(done) = as_nobody(folder.path(), &["status"])
    {
        done.complains(1, &["Permission denied", "sudo weft"]);
    }
    // A run folder of somebody else's, as /run/weft is.
    let config = folder.path().join("agent.yaml");
    fs::write(&config, "node: n1\nstore: {directory: /x}\nstateDir: /nonexistent/weft\n").unwrap();
    let config = config.display().to_string();
    for (subcommand, status) in [("agent", 1), ("uninstall", 2)] {
        if nix::unistd::geteuid().is_root()
            && let Some(done) = as_nobody(folder.path(), &[subcommand, "--config", &config])
        {
            done.complains(status, &["Permission denied", "sudo weft"]);
        }
    }
    if let Some(done) = as_nobody(folder.path(), &["preflight"]) {
        done.says(1, &["missing  rights", "CAP_NET_ADMIN", "sudo weft preflight"]);
    }
}
