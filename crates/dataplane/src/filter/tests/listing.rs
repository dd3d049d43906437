//! Invariant 11: what we write, nft lists as a person would have typed it, and the listing loads and lists alike.

use weft_model::Family;
use weft_plan::filter::{HookKind, Statement, Value};
use weft_plan::{Field, Rule};

use super::namespace::{inside, listing, pipe};
use super::samples::{everything, is, services};
use super::{Row, apply, base, expected, observed};
use crate::filter::Nft;

fn text((key, row): &Row) -> String {
    weft_plan::text::kernel_row(key, row)
}

/// The part of nft's listing that begins so, without its indentation.
fn part<'a>(listing: &'a str, head: &str) -> Vec<&'a str> {
    let lines = listing.lines().map(str::trim).skip_while(|line| *line != head);
    lines.take_while(|line| *line != "}").collect()
}

#[test]
fn a_listing_of_everything_loads_and_lists_alike() {
    inside("a_listing_of_everything_loads_and_lists_alike", || {
        let rows = everything();
        let mut nft = Nft::open().unwrap();
        apply(&mut nft, &rows);
        let ours = listing();
        let seen = observed(&mut nft);
        inside("the listing, loaded elsewhere", || {
            pipe("nft", &["-f", "-"], &ours);
            assert_eq!(listing(), ours, "a loaded listing lists otherwise");
            // nft compiled it from text: the kernel holds the same expressions.
            for (loaded, written) in observed(&mut Nft::open().unwrap()).iter().zip(&seen) {
                assert_eq!(text(loaded), text(written));
            }
        });
    });
}

/// nft pulls a protocol and its port together, over what stands between: the rule means the same.
#[test]
fn a_protocol_before_an_address_is_listed_after_it() {
    inside("a_protocol_before_an_address_is_listed_after_it", || {
        let rule = Rule::new(
            "",
            [
                is(Field::L4Proto, Value::Byte(17)),
                is(Field::Saddr(Family::V4), Value::Address("10.0.0.1".parse().unwrap())),
                is(Field::Dport, Value::Port(53)),
                Statement::Notrack,
            ],
        );
        apply(&mut Nft::open().unwrap(), &[base("raw", (HookKind::Output, false, -303), vec![rule])]);
        let ours = listing();
        assert!(ours.contains("ip saddr 10.0.0.1 udp dport 53 notrack"), "{ours}");
        inside("the listing, loaded elsewhere", || {
            pipe("nft", &["-f", "-"], &ours);
            assert_eq!(listing(), ours);
        });
    });
}

#[test]
fn what_is_applied_is_observed() {
    inside("what_is_applied_is_observed", || {
        let rows = everything();
        let mut nft = Nft::open().unwrap();
        apply(&mut nft, &rows);
        let (seen, wanted) = (observed(&mut nft), expected(&rows));
        for (seen, wanted) in seen.iter().zip(&wanted) {
            assert_eq!(seen, wanted);
        }
        assert_eq!(seen.len(), wanted.len());
        let before = listing();
        apply(&mut nft, &rows);
        assert_eq!(listing(), before, "applying twice changes something");
    });
}

