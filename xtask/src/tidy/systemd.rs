//! The unit for systemd, read by systemd itself: what it doesn't know it leaves out with a warning that nobody sees, and a node
//! would run with less confinement than the unit says. A test and no check of `tidy`: systemd isn't everywhere.

use std::path::Path;
use std::process::Command;

use crate::shell;

const UNIT: &str = "deploy/systemd/weft.service";
/// Where the unit has the program, which no machine that builds has there.
const PROGRAM: &str = "/usr/local/bin/weft";

/// What systemd says of a unit with this text; nothing where it can't be asked.
fn objections(text: &str) -> Option<Vec<String>> {
    let folder = tempfile::tempdir().expect("a folder can be made");
    let file = folder.path().join(Path::new(UNIT).file_name().expect("it is a file"));
    std::fs::write(&file, text.replace(PROGRAM, "/bin/true")).expect("it can be written");
    let out = Command::new("systemd-analyze").args(["verify", "--man=no"]).arg(&file).output().ok()?;
    // It reads the units that this one names too, whose faults are others'.
    let said = String::from_utf8_lossy(&out.stderr);
    let about_ours = said.lines().filter(|line| line.contains("weft.service")).map(str::to_owned);
    let ours: Vec<String> = about_ours.collect();
    if !out.status.success() && ours.is_empty() {
        println!("systemd-analyze: {said}");
        return None;
    }
    Some(ours)
}

#[test]
fn systemd_understands_the_unit() {
    let text = std::fs::read_to_string(shell::root().join(UNIT)).expect("the unit is there");
    // One letter, and it must say so: else it says nothing of anything.
    let broken = text.replacen("NoNewPrivileges=", "NoNewPriviledges=", 1);
    let (Some(broken), Some(ours)) = (objections(&broken), objections(&text)) else {
        println!("SKIPPED: no systemd-analyze that works here");
        return;
    };
    assert!(broken.len() == 1 && broken[0].contains("NoNewPriviledges"), "{broken:?}");
    assert_eq!(ours, Vec::<String>::new());
}
