//! What a benchmark found: metrics and aims, as a table and as JSON.

use std::fmt;
use std::path::Path;

use anyhow::{Context, Result};
use serde::Serialize;

/// One number, beside the peer's and beside what is possible at all.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Metric {
    /// `cni.add.p50`.
    pub metric: String,
    /// `ms`, `Gb/s`, `MB`, `1/s`, or `messages`.
    pub unit: &'static str,
    /// Weft's.
    pub ours: Option<f64>,
    /// What it is compared with.
    pub peer: Option<f64>,
    /// The floor or the ceiling.
    pub limit: Option<f64>,
}

/// What a value should be.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Bound {
    /// This or more.
    AtLeast(f64),
    /// This or less.
    AtMost(f64),
}

impl Bound {
    fn holds(self, value: f64) -> bool {
        match self {
            Self::AtLeast(bound) => value >= bound,
            Self::AtMost(bound) => value <= bound,
        }
    }
}

#[derive(Debug, Clone, PartialEq)]
struct Aim {
    what: String,
    value: f64,
    bound: Bound,
}

/// All that a benchmark found.
#[derive(Debug, Clone, PartialEq)]
pub struct Report {
    name: &'static str,
    /// What stands in the columns `peer` and `limit`.
    columns: &'static str,
    metrics: Vec<Metric>,
    aims: Vec<Aim>,
    notes: Vec<String>,
}

impl Report {
    /// A report without numbers; `columns` says what `peer` and `limit` are.
    pub fn new(name: &'static str, columns: &'static str) -> Self {
        Self { name, columns, metrics: Vec::new(), aims: Vec::new(), notes: Vec::new() }
    }

    /// Adds a number.
    pub fn add(&mut self, metric: impl Into<String>, unit: &'static str, values: [Option<f64>; 3]) {
        let [ours, peer, limit] = values.map(|v| v.filter(|v| v.is_finite()).map(four_digits));
        self.metrics.push(Metric { metric: metric.into(), unit, ours, peer, limit });
    }

    /// Adds something that was aimed at.
    pub fn aim(&mut self, what: impl Into<String>, value: f64, bound: Bound) {
        self.aims.push(Aim { what: what.into(), value, bound });
    }

    /// Says below the table why something isn't in it.
    pub fn note(&mut self, text: impl Into<String>) {
        self.notes.push(text.into());
    }

    /// Writes the metrics to `FOLDER/NAME.json`.
    pub fn write(&self, folder: &Path) -> Result<()> {
        let path = folder.join(format!("{}.json", self.name));
        std::fs::create_dir_all(folder).with_context(|| format!("can't make {}", folder.display()))?;
        let text = serde_json::to_string_pretty(&self.metrics).context("can't render the metrics")?;
        std::fs::write(&path, text + "\n").with_context(|| format!("can't write {}", path.display()))?;
        println!("written to {}", path.display());
        Ok(())
    }
}

/// More digits would only show the machine's mood.
fn four_digits(value: f64) -> f64 {
    format!("{value:.3e}").parse().unwrap_or(value)
}

/// A number as wide as its size needs.
fn short(value: Option<f64>) -> String {
    match value {
        None => "–".into(),
        Some(v) if v.abs() >= 100.0 => format!("{v:.0}"),
        Some(v) if v.abs() >= 10.0 => format!("{v:.1}"),
        Some(v) if v.abs() >= 1.0 => format!("{v:.2}"),
        Some(v) => format!("{v:.3}"),
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}: {}\n", self.name, self.columns)?;
        let header = ["metric", "unit", "ours", "peer", "limit", "ours/peer", "ours/limit"];
        let mut rows = vec![header.map(str::to_owned), header.map(|_| "---".to_owned())];
        for metric in &self.metrics {
            let ratio = |to: Option<f64>| Some(metric.ours? / to.filter(|to| *to != 0.0)?);
            rows.push([
                metric.metric.clone(),
                metric.unit.into(),
                short(metric.ours),
                short(metric.peer),
                short(metric.limit),
                short(ratio(metric.peer)),
                short(ratio(metric.limit)),
            ]);
        }
        let widths: Vec<usize> =
            (0..header.len()).map(|c| rows.iter().map(|r| r[c].chars().count()).max().unwrap_or(0)).collect();
        for row in &rows {
            let cells: Vec<String> =
                row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}")).collect();
            writeln!(f, "| {} |", cells.join(" | "))?;
        }
        writeln!(f)?;
        for note in &self.notes {
            writeln!(f, "- {note}")?;
        }
        for Aim { what, value, bound } in &self.aims {
            let verdict = if bound.holds(*value) { "met" } else { "MISSED" };
            let aim = match bound {
                Bound::AtLeast(bound) => format!("at least {bound}"),
                Bound::AtMost(bound) => format!("at most {bound}"),
            };
            writeln!(f, "- {what}: {}; aim: {aim}; {verdict}", short(Some(*value)))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_is_a_table_and_its_aims() {
        let mut report = Report::new("cni", "peer: others; limit: the floor");
        report.add("cni.add.p50", "ms", [Some(2.123_456), Some(84.0), Some(1.0)]);
        report.add("scale.rss", "MB", [Some(133.4), None, Some(0.0)]);
        report.aim("chain / ours", 39.5, Bound::AtLeast(25.0));
        report.aim("ours / floor", 2.123, Bound::AtMost(2.0));
        report.note("no peer for scale");
        insta::assert_snapshot!(report, @r"
        cni: peer: others; limit: the floor

        | metric      | unit | ours | peer | limit | ours/peer | ours/limit |
        | ---         | ---  | ---  | ---  | ---   | ---       | ---        |
        | cni.add.p50 | ms   | 2.12 | 84.0 | 1.00  | 0.025     | 2.12       |
        | scale.rss   | MB   | 133  | –    | 0.000 | –         | –          |

        - no peer for scale
        - chain / ours: 39.5; aim: at least 25; met
        - ours / floor: 2.12; aim: at most 2; MISSED
        ");
    }

    #[test]
    fn what_is_absent_or_endless_is_null() {
        let mut report = Report::new("x", "");
        report.add("x", "ms", [Some(1.0 / 3.0), None, Some(f64::INFINITY)]);
        let json = serde_json::to_string(&report.metrics).expect("plain numbers");
        assert_eq!(json, r#"[{"metric":"x","unit":"ms","ours":0.3333,"peer":null,"limit":null}]"#);
    }
}
