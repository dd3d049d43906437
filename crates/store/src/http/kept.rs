//! What files held when they could be used last.
//!
//! What always holds: files that can't be used take nothing away from who has used them before. He goes on with what stood there, and a notice
//! says so until they can be used again: others renew such files, and not all of them do it in one step.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::watch;

use crate::store::{Notice, Remark};

/// See the module.
pub(crate) struct Kept<T> {
    last: Mutex<Option<Arc<T>>>,
    told: watch::Sender<Notice>,
}

impl<T> Kept<T> {
    /// Nothing yet; `about` is what its notice is about.
    pub fn nothing(about: &str) -> Self {
        let notice = Notice { about: about.to_owned(), text: None };
        Self { last: Mutex::default(), told: watch::Sender::new(notice) }
    }

    /// What was read just now or, where that failed, what was read last. Fails where nothing ever was.
    pub fn or_last(&self, read: Result<T, String>) -> Result<Arc<T>, String> {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        let (result, text) = match (read, &*last) {
            (Ok(read), _) => (Ok(last.insert(Arc::new(read)).clone()), None),
            (Err(reason), Some(before)) => {
                let text =
                    format!("{reason}; until that is mended, Weft goes on with what stood there before");
                (Ok(before.clone()), Some(Remark::Warning(text)))
            }
            (Err(reason), None) => (Err(reason), None),
        };
        self.told.send_if_modified(|notice| {
            let differs = notice.text != text;
            notice.text = text;
            differs
        });
        result
    }

    /// True while the last attempt to read has failed, and what was read before is used.
    pub fn is_outdated(&self) -> bool {
        self.told.borrow().text.is_some()
    }

    /// The notice, as it is and as it changes.
    pub fn subscribe(&self) -> watch::Receiver<Notice> {
        let mut notices = self.told.subscribe();
        if notices.borrow().text.is_some() {
            notices.mark_changed();
        }
        notices
    }
}

impl<T> fmt::Debug for Kept<T> {
    /// What is kept may be a secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Kept").field("told", &*self.told.borrow()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_read_leaves_what_was_and_is_told_until_it_can() {
        let kept = Kept::nothing("token");
        let check = |read: Result<&'static str, &str>, expected: Result<&str, &str>, is_told: bool| {
            let found = kept.or_last(read.map_err(str::to_owned));
            assert_eq!(found.as_deref().copied().map_err(String::as_str), expected, "{read:?}");
            assert_eq!(kept.is_outdated(), is_told, "{read:?}");
        };
        check(Err("empty"), Err("empty"), false);
        check(Ok("one"), Ok("one"), false);
        check(Err("empty"), Ok("one"), true);
        check(Err("gone"), Ok("one"), true);
        check(Ok("two"), Ok("two"), false);
        check(Err("gone"), Ok("two"), true);
        let text = kept.subscribe().borrow().text.as_ref().map(|remark| remark.text().to_owned());
        assert!(text.is_some_and(|text| text.starts_with("gone; ")));
    }
}
