//! Tests in fresh network namespaces: a test starts its own binary again inside `unshare`, so that nothing that it does
//! reaches the machine's network. As root a network and a mount namespace are enough, otherwise a user namespace is made too.

use std::process::Command;

const INSIDE: &str = "WEFT_TEST_NAMESPACE";

/// Runs the rest of the test `name` in a namespace of its own: returns true inside, where the test goes on, and false
/// outside, after the inner run succeeded. Where namespaces can't be made it says `SKIPPED` and returns false.
pub fn inside(name: &str) -> bool {
    if std::env::var_os(INSIDE).is_some() {
        run("ip link set lo up");
        return true;
    }
    let flags: &[&str] =
        if nix::unistd::geteuid().is_root() { &["-n", "-m"] } else { &["-U", "-r", "-n", "-m"] };
    let possible = Command::new("unshare").args(flags).arg("true").status();
    if !possible.is_ok_and(|status| status.success()) {
        println!("SKIPPED: {name}: `unshare {}` does not work here", flags.join(" "));
        return false;
    }
    let binary = std::env::current_exe().expect("the test's own path");
    let output = Command::new("unshare")
        .args(flags)
        .arg(binary)
        .args([name, "--exact", "--nocapture", "--test-threads=1"])
        .env(INSIDE, "1")
        .output()
        .expect("unshare was there a moment ago");
    let text = String::from_utf8_lossy(&output.stdout);
    // Set in, so that nobody takes the inner harness's lines for the outer one's.
    let errors = String::from_utf8_lossy(&output.stderr);
    text.lines().chain(errors.lines()).for_each(|line| println!("  | {line}"));
    assert!(output.status.success(), "the test failed inside its namespace");
    assert!(text.contains("1 passed"), "no test of the name {name} ran");
    false
}

/// Runs a command line, which must succeed; returns what it printed. Words are split at blanks.
pub fn run(line: &str) -> String {
    let (ok, text) = attempt(line);
    assert!(ok, "`{line}` failed: {text}");
    text
}

/// Runs a command line; says whether it succeeded, and what it printed.
pub fn attempt(line: &str) -> (bool, String) {
    let mut words = line.split_whitespace();
    let program = words.next().expect("a command");
    let output = Command::new(program).args(words).output().expect("the command exists");
    let text =
        format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    (output.status.success(), text)
}
