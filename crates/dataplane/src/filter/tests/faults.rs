//! What others did to the table, what the kernel refuses, and what changes in place.

use weft_model::Family;
use weft_plan::filter::{Comparison, HookKind, Statement, Value};
use weft_plan::{Atom, Field, Ident, KernelKey, Rule, SetSpec, Type, Verdict};

use super::namespace::{inside, listing, pipe, run};
use super::{Row, apply, base, chain, entry, expected, member, observed, set};
use crate::filter::nft::ELEMENTS;
use crate::filter::{Change, ElementFault, FilterError, FilterOutcome, Nft, Quarantined};

fn v4(text: &str) -> Atom {
    Atom::V4(text.parse().unwrap())
}

fn drop_from(name: &str) -> Rule {
    let from = Statement::Lookup(vec![Field::Saddr(Family::V4)], Comparison::Is, Ident::new(name));
    Rule::new("listed senders", [from, Statement::Counter, Statement::Verdict(Verdict::Drop)])
}

/// A set with two elements, a map with one, and a chain that looks into both.
fn small() -> Vec<Row> {
    let mark = Statement::SetMarkFrom(vec![Field::Daddr(Family::V4)], Ident::new("marks"));
    vec![
        set("senders", SetSpec::set(&[Type::Ipv4Addr], "who may not send")),
        member("senders", [v4("10.0.0.1")]),
        member("senders", [v4("10.0.0.2")]),
        set("marks", SetSpec::map(&[Type::Ipv4Addr], &[Type::Mark], "")),
        entry("marks", [v4("10.0.0.9")], [Atom::Mark(9)]),
        base("guard", (HookKind::Output, false, 0), vec![drop_from("senders"), Rule::new("", [mark])]),
    ]
}

