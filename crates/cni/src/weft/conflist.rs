//! The conflist: the file by which runtimes find the plugin (`/etc/cni/net.d/10-weft.conflist`).
//!
//! `cniVersion` is 1.0.0, and `cniVersions` adds 1.1.0. Runtimes with libcni before 1.2 (containerd 1.6 and 1.7,
//! podman 4) know only the first, and would refuse a result of 1.1.0; newer ones take the highest that they speak,
//! and so use GC and STATUS.

use std::path::PathBuf;
use std::time::Duration;

use serde_json::json;

use crate::Version;
use crate::weft::config::{DEFAULT_DEADLINE, DEFAULT_SOCKET, DEFAULT_STATE_DIR};

/// What differs between installations.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConflistSettings {
    /// The network's name for the runtime: a letter or digit, then letters, digits, `_.-`.
    pub name: String,
    /// The plugin's file name in the runtime's `bin_dir`.
    pub plugin: String,
    /// The Weft network that containers join.
    pub network: String,
    /// The agent's socket, an absolute path on the host.
    pub socket: PathBuf,
    /// Where tombstones go, an absolute path on the host.
    pub state_dir: PathBuf,
    /// MTU of containers' links in bytes; nothing means that the agent chooses.
    pub mtu: Option<u32>,
    /// How long an ADD may take.
    pub deadline: Duration,
}

impl Default for ConflistSettings {
    fn default() -> Self {
        Self {
            name: "weft".into(),
            plugin: "weft".into(),
            network: "default".into(),
            socket: DEFAULT_SOCKET.into(),
            state_dir: DEFAULT_STATE_DIR.into(),
            mtu: None,
            deadline: DEFAULT_DEADLINE,
        }
    }
}

/// The file's text. The caller writes it atomically, and only when the node is ready: runtimes take its presence for
/// readiness.
pub fn conflist(settings: &ConflistSettings) -> String {
    let mut plugin = json!({
        "type": settings.plugin,
        "socket": settings.socket.to_string_lossy(),
        "stateDir": settings.state_dir.to_string_lossy(),
        "network": settings.network,
        "deadlineMs": u64::try_from(settings.deadline.as_millis()).unwrap_or(u64::MAX),
        "capabilities": {"portMappings": true, "ips": true, "mac": true},
    });
    if let Some(mtu) = settings.mtu {
        plugin["mtu"] = mtu.into();
    }
    let list = json!({
        "cniVersion": Version::V1_0_0.as_str(),
        "cniVersions": [Version::V1_0_0.as_str(), Version::V1_1_0.as_str()],
        "name": settings.name,
        "plugins": [plugin],
    });
    format!("{list:#}\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::NetConf;
    use crate::weft::WeftConf;

    #[test]
    fn the_text_is_what_a_person_would_write() {
        insta::assert_snapshot!(conflist(&ConflistSettings::default()), @r#"
        {
          "cniVersion": "1.0.0",
          "cniVersions": [
            "1.0.0",
            "1.1.0"
          ],
          "name": "weft",
          "plugins": [
            {
              "capabilities": {
                "ips": true,
                "mac": true,
                "portMappings": true
              },
              "deadlineMs": 30000,
              "network": "default",
              "socket": "/run/weft/weft.sock",
              "stateDir": "/var/lib/weft",
              "type": "weft"
            }
          ]
        }
        "#);
    }

    #[test]
    fn the_plugin_reads_what_the_conflist_says() {
        let settings =
            ConflistSettings { mtu: Some(1400), network: "red".into(), ..ConflistSettings::default() };
        let list: serde_json::Value = serde_json::from_str(&conflist(&settings)).unwrap();
        let mut plugin = list["plugins"][0].clone();
        // What libcni inserts before it calls the plugin.
        plugin["name"] = list["name"].clone();
        plugin["cniVersion"] = list["cniVersion"].clone();
        let conf = WeftConf::of(NetConf::parse(plugin).unwrap()).unwrap();
        assert_eq!((conf.mtu, conf.network.as_str(), conf.deadline), (Some(1400), "red", DEFAULT_DEADLINE));
        assert_eq!((conf.socket, conf.state_dir), (settings.socket, settings.state_dir));
    }
}
