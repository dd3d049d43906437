//! `weft install`: puts the plugin where container runtimes look for it.
//!
//! What always holds: a runtime that starts the plugin meanwhile gets the old one or the new one, whole. What it doesn't do:
//! configure runtimes; the agent does that, once the node is ready.

use std::fs::{self, File, Permissions};
use std::io::{ErrorKind, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result, anyhow};
use serde::Serialize;
use weft_agent::conflist::PLUGIN;

use crate::cli::InstallArgs;
use crate::output::{Format, print, print_json};

/// What it is called where it is built, and in the image.
const BUILT: &str = "weft-cni";

/// Where it is written before it gets its name: one that runtimes never ask for. It is made anew each time, and never followed
/// where it is a link.
pub const UNFINISHED: &str = ".weft.new";

/// What was done.
#[derive(Debug, Serialize)]
struct Answer {
    plugin: PathBuf,
    done: Done,
}

pub fn run(args: &InstallArgs, format: Format) -> Result<ExitCode> {
    let plugin = match &args.plugin {
        Some(path) => path.clone(),
        None => beside_this_program()?,
    };
    let place = args.folder.join(PLUGIN);
    let done = install(&plugin, &place)?;
    let text = match done {
        Done::Replaced => format!("installed {}\n", place.display()),
        Done::Same => format!("{} is this one already\n", place.display()),
    };
    match format {
        Format::Json => print_json(&Answer { plugin: place, done })?,
        Format::Text => print(&text)?,
    }
    Ok(ExitCode::SUCCESS)
}

fn beside_this_program() -> Result<PathBuf> {
    let own = std::env::current_exe().context("can't find this program; name the plugin with --plugin")?;
    Ok(own.with_file_name(BUILT))
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
enum Done {
    Replaced,
    Same,
}

fn install(plugin: &Path, place: &Path) -> Result<Done> {
    let content = fs::read(plugin)
        .map_err(|e| anyhow!("can't read the plugin {}: {e}; name it with --plugin", plugin.display()))?;
    let runs = |data: fs::Metadata| data.permissions().mode() & 0o111 == 0o111;
    if fs::metadata(place).is_ok_and(runs) && fs::read(place).is_ok_and(|there| there == content) {
        return Ok(Done::Same);
    }
    let folder = place.parent().unwrap_or(Path::new("/"));
    fs::create_dir_all(folder).map_err(|e| anyhow!("can't make {}: {e}", folder.display()))?;
    let unfinished = folder.join(UNFINISHED);
    // One that was killed has left it. It may not be there at all.
    let _ = fs::remove_file(&unfinished);
    let file =
        File::options().write(true).create_new(true).open(&unfinished).map_err(|e| match e.kind() {
            ErrorKind::AlreadyExists => {
                anyhow!("{}: somebody else is writing it; try again", unfinished.display())
            }
            _ => anyhow!("can't write {}: {e}; is the folder writable?", unfinished.display()),
        })?;
    let written = write_program(file, &content).and_then(|()| fs::rename(&unfinished, place));
    if written.is_err() {
        let _ = fs::remove_file(&unfinished);
    }
    written.map_err(|e| anyhow!("can't write {}: {e}; is there room?", place.display()))?;
    Ok(Done::Replaced)
}

/// On disk before it gets its name, so that a machine that loses power has no empty plugin.
fn write_program(mut file: File, content: &[u8]) -> std::io::Result<()> {
    file.write_all(content)?;
    file.set_permissions(Permissions::from_mode(0o755))?;
    file.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_plugin_is_replaced_whole_and_nothing_else_is_left() {
        let folder = tempfile::tempdir().unwrap();
        let plugin = folder.path().join(BUILT);
        let place = folder.path().join("opt/cni/bin").join(PLUGIN);
        fs::write(&plugin, "one").unwrap();
        assert_eq!(install(&plugin, &place).unwrap(), Done::Replaced);
        assert_eq!(install(&plugin, &place).unwrap(), Done::Same);
        // A running program can't be written to, but its name can be given to another.
        let running = File::open(&place).unwrap();
        fs::write(&plugin, "two").unwrap();
        assert_eq!(install(&plugin, &place).unwrap(), Done::Replaced);
        assert_eq!(std::io::read_to_string(running).unwrap(), "one");
        assert_eq!(fs::read_to_string(&place).unwrap(), "two");
        // What one that was killed has left is neither followed nor kept.
        let elsewhere = folder.path().join("elsewhere");
        std::os::unix::fs::symlink(&elsewhere, place.with_file_name(UNFINISHED)).unwrap();
        fs::write(&plugin, "three").unwrap();
        assert_eq!(install(&plugin, &place).unwrap(), Done::Replaced);
        assert!(!elsewhere.exists());
        // Right content that nobody may run is mended.
        fs::set_permissions(&place, Permissions::from_mode(0o600)).unwrap();
        assert_eq!(install(&plugin, &place).unwrap(), Done::Replaced);
        assert_eq!(fs::metadata(&place).unwrap().permissions().mode() & 0o777, 0o755);
        assert_eq!(fs::read_dir(place.parent().unwrap()).unwrap().count(), 1);
    }

    #[test]
    fn a_plugin_that_is_not_there_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let error = install(&folder.path().join("x"), &folder.path().join("y")).unwrap_err().to_string();
        assert!(error.contains("/x: ") && error.contains("--plugin"), "{error}");
    }
}
