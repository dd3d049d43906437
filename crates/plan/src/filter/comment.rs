//! Comments on rules and sets: constants of the code, or made for one object.

use std::borrow::Cow;
use std::fmt;
use std::ops::Deref;

/// Why a rule or set is there, for whoever lists the table. At most [`Comment::LONGEST`] bytes, so that what the kernel
/// gives back equals what it was given.
#[derive(Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Comment(Cow<'static, str>);

impl Comment {
    /// Bytes that nft keeps (`NFTNL_UDATA_COMMENT_MAXLEN`), less the final zero.
    pub const LONGEST: usize = 127;
}

impl<T: Into<Cow<'static, str>>> From<T> for Comment {
    /// Takes a text; one that is too long is cut.
    fn from(text: T) -> Self {
        let text = text.into();
        match text.floor_char_boundary(Self::LONGEST) {
            all if all == text.len() => Self(text),
            end => Self(Cow::Owned(text[..end].to_owned())),
        }
    }
}

impl Deref for Comment {
    type Target = str;
    fn deref(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Comment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self)
    }
}

impl fmt::Debug for Comment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&**self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_texts_are_cut_between_characters() {
        assert_eq!(&*Comment::from("why"), "why");
        assert_eq!(Comment::from("x".repeat(200)).len(), 127);
        assert_eq!(&*Comment::from("ä".repeat(64)), "ä".repeat(63));
    }
}
