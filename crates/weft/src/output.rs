//! Printing: text for people, JSON for programs.

use std::fmt::Write as _;
use std::io::{self, ErrorKind, Write as _};

use anyhow::{Result, anyhow};
use clap::ValueEnum;
use serde::Serialize;

/// How to print.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// For people; may change at any time
    #[default]
    Text,
    /// For programs; fields are added, not changed
    Json,
}

/// Writes text for people to standard output: names that somebody else chose can't steer the terminal.
pub fn print(text: &str) -> Result<()> {
    write_out(&visible(text))
}

/// The text with control characters spelt out, as `\u{1b}`; ends of lines are kept.
pub fn visible(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for c in text.chars() {
        if c != '\n' && is_steering(c) { shown.extend(c.escape_default()) } else { shown.push(c) }
    }
    shown
}

/// The same for a text that is to stay on one line.
pub fn on_one_line(text: &str) -> String {
    visible(text).replace('\n', "\\n")
}

/// Control characters, and those that turn the direction of writing.
fn is_steering(c: char) -> bool {
    c.is_control() || matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// A reader that has gone away (`weft plan | head`) has seen enough.
fn write_out(text: &str) -> Result<()> {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => {
            Err(anyhow!("can't write to standard output: {error}"))
        }
        _ => Ok(()),
    }
}

/// Writes a value as indented JSON.
pub fn print_json(value: &impl Serialize) -> Result<()> {
    let mut text = serde_json::to_string_pretty(value)?;
    text.push('\n');
    write_out(&text)
}

/// Rows of text in columns, two blanks between them. A cell may have several lines.
#[derive(Debug)]
pub struct Table<const N: usize> {
    rows: Vec<[String; N]>,
}

impl<const N: usize> Table<N> {
    /// A table with these column titles.
    pub fn new(titles: [&str; N]) -> Self {
        Self { rows: vec![titles.map(str::to_owned)] }
    }

    /// Adds a row.
    pub fn row(&mut self, cells: [String; N]) {
        self.rows.push(cells);
    }

    /// The text; nothing without rows.
    pub fn render(&self) -> String {
        if self.rows.len() < 2 {
            return String::new();
        }
        let mut widths = [0; N];
        for row in &self.rows {
            for (width, cell) in widths.iter_mut().zip(row) {
                *width = cell.lines().map(|line| line.chars().count()).fold(*width, usize::max);
            }
        }
        let mut text = String::new();
        for row in &self.rows {
            let height = row.iter().map(|cell| cell.lines().count()).max().unwrap_or(0);
            for at in 0..height {
                let mut line = String::new();
                for (width, cell) in widths.iter().zip(row) {
                    // Writing to a string can't fail.
                    let _ = write!(line, "{:width$}  ", cell.lines().nth(at).unwrap_or_default());
                }
                text.push_str(line.trim_end());
                text.push('\n');
            }
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_others_named_cannot_steer_the_terminal() {
        let check = |text: &str, expected: &str| assert_eq!(visible(text), expected);
        check("pod ä → b\n  c\n", "pod ä → b\n  c\n");
        check("\u{1b}[2Ja\rb\tc", "\\u{1b}[2Ja\\rb\\tc");
        check("\u{9b}31m\u{7f}\u{202e}x", "\\u{9b}31m\\u{7f}\\u{202e}x");
        assert_eq!(on_one_line("a\nnode n1 is ready"), "a\\nnode n1 is ready");
    }

    #[test]
    fn columns_line_up_and_cells_may_have_several_lines() {
        let mut table = Table::new(["PEER", "WAY"]);
        assert_eq!(table.render(), "");
        table.row(["n2".into(), "a → b\nc".into()]);
        table.row(["a-long-name".into(), "d".into()]);
        insta::assert_snapshot!(table.render(), @r"
        PEER         WAY
        n2           a → b
                     c
        a-long-name  d
        ");
    }
}
