//! Base chains of nftables, those of iptables-nft among them: found, opened and closed by netlink.

use std::collections::BTreeSet;

use weft_model::Family;
use weft_plan::Verdict;
use weft_plan::filter::TABLE;

use super::accept::{Accept, MARK, Path};
use crate::filter::FilterError;
use crate::filter::attribute::{Attributes, Messages, Writer};
use crate::filter::expression::Expression;
use crate::filter::socket::Nfnl;
use crate::filter::uapi as k;
use crate::netlink::Refusal;

/// Names of attributes of a `match` expression (`enum nft_match_attributes`): an extension of xtables inside nftables.
const NFTA_MATCH_NAME: u16 = 1;
const NFTA_MATCH_INFO: u16 = 3;
/// The same of a `target`.
const NFTA_TARGET_NAME: u16 = 1;

/// A foreign base chain on a path that matters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BaseChain {
    /// `NFPROTO_IPV4`, `NFPROTO_IPV6` or `NFPROTO_INET`.
    pub family: u8,
    /// Its table.
    pub table: String,
    /// Its name.
    pub chain: String,
    /// The packets that it sees.
    pub path: Path,
    /// Its policy is drop.
    pub drops: bool,
    /// Our rules in it, and their handles; of two equal ones both.
    pub ours: Vec<(Accept, u64)>,
    /// What its owner's rules let through before all else is dropped, as far as it has the form of ours.
    pub theirs: BTreeSet<Accept>,
    /// It has a rule of its own that drops or rejects everything that reaches it.
    pub drop_rule: bool,
}

impl BaseChain {
    /// Families of packets that it sees.
    pub fn families(&self) -> &'static [Family] {
        match self.family {
            k::NFPROTO_IPV4 => &[Family::V4],
            k::NFPROTO_IPV6 => &[Family::V6],
            _ => &Family::ALL,
        }
    }

    /// nft's word for its family.
    pub fn family_name(&self) -> &'static str {
        match self.family {
            k::NFPROTO_IPV4 => "ip",
            k::NFPROTO_IPV6 => "ip6",
            _ => "inet",
        }
    }
}

/// All foreign base chains at the forward and input hooks.
pub fn chains(nfnl: &mut Nfnl) -> Result<Vec<BaseChain>, FilterError> {
    let kind = |message: u16| (message | k::NFNL_SUBSYS_NFTABLES << 8, k::NFPROTO_UNSPEC);
    let list = nfnl.dump("chains", kind(k::NFT_MSG_GETCHAIN), |_| {})?;
    let mut chains: Vec<BaseChain> =
        Messages(&list).filter_map(|message| read_chain(message.family(), message.attributes())).collect();
    if chains.is_empty() {
        return Ok(chains);
    }
    for chain in &mut chains {
        let request = (k::NFT_MSG_GETRULE | k::NFNL_SUBSYS_NFTABLES << 8, chain.family);
        let (table, name) = (chain.table.clone(), chain.chain.clone());
        let list = nfnl.dump("rules", request, |w| {
            w.text(k::NFTA_RULE_TABLE, &table);
            w.text(k::NFTA_RULE_CHAIN, &name);
        })?;
        for message in Messages(&list) {
            read_rule(chain, message.attributes());
        }
    }
    Ok(chains)
}

fn read_chain(family: u8, a: Attributes<'_>) -> Option<BaseChain> {
    let text = |kind: u16| Some(a.get(kind)?.text()?.to_owned());
    let hook = a.get(k::NFTA_CHAIN_HOOK)?.nested();
    let path = match hook.get(k::NFTA_HOOK_HOOKNUM)?.u32()? {
        1 => Path::Input,
        2 => Path::Forward,
        _ => return None,
    };
    let (table, chain) = (text(k::NFTA_CHAIN_TABLE)?, text(k::NFTA_CHAIN_NAME)?);
    let seen = matches!(family, k::NFPROTO_IPV4 | k::NFPROTO_IPV6 | k::NFPROTO_INET);
    let own = family == k::NFPROTO_INET && table == TABLE;
    let filters = a.get(k::NFTA_CHAIN_TYPE)?.text()? == "filter";
    (seen && filters && !own).then_some(BaseChain {
        family,
        table,
        chain,
        path,
        drops: a.get(k::NFTA_CHAIN_POLICY)?.u32()? == k::NF_DROP,
        ours: Vec::new(),
        theirs: BTreeSet::new(),
        drop_rule: false,
    })
}