#[test]
#[allow(clippy::too_many_lines, reason = "a listing")]
fn rules_are_listed_in_the_words_of_the_plan() {
    inside("rules_are_listed_in_the_words_of_the_plan", || {
        let rows = everything();
        let mut nft = Nft::open().unwrap();
        apply(&mut nft, &rows);
        insta::assert_snapshot!(part(&listing(), "chain guard {").join("\n"), @r#"
        chain guard {
        type filter hook forward priority filter - 5; policy accept;
        iifname "eth0" accept
        oifname != "lo" accept
        iifname "weftp*" accept
        oifname != "weftp*" accept
        meta mark 0x00000010 accept
        ct mark != 0x00000020 accept
        meta l4proto udp accept
        meta l4proto != ipv6-icmp accept
        meta l4proto 200 accept
        ip saddr 10.0.0.1 accept
        ip daddr != 10.0.0.1 accept
        ip saddr 10.0.0.0/8 accept
        ip daddr != 10.16.0.0/20 accept
        ip saddr 0.0.0.0/0 accept
        ip saddr 10.0.0.1 accept
        ip6 saddr fd00::1 accept
        ip6 daddr != fd00::1 accept
        ip6 daddr fe80::/10 accept
        ip6 saddr fd00::/64 accept
        ip6 saddr != fd00:10::/61 accept
        th sport 53 accept
        th dport != 53 accept
        tcp flags syn accept
        tcp flags ! syn accept
        icmpv6 type nd-router-advert accept
        icmpv6 type != 7 accept
        fib daddr type local accept
        fib daddr type != local accept
        ct state established,related accept
        ct state invalid accept
        ct state untracked accept
        ct state ! invalid accept
        ct state ! established,related accept
        ct status dnat accept
        ct direction reply accept
        ct status ! dnat accept
        numgen random mod 3 1 accept
        ct mark 0x80000000/1 accept
        ct mark != 0x00000000/1 accept
        ct mark 0x01000000/8 accept
        ct mark & 0x7f800000 == 0x01800000 accept
        ct mark & 0x000000ff != 0x00000012 accept
        fib saddr type local accept
        fib saddr type != local accept
        ct original ip daddr 10.96.0.1 accept
        ct original ip daddr != 10.96.0.0/16 accept
        ct original ip daddr 10.96.0.0/20 accept
        ct original ip6 daddr fd00::1 accept
        ct original ip6 daddr != fd00::/64 accept
        ct original ip6 daddr fd00::/61 accept
        iifname . ip saddr @pods4 accept
        iifname . ip saddr != @pods4 accept
        iifname . ip6 saddr != @pods6 accept
        ip daddr @blocks4 accept
        ip saddr != @low4 accept
        ip6 saddr != @blocks6 accept
        oifname @names accept
        meta l4proto @protocols accept
        th dport != @services accept
        meta mark @marks accept
        ct mark @marks accept
        ip saddr @recent accept
        ip daddr . meta l4proto . th dport @svc accept
        ip6 daddr . meta l4proto . th dport @svc6 accept
        ip daddr . th dport @pairs accept
        ct mark & 0x7fffffff == @marks accept
        ct mark & 0xffff0000 != @marks accept
        ct mark . ip saddr @near4 accept
        ct mark . ip saddr & 255.255.255.0 @near4 accept
        ct mark . ip saddr & 255.255.252.0 != @near4 accept
        ct mark . ip saddr & 128.0.0.0 @near4 accept
        ct mark . ip6 saddr & ffff:ffff:ffff:: @near6 accept
        ct mark . ip6 saddr & ffff:ffff:ffff:fff8:: != @near6 accept
        ct mark . ip6 saddr & ffff:ffff:ffff:ffff:ffff:ffff:ffff:fffe @near6 accept
        ct original ip daddr @blocks4 accept
        ct original ip daddr . meta l4proto . th dport @svc accept
        ct original ip6 daddr . meta l4proto . th dport @svc6 accept
        iifname "eth0" ip saddr 10.0.0.0/8 ip daddr != 10.0.0.0/8 accept comment "two addresses"
        udp dport 53 accept comment "names"
        ip daddr @blocks4 udp dport 53 accept comment "after a look-up"
        iifname "weftp*" iifname . ip6 saddr != @pods6 counter packets 0 bytes 0 drop comment "spoofed source"
        meta mark set meta mark | 0x00000100 ct mark set meta mark
        meta mark set ip daddr . meta l4proto . th dport map @svc_mark
        meta mark set ip saddr map @block_mark
        meta mark set meta mark . numgen random mod 2 map @slot
        meta mark set oifname . numgen random mod 9 . meta l4proto map @mixed
        iifname vmap @by_link
        meta l4proto udp meta mark vmap @by_mark
        counter packets 0 bytes 0 reject
        reject with icmpx admin-prohibited
        meta l4proto tcp reject with tcp reset
        tcp dport 53 reject with tcp reset
        ip6 saddr fd00::1 reject with icmpv6 port-unreachable
        ip saddr 10.0.0.1 reject with icmp port-unreachable
        ip saddr @blocks4 reject with icmpx admin-prohibited
        ip6 saddr @blocks6 reject with icmpx admin-prohibited
        jump inner
        drop
        goto inner
        "#);
        insta::assert_snapshot!(part(&listing(), "chain mapped {").join("\n"), @r#"
        chain mapped {
        type nat hook prerouting priority dstnat - 10; policy accept;
        fib daddr type local dnat ip to meta l4proto . th dport map @ports4 comment "port mappings"
        fib daddr type local dnat ip6 to meta l4proto . th dport map @ports6 comment "port mappings"
        ip6 daddr != ::1 dnat ip6 to meta l4proto . th dport map @ports6
        dnat ip to 10.0.0.1
        dnat ip6 to fd00::1
        "#);
        // Where the family isn't known, the plan's words are nft's.
        let words: Vec<String> = services().iter().map(ToString::to_string).collect();
        let listed = listing().replace(" packets 0 bytes 0", "");
        assert_eq!(part(&listed, "chain services {")[2..], words);
        insta::assert_snapshot!(words.join("\n"), @r"
        ct mark set ip daddr . meta l4proto . th dport map @service4
        ct mark & 0x7f800000 vmap @by_mark
        ct mark set ip saddr . ip daddr . meta l4proto . th dport map @client4 update @client4 { ip saddr . ip daddr . meta l4proto . th dport timeout 3h : ct mark } dnat ip to ct mark . meta l4proto map @endpoint4
        delete @client4 { ip saddr . ip daddr . meta l4proto . th dport : ct mark } ct mark set ct mark . numgen random mod 3 map @slot
        update @client4 { ip saddr . ip daddr . meta l4proto . th dport timeout 23h59m59s : ct mark } dnat ip to ct mark . meta l4proto map @endpoint4
        ct mark set jhash ip6 saddr mod 4294967295 seed 0x77656674 . jhash ip6 daddr mod 4294967295 seed 0x77656674 . meta l4proto . th dport map @client6 update @client6 { jhash ip6 saddr mod 4294967295 seed 0x77656674 . jhash ip6 daddr mod 4294967295 seed 0x77656674 . meta l4proto . th dport timeout 1m : ct mark } dnat ip6 to ct mark . meta l4proto map @endpoint6
        delete @client6 { jhash ip6 saddr mod 4294967295 seed 0x77656674 . jhash ip6 daddr mod 4294967295 seed 0x77656674 . meta l4proto . th dport : ct mark }
        ct mark set ct mark & 0x7fffffff . numgen random mod 2 map @slot
        meta mark set jhash ip6 saddr mod 4294967295 seed 0x77656674 . jhash ip6 daddr mod 4294967295 seed 0x77656674 . meta l4proto . th dport map @client6
        meta l4proto tcp ct original proto-dst 443 counter
        ct mark set 0x00000010
        meta l4proto tcp reject with tcp reset
        reject
        ");
        insta::assert_snapshot!(part(&listing(), "chain edge {").join("\n"), @r#"
        chain edge {
        type nat hook postrouting priority srcnat - 5; policy accept;
        ct status dnat ip saddr @blocks4 masquerade fully-random
        snat ip to 10.0.0.1 fully-random
        snat ip6 to fd00::1 fully-random
        snat ip to meta l4proto . th dport map @ports4
        masquerade fully-random
        "#);
    });
}

#[test]
fn sets_are_listed_with_their_types() {
    inside("sets_are_listed_with_their_types", || {
        let mut nft = Nft::open().unwrap();
        apply(&mut nft, &everything());
        let text = listing();
        let head: Vec<&str> = text.lines().take_while(|line| !line.contains("chain")).collect();
        insta::assert_snapshot!(head.join("\n").replace('\t', "  "), @r#"
        table inet weft {
          comment "written by weft, the cluster's network: changes by hand are undone"
          map block_mark {
            type ipv4_addr : mark
            flags interval
            elements = { 10.0.0.0/8 : 0x00000007 }
          }

          set blocks4 {
            type ipv4_addr
            flags interval
            comment "blocks"
            elements = { 10.0.0.0/24, 10.0.1.0/24,
                   10.9.0.0/16, 192.0.2.7,
                   255.0.0.0/8 }
          }

          set blocks6 {
            type ipv6_addr
            flags interval
            comment "blocks"
            elements = { 2001:db8::1,
                   fd00::/48,
                   ff00::/8 }
          }

          map by_link {
            type ifname : verdict
        "#);
    });
}
