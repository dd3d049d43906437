//! A decoded object in few bytes.
//!
//! What files say is kept for as long as they say it, beside the facts that whoever watches holds; it is read again only
//! where words of several files meet. So it is kept as small as it gets: a sixth of what a fact takes in memory.
//!
//! What always holds: two objects are equal where their packed forms are, and only there. The form is this process's own:
//! nothing is written anywhere in it.

use weft_model::Fact;

use crate::object::{Decoded, Interner};

/// See the module.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Packed {
    /// Fact and readiness in postcard's format.
    Bytes(Box<[u8]>),
    /// What has no such form. No fact is like that; but then none is lost either.
    Whole(Box<Decoded>),
}

impl Packed {
    /// Packs an object.
    pub fn of(decoded: &Decoded) -> Self {
        match postcard::to_allocvec(&(&decoded.fact, decoded.ready)) {
            Ok(bytes) => Packed::Bytes(bytes.into()),
            Err(_) => Packed::Whole(Box::new(decoded.clone())),
        }
    }

    /// The object again, its names shared with what else was unpacked.
    pub fn unpack(&self, names: &mut Interner) -> Option<Decoded> {
        match self {
            Packed::Bytes(bytes) => match postcard::from_bytes::<(Fact, Option<bool>)>(bytes) {
                Ok((mut fact, ready)) => {
                    names.share(&mut fact);
                    Some(Decoded { fact, ready })
                }
                Err(error) => {
                    tracing::error!("an object that was read can't be read again: {error}; this is a bug");
                    None
                }
            },
            Packed::Whole(decoded) => Some(Decoded::clone(decoded)),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::ops::ControlFlow;

    use super::*;
    use crate::object::{Outcome, decode_yaml, documents};

    #[test]
    fn every_kind_of_object_comes_out_as_it_went_in() {
        let text = include_str!("../../tests/every-kind.yaml");
        let mut names = Interner::default();
        let mut kinds = std::collections::BTreeSet::new();
        for document in documents(text) {
            let mut outcomes = Vec::new();
            let _ = decode_yaml(document.text, &mut names, &mut |outcome| {
                outcomes.push(outcome);
                ControlFlow::Continue(())
            });
            for outcome in outcomes {
                let Ok(Outcome::Facts(facts)) = outcome else { panic!("{outcome:?}") };
                for decoded in facts {
                    kinds.insert(decoded.fact.key().to_string().split(' ').next().unwrap().to_owned());
                    let packed = Packed::of(&decoded);
                    assert!(matches!(packed, Packed::Bytes(_)), "{decoded:?}");
                    assert_eq!(packed.unpack(&mut names), Some(decoded.clone()));
                    assert_eq!(packed, Packed::of(&decoded));
                    let other = Decoded { ready: Some(decoded.ready.is_none()), ..decoded };
                    assert_ne!(packed, Packed::of(&other));
                }
            }
        }
        let all = ["endpointslice", "namespace", "network", "node", "pod", "service", "servicecidr"];
        assert_eq!(kinds.iter().map(String::as_str).collect::<Vec<_>>(), all);
    }
}
