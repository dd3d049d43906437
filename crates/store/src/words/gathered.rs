//! Notices of one sort, of which there may be very many: the first few are told one by one, and the number of the others. Pure.

use std::collections::{BTreeMap, BTreeSet};

use crate::store::Remark;

/// Notices told one by one.
const MOST: usize = 100;

/// All that stand, and which of them are told.
#[derive(Debug, Default)]
pub(super) struct Gathered {
    standing: BTreeMap<String, Remark>,
    told: BTreeSet<String>,
    has_changed: bool,
}

impl Gathered {
    /// Puts up a notice, or takes it down.
    pub fn set(&mut self, about: String, remark: Option<Remark>) {
        self.has_changed = true;
        match remark {
            Some(remark) => drop(self.standing.insert(about, remark)),
            None => drop(self.standing.remove(&about)),
        }
    }

    /// What there is to tell now, in place of what was told: the first ones, and under `rest` how many more there are, in the words of `sum`.
    pub fn told(&mut self, rest: &str, sum: impl FnOnce(String) -> Remark) -> Vec<(String, Option<Remark>)> {
        if !std::mem::take(&mut self.has_changed) {
            return Vec::new();
        }
        let now: BTreeSet<String> = self.standing.keys().take(MOST).cloned().collect();
        let mut news: Vec<(String, Option<Remark>)> =
            self.told.difference(&now).map(|about| (about.clone(), None)).collect();
        news.extend(
            self.standing.iter().take(MOST).map(|(about, remark)| (about.clone(), Some(remark.clone()))),
        );
        let more = self.standing.len() - now.len();
        news.push((rest.to_owned(), (more > 0).then(|| sum(counted(more)))));
        self.told = now;
        news
    }
}

/// A number with commas between its thousands.
pub(crate) fn counted(number: usize) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (at, digit) in digits.char_indices() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_readable() {
        let check = |number: usize, expected: &str| assert_eq!(counted(number), expected);
        check(7, "7");
        check(999, "999");
        check(4112, "4,112");
        check(1_500_000, "1,500,000");
    }

    #[test]
    fn what_was_told_is_taken_down_where_others_come_before_it() {
        let mut gathered = Gathered::default();
        let remark = || Remark::Info("x".into());
        let told = |gathered: &mut Gathered| gathered.told("rest", Remark::Info);
        (0..MOST).for_each(|i| gathered.set(format!("m{i:03}"), Some(remark())));
        assert_eq!(told(&mut gathered).len(), MOST + 1);
        assert_eq!(told(&mut gathered), []);
        gathered.set("a".into(), Some(remark()));
        let news = told(&mut gathered);
        assert_eq!(news[0], ("m099".to_owned(), None));
        assert_eq!(news.last(), Some(&("rest".to_owned(), Some(Remark::Info("1".into())))));
        gathered.set("a".into(), None);
        let news = told(&mut gathered);
        assert_eq!((&news[0], news.last()), (&("a".to_owned(), None), Some(&("rest".to_owned(), None))));
    }
}
