//! Two machines that have one node's name.

use std::time::Duration;

use weft_store::{EtcdOptions, EtcdStore, Hold, Store};

use super::members::{Members, Terms};
use super::proxy::{Proxy, Way};
use super::{narrow, node, options, wait_for};

/// Two machines of one name would give out the same addresses.
#[test]
fn another_machine_of_the_nodes_name_is_refused_while_it_is_heard_of() {
    let Some(members) = Members::start(1, &Terms::default()) else { return };
    let of = |machine: &str| {
        let options = EtcdOptions { machine: machine.to_owned(), ..options(members.endpoints()) };
        EtcdStore::open(options).unwrap()
    };
    let claim = |store: &EtcdStore| store.claim_pod_cidrs(&narrow(), &node("n1"), &[]);
    let lease = || members.lease_of("/weft/sessions/n1");
    // An agent of an earlier version names no machine.
    let earlier = of("");
    assert_eq!(earlier.machine_of(&node("n1")).unwrap(), None);
    claim(&earlier).unwrap();
    assert_eq!(earlier.machine_of(&node("n1")).unwrap(), None);
    earlier.stop();
    let first = of("one");
    claim(&first).unwrap();
    let taken = lease();
    let second = of("two");
    let refused = claim(&second).unwrap_err().to_string();
    assert!(refused.contains("another machine (one) is node n1 as well"), "{refused}");
    assert_eq!(lease(), taken);
    assert_eq!(second.machine_of(&node("n1")).unwrap().as_deref(), Some("one"));
    // The first machine's next process is no other machine.
    first.stop();
    let next = of("one");
    claim(&next).unwrap();
    assert!(claim(&second).is_err());
    assert!(matches!(next.hold(), Hold::Until(_)));
    // Once it is silent, it may be this very machine before it was set up anew.
    next.stop();
    wait_for("the silent one's place", || claim(&second).ok());
}

/// It has relied on its blocks for a part of the lease's time, in which another machine was taken for it.
#[test]
fn a_machine_whose_place_another_took_relies_on_nothing_once_it_hears_of_that() {
    let Some(members) = Members::start(1, &Terms::default()) else { return };
    let way = Proxy::to(members.port(0));
    let of = |machine: &str, endpoints| {
        // Silence comes after eight seconds, and the first machine's own doubts after nine.
        let lease = Duration::from_secs(12);
        EtcdStore::open(EtcdOptions { machine: machine.to_owned(), lease, ..options(endpoints) }).unwrap()
    };
    let claim = |store: &EtcdStore| store.claim_pod_cidrs(&narrow(), &node("n1"), &[]);
    let first = of("one", vec![way.endpoint()]);
    let taken = claim(&first).unwrap().cidrs;
    way.set(Way::Cut);
    let second = of("two", members.endpoints());
    let again = wait_for("the silent one's place", || claim(&second).ok()).cidrs;
    assert_eq!(again, taken);
    way.set(Way::Open);
    let told = wait_for("word of the second", || match first.hold() {
        Hold::Lapsed(reason) => Some(reason),
        _ => None,
    });
    assert!(told.contains("another machine (two) is node n1 as well"), "{told}");
    assert!(matches!(second.hold(), Hold::Until(_)));
    // Where the second gives the place back, the first relies on it again.
    second.stop();
    wait_for("the place again", || matches!(first.hold(), Hold::Until(_)).then_some(()));
}
