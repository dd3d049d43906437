//! flannel's daemon, for the tests of moving in from it, which look for it in `target/peers`.
//!
//! Its `main.go` is taken without the backends that no test runs: clouds' bring large modules of theirs along.

use anyhow::Result;

use super::source;
use crate::{packages, shell};

const MODULE: &str = "github.com/flannel-io/flannel";
const VERSION: &str = "v0.28.10";
/// The backends that stay.
const BACKENDS: [&str; 2] = ["hostgw", "vxlan"];
/// Environment variable: a folder with `flanneld`, which is used instead of building it.
const PROGRAM: &str = "WEFT_FLANNEL_BIN";

/// Builds it where it isn't there yet; says so where that can't be done. The tests then skip.
pub fn provide() {
    // Without root no test can run it.
    if std::env::var_os(PROGRAM).is_some() || !packages::is_root() {
        return;
    }
    if let Err(error) = build() {
        eprintln!("flannel's daemon can't be had, and what needs it is skipped: {error:#}");
    }
}

fn build() -> Result<()> {
    let program = shell::target().join("peers").join(format!("flanneld-{VERSION}"));
    if program.exists() {
        return Ok(());
    }
    eprintln!("building flanneld {VERSION} (once)…");
    source::top("flanneld", MODULE, VERSION, without_other_backends)?.build(".", &program)
}

fn without_other_backends(main: &str) -> String {
    let stays = |line: &&str| {
        let backend = line.trim().strip_prefix("_ \"").and_then(|import| import.strip_suffix('"'));
        let backend = backend.and_then(|import| import.strip_prefix(MODULE)?.strip_prefix("/pkg/backend/"));
        backend.is_none_or(|backend| BACKENDS.contains(&backend))
    };
    main.lines().filter(stays).flat_map(|line| [line, "\n"]).collect()
}

#[cfg(test)]
mod tests {
    #[test]
    fn only_the_backends_that_are_tested_stay() {
        let main = "import (\n\t\"fmt\"\n\t\"github.com/flannel-io/flannel/pkg/backend\"\n\
                    \t_ \"github.com/flannel-io/flannel/pkg/backend/tencentvpc\"\n\
                    \t_ \"github.com/flannel-io/flannel/pkg/backend/vxlan\"\n)\n";
        assert_eq!(
            super::without_other_backends(main),
            "import (\n\t\"fmt\"\n\t\"github.com/flannel-io/flannel/pkg/backend\"\n\
             \t_ \"github.com/flannel-io/flannel/pkg/backend/vxlan\"\n)\n"
        );
    }
}
