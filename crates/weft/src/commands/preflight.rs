//! `weft preflight`: what is missing on this machine, and what to type.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use serde::Serialize;

use crate::cli::PreflightArgs;
use crate::output::{Format, print, print_json};
use crate::preflight::{Finding, Machine, Verdict, examine};

#[derive(Debug, Serialize)]
struct Answer {
    ready: bool,
    findings: Vec<Finding>,
}

pub fn run(args: &PreflightArgs, run_dir: Option<PathBuf>, format: Format) -> Result<ExitCode> {
    let mut config = args.config.read_if_any()?;
    if let (Some(config), Some(run_dir)) = (&mut config, run_dir) {
        config.run_dir = run_dir;
    }
    let findings = examine(&Machine::this(), config.as_ref());
    let ready = findings.iter().all(|finding| finding.verdict != Verdict::Missing);
    let answer = Answer { ready, findings };
    match format {
        Format::Json => print_json(&answer)?,
        Format::Text => print(&render(&answer))?,
    }
    Ok(ExitCode::from(u8::from(!ready)))
}

fn render(answer: &Answer) -> String {
    let mut text = String::new();
    for Finding { check, verdict, text: found, mend } in &answer.findings {
        text.push_str(&format!("{:<8} {check:<10} {found}\n", verdict.word()));
        if let Some(mend) = mend {
            text.push_str(&format!("{:19} → {mend}\n", ""));
        }
    }
    let count = |verdict| answer.findings.iter().filter(|finding| finding.verdict == verdict).count();
    text.push_str(&format!(
        "\n{}: ok {}, warnings {}, missing {}\n",
        if answer.ready { "Weft can run here" } else { "Weft can't run here yet" },
        count(Verdict::Ok),
        count(Verdict::Warning),
        count(Verdict::Missing)
    ));
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn findings_with_what_to_type_and_a_sum() {
        let findings = vec![
            Finding::ok("rights", "all capabilities that are needed"),
            Finding::warning("sysctls", "net.a is 1", "sysctl -w net.a=2"),
            Finding::missing("kernel", "VXLAN tunnels: 1 refused", "modprobe vxlan"),
        ];
        insta::assert_snapshot!(render(&Answer { ready: false, findings }), @r"
        ok       rights     all capabilities that are needed
        warning  sysctls    net.a is 1
                            → sysctl -w net.a=2
        missing  kernel     VXLAN tunnels: 1 refused
                            → modprobe vxlan

        Weft can't run here yet: ok 1, warnings 1, missing 1
        ");
    }
}
