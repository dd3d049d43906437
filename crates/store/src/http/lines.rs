//! Bytes as lines: what a watch is made of. Pure.
//!
//! What always holds: a line beyond the limit is passed over but for its beginning, and said to have been; memory stays within the limit.

/// Bytes that are kept of a line that is too long: enough to say what it is about.
const BEGINNING: usize = 4 << 10;

/// A line of a body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Line<'a> {
    /// Its text, without the end.
    Text(&'a [u8]),
    /// It was longer than the limit; this is its beginning, [`BEGINNING`] bytes of it at most.
    TooLong(&'a [u8]),
}

/// Bytes as they come in, and lines as they go out: pure.
#[derive(Debug)]
pub(crate) struct Splitter {
    held: Vec<u8>,
    /// Bytes of `held` in which no line ends.
    searched: usize,
    /// The rest of a line that is too long is on its way; this is its beginning.
    skipping: Option<Vec<u8>>,
    limit: usize,
}

impl Splitter {
    pub fn new(limit: usize) -> Self {
        Self { held: Vec::new(), searched: 0, skipping: None, limit }
    }

    /// Takes bytes, and gives out the lines that end in them.
    pub fn push(&mut self, bytes: &[u8], mut each: impl FnMut(Line<'_>)) {
        self.held.extend_from_slice(bytes);
        let mut start = 0;
        while let Some(length) = memchr::memchr(b'\n', &self.held[start.max(self.searched)..]) {
            let end = start.max(self.searched) + length;
            let line = &self.held[start..end];
            if let Some(beginning) = self.skipping.take() {
                each(Line::TooLong(&beginning));
            } else if line.len() > self.limit {
                each(Line::TooLong(beginning(line)));
            } else if !line.is_empty() {
                each(Line::Text(line));
            }
            start = end + 1;
        }
        self.held.drain(..start);
        if self.held.len() > self.limit {
            self.skipping.get_or_insert_with(|| beginning(&self.held).to_vec());
            self.held.clear();
        }
        self.searched = self.held.len();
        // One large object must not be paid for as long as the watch lasts.
        if self.held.capacity() > 1 << 20 && self.held.len() < 1 << 16 {
            self.held.shrink_to(1 << 16);
        }
    }
}

fn beginning(line: &[u8]) -> &[u8] {
    &line[..line.len().min(BEGINNING)]
}

#[cfg(test)]
mod tests {
    use proptest::prelude::{any, prop_assert_eq, proptest};

    use super::{Line, Splitter};

    fn split(limit: usize, pieces: &[&[u8]]) -> Vec<String> {
        let mut splitter = Splitter::new(limit);
        let mut lines = Vec::new();
        for piece in pieces {
            splitter.push(piece, |line| {
                lines.push(match line {
                    Line::Text(text) => String::from_utf8_lossy(text).into_owned(),
                    Line::TooLong(beginning) => {
                        // What has come by when the limit is passed depends on how the bytes are cut.
                        format!("({}…)", String::from_utf8_lossy(&beginning[..2]))
                    }
                });
            });
        }
        lines
    }

    #[test]
    fn a_line_that_is_too_long_is_passed_over_and_said() {
        let check = |pieces: &[&str], expected: &[&str]| {
            let pieces: Vec<&[u8]> = pieces.iter().map(|p| p.as_bytes()).collect();
            assert_eq!(split(4, &pieces), expected, "{pieces:?}");
        };
        check(&["ab\ncd", "ef\n\n", "g"], &["ab", "cdef"]);
        check(&["abcde\nf\n"], &["(ab…)", "f"]);
        check(&["abc", "def", "ghi\nj\n"], &["(ab…)", "j"]);
        check(&["abcd\n", "abcde"], &["abcd"]);
    }

    proptest! {
        /// However the bytes are cut, the lines are the same.
        #[test]
        fn cuts_do_not_matter(text in "[ab\n]{0,60}", cuts in proptest::collection::vec(any::<u8>(), 0..6)) {
            let mut cuts: Vec<usize> = cuts.iter().map(|c| usize::from(*c) % (text.len() + 1)).collect();
            cuts.extend([0, text.len()]);
            cuts.sort_unstable();
            let pieces: Vec<&[u8]> = cuts.windows(2).map(|w| &text.as_bytes()[w[0]..w[1]]).collect();
            prop_assert_eq!(split(5, &pieces), split(5, &[text.as_bytes()]));
        }
    }
}
