//! What the status says of the kernel: tried out, here and on the older kernel of `cargo xtask test --guest`.

use std::process::Command;

use serde_json::json;

use crate::node::Node;
use crate::restart::eventually;

#[test]
fn the_status_says_what_this_kernel_can_do() {
    let Some(mut node) = Node::new() else { return };
    node.start(None);
    let kernel = || node.status().map(|status| status["kernel"].clone()).unwrap_or_default();
    // On a kernel that lacks something this says what.
    eventually("the trial's outcome", || !kernel()["lacks"].is_null() || kernel()["untried"].is_string());
    let release = Command::new("uname").arg("-r").output().unwrap().stdout;
    let release = String::from_utf8(release).unwrap();
    assert_eq!(kernel(), json!({ "release": release.trim(), "lacks": [] }));
    assert!(!std::path::Path::new("/run/weft/trial").exists(), "the trial leaves its folder");
    node.stop();
}