fn read_rule(chain: &mut BaseChain, a: Attributes<'_>) {
    let user = a.get(k::NFTA_RULE_USERDATA).map(|u| u.value).unwrap_or_default();
    let mut comment = crate::filter::rule_comment(user).map(str::to_owned);
    let mut expressions = Vec::new();
    let mut refuses = false;
    for element in a.get(k::NFTA_RULE_EXPRESSIONS).into_iter().flat_map(|list| list.nested()) {
        let data = element.nested().get(k::NFTA_EXPR_DATA).map_or(Attributes(&[]), |d| d.nested());
        let named = |kind: u16| data.get(kind).and_then(|name| name.text());
        match Expression::read(element) {
            // iptables-restore writes comments as an extension, not as user data.
            Expression::Other(name) if &*name == "match" && named(NFTA_MATCH_NAME) == Some("comment") => {
                comment = data.get(NFTA_MATCH_INFO).and_then(|info| info.text()).map(str::to_owned);
            }
            Expression::Other(name) if &*name == "target" && named(NFTA_TARGET_NAME) == Some("REJECT") => {
                refuses = true;
                expressions.push(Expression::Other(name));
            }
            expression => expressions.push(expression),
        }
    }
    if comment.as_deref() == Some(MARK) {
        let handle = a.get(k::NFTA_RULE_HANDLE).and_then(|handle| handle.u64());
        if let (Some(accept), Some(handle)) = (Accept::read(&expressions, chain.family), handle) {
            chain.ours.push((accept, handle));
            return;
        }
    }
    expressions.retain(|e| !matches!(e, Expression::Counter { .. }));
    if !chain.drop_rule && expressions.last() == Some(&Expression::Verdict(Verdict::Accept)) {
        let mut counted = expressions.clone();
        counted.insert(expressions.len() - 1, Expression::Counter { packets: 0, bytes: 0 });
        chain.theirs.extend(Accept::read(&counted, chain.family));
    }
    chain.drop_rule |= match &expressions[..] {
        [Expression::Verdict(Verdict::Drop) | Expression::Reject(..)] => true,
        [Expression::Other(_)] => refuses,
        _ => false,
    };
}

/// What changed in a chain.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Changed {
    /// Rules put in.
    pub inserted: usize,
    /// Rules taken out.
    pub removed: usize,
}

/// Makes the chain's openings be these, in one transaction; `Err` inside is the kernel's refusal, with nothing changed.
pub fn open(
    nfnl: &mut Nfnl,
    chain: &BaseChain,
    wanted: &BTreeSet<Accept>,
) -> Result<Result<Changed, Refusal>, FilterError> {
    let mut missing = wanted.clone();
    let surplus: Vec<u64> =
        chain.ours.iter().filter(|(accept, _)| !missing.remove(accept)).map(|(_, handle)| *handle).collect();
    if missing.is_empty() && surplus.is_empty() {
        return Ok(Ok(Changed::default()));
    }
    let first = nfnl.next();
    let mut number = first;
    let mut w = Writer::new();
    let batch = (k::NFPROTO_UNSPEC, k::NFNL_SUBSYS_NFTABLES);
    w.message((k::NFNL_MSG_BATCH_BEGIN, k::NLM_F_REQUEST, number), batch, |_| {});
    let subsystem = k::NFNL_SUBSYS_NFTABLES << 8;
    for handle in &surplus {
        number = number.wrapping_add(1);
        let header = (k::NFT_MSG_DELRULE | subsystem, k::NLM_F_REQUEST | k::NLM_F_ACK, number);
        w.message(header, (chain.family, 0), |w| {
            w.text(k::NFTA_RULE_TABLE, &chain.table);
            w.text(k::NFTA_RULE_CHAIN, &chain.chain);
            w.u64(k::NFTA_RULE_HANDLE, *handle);
        });
    }
    // Each goes before the one before it: backwards, so that they stand in order.
    for accept in missing.iter().rev() {
        number = number.wrapping_add(1);
        let flags = k::NLM_F_REQUEST | k::NLM_F_ACK | k::NLM_F_CREATE;
        w.message((k::NFT_MSG_NEWRULE | subsystem, flags, number), (chain.family, 0), |w| {
            w.text(k::NFTA_RULE_TABLE, &chain.table);
            w.text(k::NFTA_RULE_CHAIN, &chain.chain);
            w.nest(k::NFTA_RULE_EXPRESSIONS, |w| {
                for expression in accept.expressions(chain.family) {
                    expression.write(w);
                }
            });
            w.bytes(k::NFTA_RULE_USERDATA, &crate::filter::rule_userdata(MARK));
        });
    }
    let end = number.wrapping_add(1);
    w.message((k::NFNL_MSG_BATCH_END, k::NLM_F_REQUEST, end), batch, |_| {});
    nfnl.reserve(end.wrapping_sub(first).wrapping_add(1));
    let refused = nfnl.transact(&w.into_bytes(), (first, number))?;
    Ok(match refused.into_iter().next() {
        Some((_, refusal)) => Err(refusal),
        None => Ok(Changed { inserted: missing.len(), removed: surplus.len() }),
    })
}
