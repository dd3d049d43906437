//! What Weft's own plugin reads from its configuration.
//!
//! What always holds: paths are absolute, numbers within their limits. What isn't said has its default.
//!
//! What is absent: whether the network exists; the agent knows.

use std::path::PathBuf;
use std::time::Duration;

use crate::config::NetConf;
use crate::error::{CniError, Code};
use crate::field::{Object, wrong};

/// Where the agent listens unless `socket` says otherwise.
pub const DEFAULT_SOCKET: &str = "/run/weft/weft.sock";
/// Where state that outlives a reboot of the agent stands unless `stateDir` says otherwise.
pub const DEFAULT_STATE_DIR: &str = "/var/lib/weft";
/// How long an ADD may take unless `deadlineMs` says otherwise: well below the two minutes that kubelet waits.
pub const DEFAULT_DEADLINE: Duration = Duration::from_secs(30);

/// The configuration of one network, checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WeftConf {
    /// What every plugin's has.
    pub net: NetConf,
    /// `socket`: the agent's unix socket, an absolute path.
    pub socket: PathBuf,
    /// `stateDir`: an absolute path; tombstones stand in `tombstones` below it.
    pub state_dir: PathBuf,
    /// `network`: the Weft network that containers join; `default` is the ordinary one.
    pub network: String,
    /// `mtu` of the container's link in bytes; nothing means that the agent chooses.
    pub mtu: Option<u32>,
    /// `deadlineMs`: how long an ADD may take, from start to answer.
    pub deadline: Duration,
}

impl WeftConf {
    /// Reads Weft's own fields. Keys that are not ours are passed over, since runtimes add their own; `ipam` is
    /// refused, because its addresses would not be the pod's.
    ///
    /// # Errors
    /// Codes 2 and 7, with the field's path in the message.
    pub fn of(net: NetConf) -> Result<Self, CniError> {
        let root = net.root();
        if let Some(ipam) = root.get("ipam").filter(|ipam| ipam.as_object().is_none_or(|map| !map.is_empty()))
        {
            let msg = format!("{} (unsupported field)", wrong("ipam", ipam, "").msg);
            let mend = "remove it: Weft gives out addresses itself, from the node's pod CIDRs";
            return Err(CniError::new(Code::UNSUPPORTED_FIELD, msg, mend));
        }
        let mtu = match root.number("mtu", 65_535)? {
            None | Some(0) => None,
            Some(mtu) if mtu >= 576 => u32::try_from(mtu).ok(),
            Some(mtu) => {
                return Err(wrong("mtu", &mtu.into(), "from 576 to 65535, or 0 for the agent's choice"));
            }
        };
        let deadline = root.number("deadlineMs", 600_000)?.filter(|ms| *ms > 0);
        Ok(Self {
            socket: absolute(&root, "socket", DEFAULT_SOCKET)?,
            state_dir: absolute(&root, "stateDir", DEFAULT_STATE_DIR)?,
            network: root.string("network")?.unwrap_or("default").to_owned(),
            mtu,
            deadline: deadline.map_or(DEFAULT_DEADLINE, Duration::from_millis),
            net,
        })
    }
}

fn absolute(root: &Object<'_>, key: &str, default: &str) -> Result<PathBuf, CniError> {
    let text = root.string(key)?.unwrap_or(default);
    if text.starts_with('/') && !text.contains('\0') {
        Ok(PathBuf::from(text))
    } else {
        Err(wrong(key, &text.into(), "an absolute path"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn parse(input: Value) -> Result<WeftConf, CniError> {
        WeftConf::of(NetConf::parse(input).unwrap())
    }

    #[test]
    fn defaults_and_settings_are_read() {
        let conf = parse(json!({"cniVersion": "1.0.0", "name": "weft", "type": "weft"})).unwrap();
        assert_eq!(conf.socket, PathBuf::from(DEFAULT_SOCKET));
        assert_eq!((conf.network.as_str(), conf.mtu, conf.deadline), ("default", None, DEFAULT_DEADLINE));
        let conf = parse(json!({
            "cniVersion": "1.0.0", "name": "weft", "type": "weft",
            "socket": "/s", "stateDir": "/d", "network": "red", "mtu": 1400, "deadlineMs": 1500, "ipam": {},
            "capabilities": null, "somebodyElses": [1],
        }));
        let conf = conf.unwrap();
        assert_eq!((conf.network.as_str(), conf.mtu), ("red", Some(1400)));
        assert_eq!(conf.deadline, Duration::from_millis(1500));
        assert_eq!((conf.socket, conf.state_dir), ("/s".into(), "/d".into()));
    }

    #[test]
    fn mistakes_name_the_field() {
        let check = |change: Value, code: u32, msg: &str| {
            let mut conf = json!({"cniVersion": "1.1.0", "name": "weft", "type": "weft"});
            for (key, value) in change.as_object().unwrap() {
                conf[key] = value.clone();
            }
            let error = parse(conf).unwrap_err();
            assert_eq!((error.code.0, error.msg.as_str()), (code, msg), "{change}");
        };
        check(
            json!({"ipam": {"type": "host-local"}}),
            2,
            "ipam is {\"type\":\"host-local\"} (unsupported field)",
        );
        check(json!({"socket": "run/weft.sock"}), 7, "socket is \"run/weft.sock\"");
        check(json!({"mtu": 100}), 7, "mtu is 100");
        check(json!({"mtu": "1500"}), 7, "mtu is \"1500\"");
    }
}
