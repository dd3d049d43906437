//! `weft explain`: a packet's way there and back, and many at once with `--matrix`.

use std::io::Read;
use std::path::Path;
use std::process::ExitCode;

use anyhow::{Result, anyhow};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use weft_agent::explain::Query;
use weft_model::Family;

use crate::cli::{ExplainArgs, PeerSocket};
use crate::output::{Format, print, print_json};
use crate::socket::AgentSocket;

/// Questions of one request: the answer to each has both ways hop by hop, and an answer has a limit.
const AT_ONCE: usize = 200;
/// Differences of the kernel that are shown; `weft plan --diff` shows all.
const SHOWN: usize = 10;

/// The agent's answer, as far as it is shown.
#[derive(Debug, Deserialize)]
struct Answer {
    explanations: Vec<Explanation>,
}

#[derive(Debug, Deserialize)]
struct Explanation {
    query: Query,
    verdict: String,
    works: bool,
    text: String,
    #[serde(default)]
    kernels: Vec<NodeKernel>,
}

/// What the kernel of a node on the way says of all of its plan.
#[derive(Debug, Deserialize)]
struct NodeKernel {
    node: String,
    #[serde(flatten)]
    word: Word,
}

#[derive(Debug, Deserialize)]
#[serde(tag = "says", rename_all = "camelCase")]
enum Word {
    Agrees,
    Differs { rows: Vec<String> },
    NotAsked,
}

/// A cell of `--matrix`.
#[derive(Debug, Serialize)]
struct Cell {
    query: Query,
    verdict: String,
    works: bool,
}

pub fn run(args: &ExplainArgs, socket: &AgentSocket, format: Format) -> Result<ExitCode> {
    if let Some(file) = &args.matrix {
        let cells = matrix(&read_queries(file)?, socket)?;
        print_json(&cells)?;
        return Ok(ExitCode::SUCCESS);
    }
    let family = match (args.ipv4, args.ipv6) {
        (true, _) => Some(Family::V4),
        (_, true) => Some(Family::V6),
        _ => None,
    };
    let query = Query {
        from: args.from.clone().unwrap_or_default(),
        to: args.to.clone().unwrap_or_default(),
        family,
        source: None,
    };
    let peers = args.peers.iter().map(hear).collect::<Result<Vec<Value>>>()?;
    let answer = ask(&[query], &Kernel::Checked(peers), socket)?;
    let shown = read(&answer)?;
    let Some(explanation) = shown.explanations.first() else {
        return Err(anyhow!("the agent gave no answer: is it of another version?"));
    };
    match format {
        Format::Json => print_json(&answer)?,
        Format::Text => print(&render(explanation))?,
    }
    Ok(ExitCode::from(match (explanation.works, explanation.verdict.as_str()) {
        (true, _) => 0,
        (false, "unanswerable") => 2,
        (false, _) => 1,
    }))
}

/// Whether the kernel is to be compared with the plan as well.
#[derive(Debug)]
enum Kernel {
    /// It is, and this is what peers have said of theirs.
    Checked(Vec<Value>),
    Unchecked,
}

fn ask(queries: &[Query], kernel: &Kernel, socket: &AgentSocket) -> Result<Value> {
    let mut body = json!({ "queries": queries, "checkKernel": matches!(kernel, Kernel::Checked(_)) });
    if let Kernel::Checked(peers) = kernel {
        body["peers"] = json!(peers);
    }
    socket.post("/v1/explain", &body)
}

/// What another node's agent says of its kernel.
fn hear(peer: &PeerSocket) -> Result<Value> {
    let PeerSocket { node, run_dir } = peer;
    let socket = AgentSocket::new(run_dir);
    let about = |error: anyhow::Error| anyhow!("--peer {node}: {error}");
    let status = socket.get("/v1/status").map_err(about)?;
    if status["node"] != json!(node) {
        let other = status["node"].as_str().unwrap_or("an unknown node");
        return Err(anyhow!("--peer {node}: {} is of {other}'s agent", run_dir.display()));
    }
    let answer = socket.get("/v1/plan/kernel").map_err(about)?;
    Ok(json!({ "node": node, "differences": answer["differences"] }))
}

fn read(answer: &Value) -> Result<Answer> {
    Answer::deserialize(answer)
        .map_err(|e| anyhow!("the agent answered something else ({e}): is it of another version?"))
}

fn matrix(queries: &[Query], socket: &AgentSocket) -> Result<Vec<Cell>> {
    let mut cells = Vec::with_capacity(queries.len());
    for part in queries.chunks(AT_ONCE) {
        let answer = read(&ask(part, &Kernel::Unchecked, socket)?)?;
        if answer.explanations.len() != part.len() {
            return Err(anyhow!(
                "the agent answered {} of {} questions",
                answer.explanations.len(),
                part.len()
            ));
        }
        let part = answer.explanations.into_iter();
        cells.extend(part.map(|Explanation { query, verdict, works, .. }| Cell { query, verdict, works }));
    }
    Ok(cells)
}

