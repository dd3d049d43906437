//! Weft's own programs, for a test that starts them.

use std::path::Path;
use std::process::Command;

use weft_lab::weft::Programs;

/// Set where the programs stand beside the test and cargo doesn't: in the guest of `cargo xtask test --guest`.
const BUILT: &str = "WEFT_PROGRAMS_ARE_BUILT";

/// Builds Weft's programs as `cargo xtask test` does, because a test of this package alone has only this package's.
pub fn build(folder: &Path) -> Programs {
    if std::env::var_os(BUILT).is_none() {
        with_cargo(folder);
    }
    Programs::in_folder(folder).expect("they are where this package's are")
}

fn with_cargo(folder: &Path) {
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    // There is no network in here, and nothing to be fetched: this package is built already.
    cargo.args(["build", "--quiet", "--offline", "-p", "weft", "-p", "weft-cni", "-p", "weft-lab"]);
    if folder.ends_with("release") {
        cargo.arg("--release");
    }
    let status = cargo.current_dir(env!("CARGO_MANIFEST_DIR")).status().expect("cargo runs");
    assert!(status.success(), "Weft's programs can't be built");
}