fn outcome(nft: &mut Nft, changes: &[Change<'_>]) -> FilterOutcome {
    nft.apply(changes).unwrap()
}

#[test]
fn an_element_with_other_data_is_replaced() {
    inside("an_element_with_other_data_is_replaced", || {
        let mut nft = Nft::open().unwrap();
        let mut rows = small();
        apply(&mut nft, &rows);
        rows[4] = entry("marks", [v4("10.0.0.9")], [Atom::Mark(10)]);
        // Among others, of which one is there already.
        rows.push(entry("marks", [v4("10.0.0.8")], [Atom::Mark(8)]));
        apply(&mut nft, &[rows[1].clone(), rows[4].clone(), rows[6].clone()]);
        assert_eq!(observed(&mut nft), expected(&rows));
    });
}

#[test]
fn removing_what_is_gone_is_no_fault() {
    inside("removing_what_is_gone_is_no_fault", || {
        let mut nft = Nft::open().unwrap();
        let mut rows = small();
        apply(&mut nft, &rows);
        run("nft", &["delete", "element", "inet", "weft", "senders", "{ 10.0.0.1 }"]);
        let absent = member("senders", [v4("10.9.9.9")]);
        let nowhere = member("nowhere", [v4("10.9.9.9")]);
        let changes = [
            Change::Remove(&rows[1].0),
            Change::Remove(&rows[2].0),
            Change::Remove(&absent.0),
            Change::Remove(&nowhere.0),
        ];
        assert_eq!(outcome(&mut nft, &changes).quarantined, []);
        rows.drain(1..3);
        assert_eq!(observed(&mut nft), expected(&rows));
    });
}

#[test]
fn a_refused_element_is_left_out_and_named() {
    inside("a_refused_element_is_left_out_and_named", || {
        let mut nft = Nft::open().unwrap();
        let jump = |key: u32, to: &str| {
            entry("by_mark", [Atom::Mark(key)], [Atom::Verdict(Verdict::Jump(Ident::new(to)))])
        };
        let lookup = Statement::VerdictFrom(vec![Field::Mark], Ident::new("by_mark"));
        let good = [
            set("by_mark", SetSpec::map(&[Type::Mark], &[Type::Verdict], "")),
            chain("end", vec![]),
            chain("again", vec![Rule::new("", [lookup.clone()])]),
            base("guard", (HookKind::Forward, false, 0), vec![Rule::new("", [lookup])]),
            jump(1, "end"),
            jump(5, "end"),
        ];
        let blocks = [
            set("blocks", SetSpec::intervals(Type::Ipv4Addr, "")),
            member("blocks", [Atom::Net("10.0.0.0/8".parse().unwrap())]),
        ];
        let bad = [
            jump(2, "nowhere"),
            // A loop: the chain looks into the map again.
            jump(3, "again"),
            entry("by_mark", [v4("10.0.0.1")], [Atom::Mark(1)]),
            member("nowhere", [v4("10.0.0.1")]),
            member("blocks", [v4("10.0.0.1")]),
            member("blocks", [Atom::Net("10.1.0.0/16".parse().unwrap())]),
        ];
        let rows: Vec<&Row> = blocks.iter().chain(&bad).chain(&good).collect();
        let changes: Vec<Change<'_>> = rows.iter().map(|(key, row)| Change::Set(key, row)).collect();
        let FilterOutcome { applied, mut quarantined } = outcome(&mut nft, &changes);
        assert_eq!(applied, rows.len() - bad.len());
        quarantined.sort_by(|a, b| a.key.cmp(&b.key));
        let told: Vec<String> = quarantined.iter().map(|q| format!("{:?}: {}", q.key, q.fault)).collect();
        insta::assert_snapshot!(told.join("\n"), @r#"
        Element(blocks, [V4(10.0.0.1)]): it doesn't fit its set: the set holds blocks: write a single address as a block of one
        Element(blocks, [Net(10.1.0.0/16)]): the kernel refuses it: File exists
        Element(by_mark, [V4(10.0.0.1)]): it doesn't fit its set: it is of type ipv4_addr : mark, the set's is mark : verdict
        Element(by_mark, [Mark(2)]): the kernel refuses it: No such file or directory
        Element(by_mark, [Mark(3)]): the kernel refuses it: Too many links
        Element(nowhere, [V4(10.0.0.1)]): there is no set or map of that name
        "#);
        let kept: Vec<Row> = blocks.iter().chain(&good).cloned().collect();
        assert_eq!(observed(&mut nft), expected(&kept));
    });
}

#[test]
fn a_refused_chain_leaves_all_as_it_was() {
    inside("a_refused_chain_leaves_all_as_it_was", || {
        let mut nft = Nft::open().unwrap();
        apply(&mut nft, &small());
        let before = listing();
        let nowhere = Rule::new("astray", [Statement::Verdict(Verdict::Jump(Ident::new("nowhere")))]);
        let wrong = base("guard", (HookKind::Output, false, 0), vec![drop_from("senders"), nowhere]);
        let element = member("senders", [v4("10.0.0.3")]);
        let error =
            nft.apply(&[Change::Set(&element.0, &element.1), Change::Set(&wrong.0, &wrong.1)]).unwrap_err();
        insta::assert_snapshot!(error, @r#"the kernel refuses rule 2 of chain guard (jump nowhere comment "astray"): No such file or directory"#);
        assert_eq!(listing(), before);
        let late = base("late", (HookKind::Input, true, 0), vec![Rule::new("", [Statement::Masquerade])]);
        let error = nft.apply(&[Change::Set(&late.0, &late.1)]).unwrap_err();
        insta::assert_snapshot!(error, @"the kernel lacks what rule 1 of chain late (masquerade fully-random) needs: Operation not supported on transport endpoint; load or build in CONFIG_NFT_MASQ (weft preflight names the modules)");
        assert_eq!(listing(), before);
        assert!(matches!(
            nft.apply(&[Change::Set(&KernelKey::Sysctl("net/x".into()), &late.1)]),
            Err(FilterError::ForeignRow(_))
        ));
    });
}

#[test]
fn a_set_of_another_declaration_is_made_anew_with_what_fits() {
    inside("a_set_of_another_declaration_is_made_anew_with_what_fits", || {
        let mut nft = Nft::open().unwrap();
        let mut rows = small();
        apply(&mut nft, &rows);
        run("ip", &["addr", "add", "10.0.0.1/32", "dev", "lo"]);
        let sender = std::net::UdpSocket::bind("10.0.0.1:0").unwrap();
        // Whether the kernel tells the sender of the drop is its own business.
        let _ = sender.send_to(b"x", "127.0.0.1:9");
        let counted = nft.counters().unwrap();
        assert!(counted[0].packets > 0, "{counted:?}");
        // Another comment: elements stay, the chain's rules too, with what they counted.
        rows[0] = set("senders", SetSpec::set(&[Type::Ipv4Addr], "who must not send"));
        let more = member("senders", [v4("10.0.0.3")]);
        let changes =
            [Change::Set(&rows[0].0, &rows[0].1), Change::Set(&more.0, &more.1), Change::Remove(&rows[2].0)];
        outcome(&mut nft, &changes);
        rows[2] = more;
        assert_eq!(observed(&mut nft), expected(&rows));
        assert_eq!(nft.counters().unwrap(), counted);
        // Another type: elements that don't fit go; the chain that looks into it changes with it.
        rows.drain(1..3);
        rows[0] = set("senders", SetSpec::set(&[Type::Ipv6Addr], ""));
        rows.push(member("senders", [Atom::V6("fd00::1".parse().unwrap())]));
        let six = Statement::Lookup(vec![Field::Saddr(Family::V6)], Comparison::Is, Ident::new("senders"));
        rows[3] = base("guard", (HookKind::Output, false, 0), vec![Rule::new("", [six])]);
        apply(&mut nft, &rows);
        assert_eq!(observed(&mut nft), expected(&rows));
    });
}

#[test]
fn chains_move_to_another_hook_and_go() {
    inside("chains_move_to_another_hook_and_go", || {
        let mut nft = Nft::open().unwrap();
        let mut rows = small();
        apply(&mut nft, &rows);
        rows[5] = base("guard", (HookKind::Input, false, -10), vec![drop_from("senders")]);
        apply(&mut nft, &rows[5..]);
        assert_eq!(observed(&mut nft), expected(&rows));
        let changes: Vec<Change<'_>> = rows.iter().map(|(key, _)| Change::Remove(key)).collect();
        outcome(&mut nft, &changes);
        assert_eq!(observed(&mut nft), []);
        assert!(nft.delete_table().unwrap());
        assert!(!nft.delete_table().unwrap());
        assert_eq!(listing(), "");
    });
}

/// Each way to disturb the table: observation sees it, and applying the difference mends it.
#[test]
fn what_others_change_is_seen_and_mended() {
    let disturbances = [
        "flush ruleset",
        "flush chain inet weft guard",
        "insert rule inet weft guard accept",
        "add rule inet weft guard tcp dport { 22, 80 } accept",
        "add element inet weft senders { 10.7.7.7 }",
        "delete element inet weft senders { 10.0.0.1 }",
        "delete element inet weft marks { 10.0.0.9 }\nadd element inet weft marks { 10.0.0.9 : 77 }",
        "add element inet weft blocks { 10.0.0.1-10.0.0.5 }",
        "add chain inet weft guard { type filter hook output priority 0; policy drop; }",
        "add chain inet weft theirs { type filter hook input priority 0; }\nadd rule inet weft theirs drop",
        "add set inet weft theirs { type ether_addr; }",
        "add chain inet weft odd { type route hook output priority 0; }",
        "delete chain inet weft guard",
    ];
    for disturbance in disturbances {
        inside("what_others_change_is_seen_and_mended", || {
            let mut nft = Nft::open().unwrap();
            let mut rows = small();
            rows.push(set("blocks", SetSpec::intervals(Type::Ipv4Addr, "")));
            rows.push(member("blocks", [Atom::Net("192.168.0.0/16".parse().unwrap())]));
            apply(&mut nft, &rows);
            let before = listing();
            pipe("nft", &["-f", "-"], disturbance);
            let seen = observed(&mut nft);
            let wanted = expected(&rows);
            assert_ne!(seen, wanted, "{disturbance}: not seen");
            let mut changes: Vec<Change<'_>> = wanted
                .iter()
                .filter(|row| !seen.contains(row))
                .map(|(key, row)| Change::Set(key, row))
                .collect();
            let gone = seen.iter().filter(|row| !wanted.iter().any(|(key, _)| *key == row.0));
            changes.extend(gone.map(|(key, _)| Change::Remove(key)));
            assert_eq!(outcome(&mut nft, &changes).quarantined, [], "{disturbance}");
            assert_eq!(observed(&mut nft), wanted, "{disturbance}");
            let sorted = |text: &str| {
                let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
                lines.sort();
                lines
            };
            assert_eq!(sorted(&listing()), sorted(&before), "{disturbance}");
        });
    }
}

#[test]
fn a_step_after_others_emptied_the_table_says_so() {
    inside("a_step_after_others_emptied_the_table_says_so", || {
        let mut nft = Nft::open().unwrap();
        apply(&mut nft, &small());
        run("nft", &["flush", "ruleset"]);
        let (key, row) = member("senders", [v4("10.0.0.3")]);
        let faults = outcome(&mut nft, &[Change::Set(&key, &row)]).quarantined;
        assert!(matches!(&faults[..], [Quarantined { fault: ElementFault::Refused(r), .. }] if r.errno == 2));
        // It has looked again since.
        let faults = outcome(&mut nft, &[Change::Set(&key, &row)]).quarantined;
        assert_eq!(faults, [Quarantined { key, fault: ElementFault::NoSet }]);
    });
}

#[test]
fn very_many_elements_take_several_transactions() {
    inside("very_many_elements_take_several_transactions", || {
        let mut nft = Nft::open().unwrap();
        let mut rows = small();
        apply(&mut nft, &rows);
        let before = nft.commits();
        let many = 2 * ELEMENTS as u32 + 1;
        let sender = |n: u32| member("senders", [Atom::V4((0x0b00_0000 + n).into())]);
        let added: Vec<Row> = (0..many).map(sender).collect();
        apply(&mut nft, &added);
        assert_eq!(nft.commits() - before, 3);
        rows.extend(added.iter().cloned());
        assert_eq!(observed(&mut nft), expected(&rows));
        let changes: Vec<Change<'_>> = added.iter().map(|(key, _)| Change::Remove(key)).collect();
        assert_eq!(outcome(&mut nft, &changes).quarantined, []);
        assert_eq!(observed(&mut nft), expected(&small()));
    });
}

#[test]
fn a_small_buffer_takes_several_transactions() {
    inside("a_small_buffer_takes_several_transactions", || {
        let mut nft = Nft::open().unwrap();
        nft.nfnl.limit = Some(6000);
        let mut rows = small();
        rows.extend((0..2000_u32).map(|n| member("senders", [Atom::V4((0x0b00_0000 + n).into())])));
        apply(&mut nft, &rows);
        assert_eq!(observed(&mut nft), expected(&rows));
        // The same set of another declaration, and half of its elements gone.
        rows[0] = set("senders", SetSpec::set(&[Type::Ipv4Addr], "anew"));
        let (gone, keep): (Vec<_>, Vec<_>) =
            rows.iter().cloned().enumerate().partition(|(at, _)| *at >= 6 && at % 2 == 0);
        let [gone, keep] =
            [gone, keep].map(|list| list.into_iter().map(|(_, row)| row).collect::<Vec<Row>>());
        let mut changes: Vec<Change<'_>> = vec![Change::Set(&rows[0].0, &rows[0].1)];
        changes.extend(gone.iter().map(|(key, _)| Change::Remove(key)));
        assert_eq!(outcome(&mut nft, &changes).quarantined, []);
        assert_eq!(observed(&mut nft), expected(&keep));
        let port = Statement::Match(Field::Dport, Comparison::Is, Value::Port(9));
        let chain = base("guard", (HookKind::Output, false, 0), vec![Rule::new("", [port])]);
        let mut changes: Vec<Change<'_>> =
            keep.iter().filter(|(key, _)| *key != chain.0).map(|(key, _)| Change::Remove(key)).collect();
        changes.push(Change::Set(&chain.0, &chain.1));
        assert_eq!(outcome(&mut nft, &changes).quarantined, []);
        assert_eq!(observed(&mut nft), expected(&[chain]));
    });
}