fn read_queries(file: &Path) -> Result<Vec<Query>> {
    let mut text = String::new();
    let read = if file == Path::new("-") {
        std::io::stdin().read_to_string(&mut text).map(|_| ())
    } else {
        std::fs::read_to_string(file).map(|all| text = all)
    };
    read.map_err(|e| anyhow!("can't read the questions from {}: {e}", file.display()))?;
    parse_queries(&text).map_err(|e| anyhow!("{}: {e}", file.display()))
}

fn parse_queries(text: &str) -> Result<Vec<Query>> {
    serde_json::from_str(text).map_err(|e| anyhow!("{e}; a list of {{\"from\": …, \"to\": …}} is wanted, with \"family\" and \"source\" where you like"))
}

fn render(explanation: &Explanation) -> String {
    let mut text = explanation.text.trim_end().to_owned();
    if explanation.verdict == "unanswerable" {
        return text + "\n";
    }
    text.push_str("\n\n");
    text.push_str(match (explanation.works, explanation.verdict.as_str()) {
        (true, _) => "works: the packet arrives and its answer comes back\n",
        (false, "delivered") => "does not work: the packet arrives, but its answer does not come back\n",
        (false, _) => "does not work: the packet does not arrive\n",
    });
    let query = &explanation.query;
    let family = match query.family {
        Some(Family::V4) => "-4 ",
        Some(Family::V6) => "-6 ",
        None => "",
    };
    for NodeKernel { node, word } in &explanation.kernels {
        match word {
            Word::Agrees => text.push_str(&format!("kernel: = {node}'s is as its plan has it\n")),
            Word::NotAsked => text.push_str(&format!(
                "kernel: ? {node}'s was not asked: run `weft explain {family}{} {}` there\n",
                query.from, query.to
            )),
            Word::Differs { rows } => {
                text.push_str(&format!(
                    "kernel: ! {node}'s differs from its plan, so the above may not be what happens:\n"
                ));
                rows.iter().take(SHOWN).for_each(|row| text.push_str(&format!("  {row}\n")));
                if let Some(more @ 1..) = rows.len().checked_sub(SHOWN) {
                    text.push_str(&format!("  and {more} more lines: see `weft plan --diff` there\n"));
                }
            }
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn explanation(verdict: &str, works: bool, kernels: Vec<(&str, Word)>) -> Explanation {
        let query = Query { from: "a".into(), to: "b:80".into(), family: None, source: None };
        let kernels =
            kernels.into_iter().map(|(node, word)| NodeKernel { node: node.into(), word }).collect();
        Explanation { query, verdict: verdict.into(), works, text: "the way\n".into(), kernels }
    }

    #[test]
    fn the_last_lines_say_whether_it_works_and_whether_the_kernels_agree() {
        let kernels = vec![
            ("n1", Word::Agrees),
            ("n2", Word::NotAsked),
            ("n3", Word::Differs { rows: vec!["- route a".into(), "+ route b".into()] }),
        ];
        insta::assert_snapshot!(render(&explanation("delivered", true, kernels)), @r"
        the way

        works: the packet arrives and its answer comes back
        kernel: = n1's is as its plan has it
        kernel: ? n2's was not asked: run `weft explain a b:80` there
        kernel: ! n3's differs from its plan, so the above may not be what happens:
          - route a
          + route b
        ");
        let many = Word::Differs { rows: vec!["+ x".into(); SHOWN + 2] };
        let text = render(&explanation("delivered", false, vec![("n1", many)]));
        assert!(text.contains("its answer does not come back"), "{text}");
        assert!(text.ends_with("  + x\n  and 2 more lines: see `weft plan --diff` there\n"), "{text}");
        assert!(render(&explanation("dropped", false, vec![])).contains("does not arrive"));
        assert_eq!(render(&explanation("unanswerable", false, vec![("n1", Word::Agrees)])), "the way\n");
    }

    #[test]
    fn questions_are_read_with_place_of_the_mistake() {
        let good = parse_queries(r#"[{"from": "a", "to": "b"}, {"from": "a", "to": "b", "family": "IPv6"}]"#);
        assert_eq!(good.unwrap()[1].family, Some(Family::V6));
        let spoofed = parse_queries(r#"[{"from": "a", "to": "b", "source": "192.0.2.9"}]"#).unwrap();
        assert_eq!(spoofed[0].source.unwrap().to_string(), "192.0.2.9");
        let error = parse_queries("[{\"from\": \"a\"}]").unwrap_err().to_string();
        assert!(error.contains("`to`") && error.contains("line 1"), "{error}");
    }
}
