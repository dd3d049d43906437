//! What `weft uninstall` leaves where it is, and what to type where it is to go: it is somebody else's by now, or was never only this node's.
//!
//! What is absent: any removal.

use std::fs;
use std::path::{Path, PathBuf};

use weft_agent::AgentConfig;
use weft_agent::config::CniConfig;
use weft_agent::conflist::PLUGIN;

/// Folders where runtimes look for plugins.
pub const PLUGIN_DIRS: [&str; 3] = ["/opt/cni/bin", "/usr/lib/cni", "/usr/libexec/cni"];
/// host-local's leases, a folder for each network.
const FORMER_LEASES: &str = "/var/lib/cni/networks";
/// What `weft migrate` adds to names.
const ASIDE: &str = ".before-weft";

/// Where such things are.
#[derive(Debug)]
pub struct Kept {
    plugin_dirs: Vec<PathBuf>,
    /// Folders in which something may have been set aside.
    former: Vec<PathBuf>,
}

impl Kept {
    /// By configuration, or the customary folders.
    pub fn new(config: Option<&AgentConfig>) -> Self {
        let usual = CniConfig::default();
        let cni = config.map_or(&usual, |config| &config.cni);
        Self {
            plugin_dirs: PLUGIN_DIRS.map(PathBuf::from).into(),
            former: vec![cni.conf_dir.clone(), FORMER_LEASES.into()],
        }
    }

    /// A line each: what it is, and what to type.
    pub fn lines(&self) -> Vec<String> {
        let plugins = self.plugin_dirs.iter().filter(|folder| folder.join(PLUGIN).is_file());
        let plugins = plugins.map(|folder| {
            let path = folder.join(PLUGIN);
            format!(
                "{}, by which runtimes end the pods that are left; without any: weft uninstall --plugin-from {}",
                path.display(),
                folder.display()
            )
        });
        plugins.chain(self.former.iter().flat_map(|folder| set_aside(folder))).collect()
    }
}

fn set_aside(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.path()).collect();
    paths.sort();
    let line = |path: PathBuf| {
        let text = path.display().to_string();
        let before = text.strip_suffix(ASIDE)?;
        let removal = if path.is_dir() { "rm -r" } else { "rm" };
        Some(format!(
            "{text}, of the network that was here before; back to it: mv {text} {before}; else: {removal} {text}"
        ))
    };
    paths.into_iter().filter_map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_stays_is_named_with_what_to_type() {
        let folder = tempfile::tempdir().unwrap();
        let inside = |name: &str| folder.path().join(name);
        let kept = Kept {
            plugin_dirs: vec![inside("bin"), inside("lib")],
            former: vec![inside("net.d"), inside("networks")],
        };
        assert_eq!(kept.lines(), Vec::<String>::new());
        for name in ["bin", "net.d", "networks/cbr0.before-weft", "networks/other"] {
            fs::create_dir_all(inside(name)).unwrap();
        }
        for name in ["bin/weft", "bin/bridge", "net.d/05-flannel.conflist.before-weft", "net.d/10-x.conflist"]
        {
            fs::write(inside(name), "").unwrap();
        }
        let lines = kept.lines().join("\n").replace(&folder.path().display().to_string(), "");
        insta::assert_snapshot!(lines, @r"
        /bin/weft, by which runtimes end the pods that are left; without any: weft uninstall --plugin-from /bin
        /net.d/05-flannel.conflist.before-weft, of the network that was here before; back to it: mv /net.d/05-flannel.conflist.before-weft /net.d/05-flannel.conflist; else: rm /net.d/05-flannel.conflist.before-weft
        /networks/cbr0.before-weft, of the network that was here before; back to it: mv /networks/cbr0.before-weft /networks/cbr0; else: rm -r /networks/cbr0.before-weft
        ");
    }
}
