//! What demo and e2e show while they run: a line a step, live on a terminal, plain elsewhere.

use std::io::{IsTerminal, Write};
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

/// The display and the steps' outcomes.
pub struct Progress {
    start: Instant,
    screen: Screen,
    outcomes: Vec<Outcome>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Screen {
    Live,
    Plain,
}

struct Outcome {
    name: &'static str,
    result: Result<String, String>,
    took: Duration,
}

impl Progress {
    pub fn new(start: Instant) -> Self {
        let screen = if std::io::stdout().is_terminal() { Screen::Live } else { Screen::Plain };
        Self { start, screen, outcomes: Vec::new() }
    }

    /// Runs a step and shows how it went; returns whether it went well.
    pub fn step(&mut self, name: &'static str, work: impl FnOnce() -> Result<String>) -> bool {
        if self.screen == Screen::Live {
            print!("\r{:>7.1} s  …     {name}", self.start.elapsed().as_secs_f64());
            // A terminal that can't be written to shows nothing; the steps go on.
            let _ = std::io::stdout().flush();
        }
        let begun = Instant::now();
        let result = work().map_err(|e| format!("{e:#}"));
        let good = result.is_ok();
        let mark = match (good, self.screen) {
            (true, Screen::Live) => "\x1b[32mok\x1b[0m    ",
            (false, Screen::Live) => "\x1b[31mFAILED\x1b[0m",
            (true, Screen::Plain) => "ok    ",
            (false, Screen::Plain) => "FAILED",
        };
        let text = result.as_ref().unwrap_or_else(|e| e);
        let clear = if self.screen == Screen::Live { "\r\x1b[K" } else { "" };
        println!("{clear}{:>7.1} s  {mark} {name}: {text}", self.start.elapsed().as_secs_f64());
        self.outcomes.push(Outcome { name, result, took: begun.elapsed() });
        good
    }

    /// Shows a block of text under the last step.
    pub fn table(&self, text: &str) {
        text.lines().for_each(|line| println!("             {line}"));
    }

    /// The table of all steps; an error where one has failed.
    pub fn summary(&self) -> Result<()> {
        println!("\n{:<22} {:<8} {:>8}", "step", "outcome", "seconds");
        for outcome in &self.outcomes {
            let word = if outcome.result.is_ok() { "ok" } else { "FAILED" };
            println!("{:<22} {word:<8} {:>8.1}", outcome.name, outcome.took.as_secs_f64());
        }
        let failed = self.outcomes.iter().filter(|o| o.result.is_err()).count();
        let good = self.outcomes.len() - failed;
        println!("{good} steps went well, {failed} failed, in {:.1} s", self.start.elapsed().as_secs_f64());
        if failed > 0 {
            bail!("{failed} step(s) failed");
        }
        Ok(())
    }
}
