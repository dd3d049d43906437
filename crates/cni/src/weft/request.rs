//! A call as Weft serves it: the runtime's request with Weft's own fields and the container's wishes read.
//!
//! What always holds: plugin and agent read a call by this code, so that they can't disagree.

use crate::args::PodArgs;
use crate::error::CniError;
use crate::request::{self, AttachmentRef};
use crate::result::AddResult;
use crate::runtime_config::Wishes;
use crate::weft::WeftConf;

/// ADD, DEL or CHECK of one attachment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attach {
    /// Which one.
    pub id: AttachmentRef,
    /// `CNI_NETNS`: path of the network namespace in the runtime's view; empty only for DEL.
    pub netns: String,
    /// The pod, where the runtime names one.
    pub pod: Option<PodArgs>,
    /// What the runtime asks for.
    pub wishes: Wishes,
    /// The network's configuration.
    pub conf: WeftConf,
    /// The result of the plugins before this one (ADD), or of the whole chain (CHECK, DEL).
    pub prev_result: Option<AddResult>,
}

/// GC of one network.
pub type Gc = request::Gc<WeftConf>;

/// One call, checked.
pub type Request = request::Request<Attach, WeftConf>;

impl Request {
    /// Reads what is Weft's own. A DEL's wishes may be broken: nothing hangs on them.
    ///
    /// # Errors
    /// Codes 2 and 7, with the field's path in the message.
    pub fn of(request: request::Request) -> Result<Self, CniError> {
        Ok(match request {
            request::Request::Add(attach) => Request::Add(Attach::of(*attach, |wishes| wishes)?),
            request::Request::Check(attach) => Request::Check(Attach::of(*attach, |wishes| wishes)?),
            request::Request::Del(attach) => {
                Request::Del(Attach::of(*attach, |wishes| Ok(wishes.unwrap_or_default()))?)
            }
            request::Request::Gc(gc) => Request::Gc(Gc { conf: WeftConf::of(gc.conf)?, valid: gc.valid }),
            request::Request::Status(conf) => Request::Status(WeftConf::of(conf)?),
        })
    }
}

type Wished = Result<Wishes, CniError>;

impl Attach {
    fn of(attach: request::Attach, judged: impl Fn(Wished) -> Wished) -> Result<Box<Self>, CniError> {
        let request::Attach { id, netns, args, conf, prev_result } = attach;
        let conf = WeftConf::of(conf)?;
        let wishes = judged(Wishes::collect(&conf.net.root(), &args))?;
        Ok(Box::new(Self { id, netns, pod: args.pod, wishes, conf, prev_result }))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::request::Verb;

    fn read(verb: Verb, key: &str, value: Value) -> Result<Request, CniError> {
        let env = |key: &str| Some(if key == "CNI_ARGS" { String::new() } else { "eth0".to_owned() });
        let mut conf = json!({"cniVersion": "1.1.0", "name": "weft", "type": "weft", "prevResult": {}});
        conf[key] = value;
        Request::of(request::Request::read(verb, env, conf)?)
    }

    #[test]
    fn a_del_overlooks_wishes_that_an_add_refuses() {
        for (key, value) in [("runtimeConfig", json!({"portMappings": 7})), ("args", json!([]))] {
            for verb in [Verb::Add, Verb::Check] {
                assert_eq!(read(verb, key, value.clone()).unwrap_err().code.0, 7, "{verb:?} {key}");
            }
            assert!(read(Verb::Del, key, value).is_ok(), "{key}");
        }
    }

    #[test]
    fn every_verb_refuses_what_is_not_wefts() {
        for verb in Verb::ALL {
            assert!(read(verb, "ipam", json!({})).is_ok(), "{verb:?}");
            let error = read(verb, "ipam", json!({"type": "host-local"})).unwrap_err();
            assert_eq!(error.code.0, 2, "{verb:?}");
        }
    }
}
