//! What a transaction sends, in which order; and others who write at the same time.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use weft_model::Family;
use weft_plan::filter::{Comparison, HookKind, Statement};
use weft_plan::{Atom, Field, Ident, KernelKey, Rule, SetSpec, Type, Verdict};

use super::namespace::inside;
use super::{Row, apply, base, chain, entry, expected, member, observed, set};
use crate::filter::attribute::{Messages, Writer};
use crate::filter::observe::SeenChain;
use crate::filter::prepare::{Before, steps};
use crate::filter::socket::Nfnl;
use crate::filter::transaction::{About, render};
use crate::filter::{Change, Nft, uapi as k};

fn v4(text: &str) -> Atom {
    Atom::V4(text.parse().unwrap())
}

/// The messages of a transaction: what each does, and to what.
fn told(changes: &[Change<'_>], before: &Before) -> String {
    let (steps, quarantined) = steps(changes, before).unwrap();
    assert_eq!(quarantined, []);
    let batch = render(&steps, 100, Some(7));
    let names = [
        (k::NFT_MSG_NEWTABLE, "create table"),
        (k::NFT_MSG_NEWCHAIN, "create chain"),
        (k::NFT_MSG_DELCHAIN, "delete chain"),
        (k::NFT_MSG_NEWRULE, "add rule"),
        (k::NFT_MSG_DELRULE, "flush chain"),
        (k::NFT_MSG_NEWSET, "create set"),
        (k::NFT_MSG_DELSET, "delete set"),
        (k::NFT_MSG_NEWSETELEM, "add elements"),
        (k::NFT_MSG_DELSETELEM, "delete elements"),
    ];
    let names: BTreeMap<u16, &str> =
        names.into_iter().map(|(kind, name)| (kind | k::NFNL_SUBSYS_NFTABLES << 8, name)).collect();
    let mut lines = Vec::new();
    for (at, message) in Messages(&batch.bytes).enumerate() {
        assert_eq!(message.sequence, 100 + at as u32);
        let name = match message.kind {
            k::NFNL_MSG_BATCH_BEGIN => "begin",
            k::NFNL_MSG_BATCH_END => "end",
            kind => names[&kind],
        };
        let what = match batch.about.get(at) {
            Some(About::Chain(name)) => name.to_string(),
            Some(About::Set(name)) => name.to_string(),
            Some(About::Rule(chain, place)) => format!("{chain} {place}"),
            Some(About::Come(list) | About::Go(list)) => {
                format!("{} × {}", steps.elements[list[0]].set, list.len())
            }
            _ => String::new(),
        };
        let asks = if message.flags & k::NLM_F_ACK == 0 { "" } else { " (acknowledged)" };
        lines.push(format!("{name} {what}{asks}").trim_end().replace("  ", " "));
    }
    lines.join("\n")
}

#[test]
fn what_is_referred_to_is_always_there() {
    let spec = |comment| SetSpec::set(&[Type::Ipv4Addr], comment);
    let verdicts = SetSpec::map(&[Type::Mark], &[Type::Verdict], "");
    let hook = weft_plan::Hook { at: HookKind::Input, nat: false, priority: 0 };
    let name = Ident::new;
    let before = Before {
        sets: [
            (name("kept"), Some(spec("before"))),
            (name("gone"), Some(spec(""))),
            (name("verdicts"), Some(verdicts)),
        ]
        .into(),
        chains: [
            (name("guard"), SeenChain { hook: Some(hook), plain: true }),
            (name("old"), SeenChain { hook: None, plain: true }),
        ]
        .into(),
        kept_elements: vec![(name("kept"), [v4("10.0.0.7")].into(), weft_plan::filter::Element::member())],
        kept_rules: BTreeMap::new(),
    };
    let look = Statement::Lookup(vec![Field::Saddr(Family::V4)], Comparison::Is, name("kept"));
    let goto = |to: &str| [Atom::Verdict(Verdict::Goto(name(to)))];
    let come = [
        entry("verdicts", [Atom::Mark(1)], goto("new")),
        member("kept", [v4("10.0.0.8")]),
        member("kept", [v4("10.0.0.9")]),
        base("guard", (HookKind::Forward, false, 0), vec![Rule::new("", [look]), Rule::new("", [])]),
        chain("new", vec![]),
        set("kept", spec("after")),
    ];
    let go = [
        KernelKey::Chain(name("old")),
        KernelKey::Set(name("gone")),
        entry("verdicts", [Atom::Mark(2)], goto("old")).0,
    ];
    let mut changes: Vec<Change<'_>> = come.iter().map(|(key, row)| Change::Set(key, row)).collect();
    changes.extend(go.iter().map(Change::Remove));
    let text = told(&changes, &before);
    insta::assert_snapshot!(text, @r#"
        begin
        create table
        flush chain guard
        flush chain old
        delete elements verdicts × 1
        delete set gone
        delete set kept
        delete chain guard
        delete chain old
        create chain guard
        create chain new
        create set kept
        add rule guard 0
        add rule guard 1
        add elements kept × 3
        add elements verdicts × 1 (acknowledged)
        end
        "#);
    changes.reverse();
    assert_eq!(told(&changes, &before), text, "the order of changes makes a difference");
}

/// Another program that writes all the time, to a table of its own, does not keep us from writing.
#[test]
fn others_write_at_the_same_time() {
    inside("others_write_at_the_same_time", || {
        /// Ends the other program however the test ends.
        struct Stop<'a>(&'a AtomicBool);
        impl Drop for Stop<'_> {
            fn drop(&mut self) {
                self.0.store(true, Ordering::Relaxed);
            }
        }
        let (ended, written) = (AtomicBool::new(false), AtomicU32::new(0));
        std::thread::scope(|scope| {
            let busy = scope.spawn(|| {
                let mut nfnl = Nfnl::open().unwrap();
                while !ended.load(Ordering::Relaxed) {
                    toggle_a_table(&mut nfnl, written.fetch_add(1, Ordering::Relaxed) % 2 == 0);
                    std::thread::sleep(std::time::Duration::from_millis(1));
                }
            });
            let stop = Stop(&ended);
            let mut nft = Nft::open().unwrap();
            let mut rows: Vec<Row> = Vec::new();
            let mut round = 0_u16;
            while written.load(Ordering::Relaxed) < 50 {
                round += 1;
                let port =
                    Statement::Match(Field::Dport, Comparison::Is, weft_plan::filter::Value::Port(round));
                rows = vec![
                    set("senders", SetSpec::set(&[Type::Ipv4Addr], "")),
                    member("senders", [v4("10.0.0.1")]),
                    base("guard", (HookKind::Forward, false, 0), vec![Rule::new("", [port])]),
                ];
                apply(&mut nft, &rows);
            }
            drop(stop);
            busy.join().unwrap();
            assert!(round > 10, "they kept us from writing: {round} rounds");
            assert_eq!(observed(&mut nft), expected(&rows));
        });
    });
}

fn toggle_a_table(nfnl: &mut Nfnl, comes: bool) {
    let first = nfnl.reserve(3);
    let batch = (k::NFPROTO_UNSPEC, k::NFNL_SUBSYS_NFTABLES);
    let kind = if comes { k::NFT_MSG_NEWTABLE } else { k::NFT_MSG_DELTABLE };
    let flags = k::NLM_F_REQUEST | k::NLM_F_CREATE | k::NLM_F_ACK;
    let mut w = Writer::new();
    w.message((k::NFNL_MSG_BATCH_BEGIN, k::NLM_F_REQUEST, first), batch, |_| {});
    w.message((kind | k::NFNL_SUBSYS_NFTABLES << 8, flags, first + 1), (k::NFPROTO_IPV4, 0), |w| {
        w.text(k::NFTA_TABLE_NAME, "theirs");
    });
    w.message((k::NFNL_MSG_BATCH_END, k::NLM_F_REQUEST, first + 2), batch, |_| {});
    assert_eq!(nfnl.transact(&w.into_bytes(), (first, first + 1)).unwrap(), []);
}
