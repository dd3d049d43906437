//! Labels and selectors, with Kubernetes' meaning (`k8s.io/apimachinery/pkg/labels`).

use std::sync::Arc;

use serde::{Deserialize, Serialize};

/// An object's labels: pairs sorted by key, keys unique. Values share storage where the parser interned them.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Labels(Arc<[(Arc<str>, Arc<str>)]>);

impl Labels {
    /// The value of `key`.
    pub fn get(&self, key: &str) -> Option<&str> {
        let at = self.0.binary_search_by(|(k, _)| k.as_ref().cmp(key)).ok()?;
        Some(&self.0[at].1)
    }

    /// All pairs, by key.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(k, v)| (k.as_ref(), v.as_ref()))
    }

    /// All pairs with their shared storage, by key.
    pub fn pairs(&self) -> impl Iterator<Item = &(Arc<str>, Arc<str>)> {
        self.0.iter()
    }

    /// True where there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl<K: Into<Arc<str>>, V: Into<Arc<str>>> FromIterator<(K, V)> for Labels {
    /// The last of two equal keys wins, as in a JSON object.
    fn from_iter<I: IntoIterator<Item = (K, V)>>(pairs: I) -> Self {
        let map: std::collections::BTreeMap<Arc<str>, Arc<str>> =
            pairs.into_iter().map(|(k, v)| (k.into(), v.into())).collect();
        Self(map.into_iter().collect())
    }
}

/// One condition of a selector.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Requirement {
    /// The key exists and its value is one of these.
    In(Arc<str>, Vec<Arc<str>>),
    /// The key is absent or its value is none of these.
    NotIn(Arc<str>, Vec<Arc<str>>),
    /// The key exists.
    Exists(Arc<str>),
    /// The key is absent.
    DoesNotExist(Arc<str>),
}

/// A conjunction of conditions; none at all selects everything.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Selector(pub Vec<Requirement>);

impl Selector {
    /// The selector that a plain `key: value` map stands for.
    pub fn equalities(labels: &Labels) -> Self {
        Self(labels.0.iter().map(|(k, v)| Requirement::In(k.clone(), vec![v.clone()])).collect())
    }

    /// True where every condition holds for `labels`.
    pub fn matches(&self, labels: &Labels) -> bool {
        self.0.iter().all(|requirement| match requirement {
            Requirement::In(key, values) => labels.get(key).is_some_and(|v| values.iter().any(|w| **w == *v)),
            Requirement::NotIn(key, values) => {
                labels.get(key).is_none_or(|v| values.iter().all(|w| **w != *v))
            }
            Requirement::Exists(key) => labels.get(key).is_some(),
            Requirement::DoesNotExist(key) => labels.get(key).is_none(),
        })
    }

    /// A pair that every selected object has, where the selector implies one: what an index can look up.
    pub fn anchor(&self) -> Option<(&str, &str)> {
        self.0.iter().find_map(|requirement| match requirement {
            Requirement::In(key, values) if values.len() == 1 => Some((key.as_ref(), values[0].as_ref())),
            _ => None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn selectors_mean_what_kubernetes_means() {
        let labels: Labels = [("app", "web"), ("tier", "front")].into_iter().collect();
        let key = |k: &str| Arc::<str>::from(k);
        let check = |r: Requirement, expected: bool| assert_eq!(Selector(vec![r]).matches(&labels), expected);
        check(Requirement::In(key("app"), vec![key("web"), key("api")]), true);
        check(Requirement::In(key("none"), vec![key("web")]), false);
        check(Requirement::NotIn(key("none"), vec![key("web")]), true);
        check(Requirement::NotIn(key("app"), vec![key("web")]), false);
        check(Requirement::Exists(key("tier")), true);
        check(Requirement::DoesNotExist(key("tier")), false);
        assert!(Selector::default().matches(&labels));
        assert!(Selector::equalities(&labels).matches(&labels));
    }
}
