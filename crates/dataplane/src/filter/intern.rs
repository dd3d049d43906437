//! Texts read back from the kernel, kept for the life of the program: the plan's comments are `&'static str`, because
//! they are constants of the code that compiles it.
//!
//! What always holds: a text is kept once, and at most [`LIMIT`] texts that are not ours are kept, so that another
//! program that writes ever new comments into our table can't fill the memory.

use std::collections::BTreeSet;
use std::sync::{Mutex, PoisonError};

/// The most texts kept.
const LIMIT: usize = 4096;
/// What any further text reads as: it equals no comment of ours.
const TOO_MANY: &str = "(a comment of another program)";

static KEPT: Mutex<BTreeSet<&'static str>> = Mutex::new(BTreeSet::new());

/// The text for as long as the program runs.
pub fn intern(text: &str) -> &'static str {
    let mut kept = KEPT.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(known) = kept.get(text) {
        return known;
    }
    if kept.len() >= LIMIT {
        return TOO_MANY;
    }
    let text: &'static str = Box::leak(text.into());
    kept.insert(text);
    text
}
