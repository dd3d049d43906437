//! Removals that can't be finished, what stands in their way, and the runtimes' configuration.

use std::path::PathBuf;

use weft_cni::weft::{Gc, WeftConf};
use weft_cni::{AttachmentRef, NetConf};

use super::*;
use crate::core::LOOK_EVERY;

impl Rig {
    fn attached(containers: &[&'static str]) -> Self {
        let mut rig = Self::running();
        for container in containers {
            rig.container = container;
            let answer = rig.add(patient());
            rig.apply(Extent::Changes);
            answer.try_recv().unwrap().unwrap();
        }
        rig
    }

    fn ask(&mut self, verb: CniVerb) -> Answer {
        let (reply, answer) = reply();
        self.tell(Message::Cni(CniCall { verb, deadline: patient(), reply, plugin_version: None }));
        self.apply(Extent::Changes);
        answer
    }

    fn del(&mut self, container: &str) -> Answer {
        self.ask(CniVerb::Del(AttachmentId {
            container: container.into(),
            ifname: IfName::new("eth0").unwrap(),
        }))
    }

    /// GC by a runtime that knows of nobody.
    fn gc(&mut self) -> Answer {
        let conf = json!({"cniVersion": "1.1.0", "name": "weft", "type": "weft"});
        let conf = WeftConf::of(NetConf::parse(conf).unwrap()).unwrap();
        self.ask(CniVerb::Gc(Gc { conf, valid: Some(Vec::new()) }))
    }

    /// Puts something where a record would be that can't be removed like one.
    fn obstruct(&self, container: &str) -> PathBuf {
        let path = self.folder.path().join(format!("state/attachments/{container}:eth0.deleting.json"));
        std::fs::create_dir(&path).unwrap();
        path
    }

    fn conflist(&self) -> PathBuf {
        self.folder.path().join("cni/10-weft.conflist")
    }
}

#[test]
fn a_removal_that_fails_is_told_and_tried_again() {
    let mut rig = Rig::attached(&["c1"]);
    let obstacle = rig.obstruct("c1");
    let error = rig.del("c1").try_recv().expect("it is answered").unwrap_err();
    assert_eq!(error.code, Code::IO_FAILURE, "{error:?}");
    rig.container = "c1";
    let error = rig.add(patient()).try_recv().expect("it is answered at once").unwrap_err();
    assert_eq!(error.code, Code::TRY_AGAIN_LATER, "{error:?}");
    rig.tell(Message::Tick(Instant::now()));
    assert_eq!(rig.core.removing.len(), 1, "nobody waits, and it is not forgotten");
    std::fs::remove_dir(obstacle).unwrap();
    rig.tell(Message::Tick(Instant::now()));
    assert!(rig.core.removing.is_empty());
    assert_eq!((rig.leased(), rig.records()), (0, 0));
    let answer = rig.add(patient());
    rig.apply(Extent::Changes);
    answer.try_recv().unwrap().unwrap();
}

#[test]
fn gc_answers_when_all_are_gone_and_with_what_failed() {
    let mut rig = Rig::attached(&["c1", "c2", "c3"]);
    let obstacle = rig.obstruct("c1");
    let error = rig.gc().try_recv().expect("it is answered").unwrap_err();
    assert_eq!(error.code, Code::IO_FAILURE, "{error:?}");
    assert_eq!(rig.core.removing.len(), 1, "the others are gone");
    // Asked again, it waits for what is still on its way out.
    let again = rig.gc();
    let error = again.try_recv().expect("it is answered").unwrap_err();
    assert_eq!(error.code, Code::IO_FAILURE, "{error:?}");
    std::fs::remove_dir(obstacle).unwrap();
    rig.gc().try_recv().expect("it is answered").unwrap();
    assert!(rig.core.removing.is_empty());
    rig.gc().try_recv().expect("it is answered").unwrap();
    assert_eq!((rig.leased(), rig.records()), (0, 0));
}

#[test]
fn an_add_is_told_to_come_again_while_its_tombstone_is_carried_out() {
    let mut rig = Rig::attached(&["c1"]);
    let id = AttachmentRef::new("c1", "eth0").unwrap();
    let call =
        weft_cni::Call { container: id.container.clone(), ifname: id.ifname.clone(), ..Default::default() };
    let stone = weft_cni::tombstone::Tombstone { call, reason: "no answer".into() };
    stone.write(&rig.folder.path().join("state")).unwrap();
    let error = rig.add(patient()).try_recv().expect("it is answered at once").unwrap_err();
    assert_eq!(error.code, Code::TRY_AGAIN_LATER, "{error:?}");
    rig.apply(Extent::Changes);
    let answer = rig.add(patient());
    rig.apply(Extent::Changes);
    answer.try_recv().unwrap().unwrap();
}

#[test]
fn what_is_no_tombstone_is_named_as_long_as_it_is_there() {
    let mut rig = Rig::running();
    let file = rig.folder.path().join("state/tombstones/notes");
    std::fs::create_dir_all(file.parent().unwrap()).unwrap();
    std::fs::write(&file, "mine").unwrap();
    rig.tell(Message::Tick(Instant::now()));
    let named = |rig: &Rig| rig.core.warnings().iter().any(|text| text.contains("tombstones/notes"));
    assert!(named(&rig) && file.exists());
    std::fs::remove_file(&file).unwrap();
    rig.tell(Message::Tick(Instant::now()));
    assert!(!named(&rig));
}

#[test]
fn the_runtimes_configuration_is_put_back() {
    let mut rig = Rig::running();
    let path = rig.conflist();
    let written = std::fs::read_to_string(&path).unwrap();
    let mut later = Instant::now();
    let harms: [fn(&PathBuf) -> std::io::Result<()>; 2] =
        [|path| std::fs::remove_file(path), |path| std::fs::write(path, "{}")];
    for harm in harms {
        harm(&path).unwrap();
        later += LOOK_EVERY;
        rig.tell(Message::Tick(later));
        assert_eq!(std::fs::read_to_string(&path).unwrap(), written);
    }
}

#[test]
fn the_configuration_of_an_earlier_boot_waits_until_the_node_is_ready() {
    let rig = Rig::running();
    let (path, boot) = (rig.conflist(), rig.folder.path().join("state/attachments/boot_id"));
    let start = || {
        let around = Around { kernel: channel().0, publish: channel().0, health: news().0 };
        drop(Core::new(rig.core.config().clone(), SharedPlans::default(), around).unwrap());
    };
    start();
    assert!(path.exists(), "an agent that starts again leaves it");
    std::fs::write(&boot, "an earlier one").unwrap();
    start();
    assert!(!path.exists(), "the node is not ready yet");
    // Somebody else's of that name is not ours to move.
    std::fs::write(&boot, "an earlier one").unwrap();
    std::fs::write(&path, "{}").unwrap();
    start();
    assert!(path.exists());
}
