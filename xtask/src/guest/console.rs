//! What the guest says on its console, line by line: which test program begins, what the test harness prints, how it ended.
//!
//! What always holds: a program that the guest didn't come to, or didn't end, counts as failed.
//! What it does not do: time, and reading the console.

use std::collections::VecDeque;

use crate::test::{Counter, Shown, Tally};

/// Begins every line that is the guest's own ([`init.sh`](self)).
const MARK: &str = "@weft ";

/// What a line was.
#[derive(Debug, PartialEq, Eq)]
pub enum Heard {
    /// The guest runs, with this kernel.
    Booted(String),
    /// A program has begun.
    Begun(String),
    /// A program has ended like this.
    Ended {
        name: String,
        tally: Tally,
    },
    /// All of them have.
    Done,
    /// For the user's eyes.
    Text(String),
    Nothing,
}

/// The guest's side of the story so far.
#[derive(Debug)]
pub struct Console {
    /// Programs of which the end hasn't been heard.
    waiting: VecDeque<String>,
    counter: Counter,
    tally: Tally,
}

impl Console {
    /// Of a guest that is to run these programs.
    pub fn new(programs: impl IntoIterator<Item = String>) -> Self {
        Self { waiting: programs.into_iter().collect(), counter: Counter::default(), tally: Tally::default() }
    }

    pub fn hear(&mut self, line: &str) -> Heard {
        let line = line.trim_end_matches(['\r', '\n']);
        let Some(words) = line.find(MARK).map(|at| &line[at + MARK.len()..]) else {
            return match self.counter.read(line) {
                Shown::Yes if line.starts_with("test result: ok") => Heard::Nothing,
                Shown::Yes => Heard::Text(line.to_owned()),
                Shown::As(text) => Heard::Text(text),
                Shown::No => Heard::Nothing,
            };
        };
        let words: Vec<&str> = words.split_whitespace().collect();
        match words.as_slice() {
            ["kernel", version] => Heard::Booted((*version).to_owned()),
            ["begin", name] => {
                self.counter = Counter::default();
                Heard::Begun((*name).to_owned())
            }
            ["end", name, status] => self.ended(name, *status == "0"),
            ["done"] => Heard::Done,
            _ => Heard::Text(line.to_owned()),
        }
    }

    fn ended(&mut self, name: &str, well: bool) -> Heard {
        let mut tally = std::mem::take(&mut self.counter).finish();
        if !well && tally.failed == 0 {
            // It died before it could say how its tests went.
            tally.failed = 1;
        }
        self.waiting.retain(|waiting| waiting != name);
        self.tally.add(tally);
        Heard::Ended { name: name.to_owned(), tally }
    }

    /// All numbers, and the programs that have not ended.
    pub fn finish(mut self) -> (Tally, Vec<String>) {
        self.tally.failed += self.waiting.len();
        (self.tally, self.waiting.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(lines: &str, heard: &[Heard], tally: Tally, missing: &[&str]) {
        let mut console = Console::new(["a".to_owned(), "b".to_owned()]);
        let all: Vec<Heard> =
            lines.lines().map(|line| console.hear(line)).filter(|heard| *heard != Heard::Nothing).collect();
        assert_eq!(all, heard);
        assert_eq!(console.finish(), (tally, missing.iter().map(|&name| name.to_owned()).collect()));
    }

    fn ended(name: &str, passed: usize, failed: usize, skipped: usize) -> Heard {
        Heard::Ended { name: name.into(), tally: Tally { passed, failed, skipped } }
    }

    #[test]
    fn programs_that_end() {
        let lines = "SeaBIOS\x1b[2J@weft kernel 6.1.0\r\n@weft begin a\r\ntest x ... ok\r\n\
                     test result: ok. 3 passed; 0 failed; 0 ignored\r\n@weft end a 0\r\n@weft begin b\n\
                     test y ... FAILED\ntest result: FAILED. 1 passed; 1 failed; 0 ignored\n@weft end b 101\n@weft done\n";
        let heard = [
            Heard::Booted("6.1.0".into()),
            Heard::Begun("a".into()),
            ended("a", 3, 0, 0),
            Heard::Begun("b".into()),
            Heard::Text("test y ... FAILED".into()),
            Heard::Text("test result: FAILED. 1 passed; 1 failed; 0 ignored".into()),
            ended("b", 1, 1, 0),
            Heard::Done,
        ];
        check(lines, &heard, Tally { passed: 4, failed: 1, skipped: 0 }, &[]);
    }

    #[test]
    fn a_program_that_dies_or_is_never_heard_of_has_failed() {
        let heard = [Heard::Begun("a".into()), ended("a", 0, 1, 0)];
        check("@weft begin a\n@weft end a 139\n", &heard, Tally { passed: 0, failed: 2, skipped: 0 }, &["b"]);
    }

    #[test]
    fn what_is_skipped_has_not_passed() {
        let lines = "@weft begin a\n---- x stdout ----\nSKIPPED: no root\ntest result: ok. 2 passed; 0 failed;\n@weft end a 0";
        let heard =
            [Heard::Begun("a".into()), Heard::Text("x: SKIPPED: no root".into()), ended("a", 1, 0, 1)];
        check(lines, &heard, Tally { passed: 1, failed: 1, skipped: 1 }, &["b"]);
    }
}
