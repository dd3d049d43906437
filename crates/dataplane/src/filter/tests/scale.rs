//! Cost follows the change: a hundred thousand elements in one transaction, and one more beside them.

use std::time::Instant;

use weft_model::Family;
use weft_plan::filter::{Comparison, HookKind, Statement};
use weft_plan::{Atom, Field, Ident, Rule, SetSpec, Type, Verdict};

use super::namespace::inside;
use super::{Row, apply, base, chain, entry, member, set};
use crate::filter::{Change, Nft};

const ELEMENTS: u32 = 100_000;

#[test]
fn one_more_element_costs_one_message() {
    inside("one_more_element_costs_one_message", || {
        let mut nft = Nft::open().unwrap();
        let data = |n: u32| [Atom::V4(n.into()), Atom::Port(80)];
        let key = |n: u32| [Atom::Proto((n >> 16) as u8), Atom::Port(n as u16)];
        let spec =
            SetSpec::map(&[Type::InetProto, Type::InetService], &[Type::Ipv4Addr, Type::InetService], "");
        let mut rows: Vec<Row> = vec![set("ports", spec)];
        rows.extend((0..ELEMENTS).map(|n| entry("ports", key(n), data(n))));
        let timed = |what: &str, nft: &mut Nft, work: &mut dyn FnMut(&mut Nft)| {
            let (start, sent) = (Instant::now(), nft.messages());
            work(nft);
            println!(
                "{what}: {:.3} ms, {} messages",
                start.elapsed().as_secs_f64() * 1e3,
                nft.messages() - sent
            );
            nft.messages() - sent
        };
        timed("100,000 elements in one transaction", &mut nft, &mut |nft| apply(nft, &rows));
        let more: Vec<Row> = (0..100).map(|n| entry("ports", key(ELEMENTS + n), data(n))).collect();
        timed("100 more, a transaction each", &mut nft, &mut |nft| {
            for row in &more {
                // Beginning, elements, end: whatever the size of the map.
                let sent = nft.messages();
                apply(nft, std::slice::from_ref(row));
                assert_eq!(nft.messages() - sent, 3);
            }
        });
        timed("observe all", &mut nft, &mut |nft| assert_eq!(nft.observe().unwrap().len(), rows.len() + 100));
        let lookup = |n: u16| {
            let port = Statement::Match(Field::Dport, Comparison::Is, weft_plan::filter::Value::Port(n));
            Rule::new("one of many", [port, Statement::Counter, Statement::Verdict(Verdict::Accept)])
        };
        let senders =
            Statement::Lookup(vec![Field::Saddr(Family::V4)], Comparison::Is, Ident::new("senders"));
        let chain = |count: u16| {
            let mut rules: Vec<Rule> = (0..count).map(lookup).collect();
            rules.push(Rule::new("", [senders.clone()]));
            base("guard", (HookKind::Forward, false, 0), rules)
        };
        let first = [
            set("senders", SetSpec::set(&[Type::Ipv4Addr], "")),
            member("senders", [Atom::V4([10, 0, 0, 1].into())]),
            chain(50),
        ];
        apply(&mut nft, &first);
        timed("replace a chain of 50 rules", &mut nft, &mut |nft| apply(nft, &[chain(51)]));
        let changes: Vec<Change<'_>> = rows[1..].iter().map(|(key, _)| Change::Remove(key)).collect();
        timed("remove 100,000 elements", &mut nft, &mut |nft| {
            assert_eq!(nft.apply(&changes).unwrap().quarantined, []);
        });
    });
}

/// With a set and a chain for each of many objects, one more of them costs the messages that it did with few.
#[test]
fn one_more_set_costs_the_same_messages_among_many() {
    let of_object = |n: u32| {
        let senders = Ident::new(&format!("senders_{n}"));
        let from = Statement::Lookup(vec![Field::Saddr(Family::V4)], Comparison::Is, senders.clone());
        vec![
            set(senders.as_str(), SetSpec::intervals(Type::Ipv4Addr, "")),
            member(senders.as_str(), [Atom::Net("10.0.0.0/8".parse().unwrap())]),
            chain(&format!("object_{n}"), vec![Rule::new("", [from, Statement::Verdict(Verdict::Accept)])]),
        ]
    };
    let cost_among = |existing: u32| {
        let (mut comes, mut goes) = (0, 0);
        inside("one_more_set_costs_the_same_messages_among_many", || {
            let mut nft = Nft::open().unwrap();
            apply(&mut nft, &(0..existing).flat_map(of_object).collect::<Vec<Row>>());
            let rows = of_object(existing);
            let (start, sent) = (Instant::now(), nft.messages());
            apply(&mut nft, &rows);
            comes = nft.messages() - sent;
            println!("one object among {existing}: {:?}, {comes} messages", start.elapsed());
            let (start, sent) = (Instant::now(), nft.messages());
            let changes: Vec<Change<'_>> = rows.iter().map(|(key, _)| Change::Remove(key)).collect();
            assert_eq!(nft.apply(&changes).unwrap().quarantined, []);
            goes = nft.messages() - sent;
            println!("it goes: {:?}, {goes} messages", start.elapsed());
        });
        (comes, goes)
    };
    assert_eq!(cost_among(10), cost_among(2000));
}
