//! Named steps one after the other, as demo and e2e have them.
//!
//! What always holds: what a step wants to show is shown below its line; after a vital step that fails none follows, and the stage
//! says what helps to see why.

use anyhow::Result;

use crate::progress::Progress;

/// What steps are done on.
pub trait Stage {
    /// Blocks of text to be shown since the last call.
    fn take_tables(&mut self) -> Vec<String>;

    /// What helps where nothing makes sense any more.
    fn last_words(&self) -> String;
}

/// A step: what it shows, and the work. The text that it returns is its summary.
pub struct Step<S> {
    pub name: &'static str,
    pub need: Need,
    pub run: fn(&mut S) -> Result<String>,
}

/// What a failed step means for those after it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Need {
    /// Nothing makes sense without it.
    Vital,
    /// The others can go on.
    Single,
}

/// A step, for tables of them.
pub const fn step<S>(name: &'static str, need: Need, run: fn(&mut S) -> Result<String>) -> Step<S> {
    Step { name, need, run }
}

/// Does the steps on a stage.
pub fn walk<'s, S: Stage + 's>(
    steps: impl Iterator<Item = &'s Step<S>>,
    stage: &mut S,
    progress: &mut Progress,
) {
    for step in steps {
        let good = progress.step(step.name, || (step.run)(stage));
        stage.take_tables().iter().for_each(|table| progress.table(table));
        if !good && step.need == Need::Vital {
            progress.table(&stage.last_words());
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use anyhow::bail;

    use super::*;

    #[derive(Default)]
    struct Played(Vec<&'static str>);

    impl Played {
        fn fails(&mut self) -> Result<String> {
            self.0.push("fails");
            bail!("it is meant to")
        }

        fn works(&mut self) -> Result<String> {
            self.0.push("works");
            Ok(String::new())
        }
    }

    impl Stage for Played {
        fn take_tables(&mut self) -> Vec<String> {
            self.0.push("tables");
            Vec::new()
        }

        fn last_words(&self) -> String {
            format!("{:?}", self.0)
        }
    }

    #[test]
    fn only_a_vital_step_ends_what_fails() {
        let check = |steps: &[Step<Played>], expected: &[&str]| {
            let (mut stage, mut progress) = (Played::default(), Progress::new(Instant::now()));
            walk(steps.iter(), &mut stage, &mut progress);
            assert_eq!(stage.0, expected);
            assert_eq!(progress.summary().is_err(), expected.contains(&"fails"));
        };
        let works = || step("works", Need::Vital, Played::works);
        check(&[works(), works()], &["works", "tables", "works", "tables"]);
        check(
            &[step("fails", Need::Single, Played::fails), works()],
            &["fails", "tables", "works", "tables"],
        );
        check(&[step("fails", Need::Vital, Played::fails), works()], &["fails", "tables"]);
    }
}
