//! `weft explain`: a packet's way there and back, and many at once with `--matrix`.

use std::io::Read;
use std::net::IpAddr;
use std::path::Path;
use std::process::ExitCode;
use std::thread;
use std::time::Duration;

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

/// How long a peer may think about each of the two questions that it is asked. All are asked at once.
const PEER_PATIENCE: Duration = Duration::from_secs(2);

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
    let (peers, silent) = hear_all(&args.peers)?;
    let mut answer = ask(&[query], &Kernel::Checked(peers), socket)?;
    let shown = read(&answer)?;
    if !silent.is_empty() {
        answer["silentPeers"] = json!(silent);
    }
    let Some(explanation) = shown.explanations.first() else {
        return Err(anyhow!("the agent gave no answer: is it of another version?"));
    };
    match format {
        Format::Json => print_json(&answer)?,
        Format::Text => print(&render(explanation, &silent))?,
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

/// A peer that was to be asked, and gave no answer.
#[derive(Debug, Serialize)]
struct Silent {
    node: String,
    reason: String,
}

/// What other nodes' agents say of their kernels, and who said nothing: without them the answer lacks a part, and stands.
///
/// # Errors
/// Where a run folder is of another node's agent than the one named.
fn hear_all(peers: &[PeerSocket]) -> Result<(Vec<Value>, Vec<Silent>)> {
    let heard: Vec<Result<Result<Value, Silent>>> = thread::scope(|scope| {
        let asked: Vec<_> = peers.iter().map(|peer| scope.spawn(|| hear(peer))).collect();
        let lost = |_| Err(anyhow!("asking a peer ended in the middle"));
        asked.into_iter().map(|thread| thread.join().unwrap_or_else(lost)).collect()
    });
    let (mut words, mut silent) = (Vec::new(), Vec::new());
    for peer in heard {
        match peer? {
            Ok(word) => words.push(word),
            Err(nobody) => silent.push(nobody),
        }
    }
    Ok((words, silent))
}

/// What another node's agent says of its kernel.
fn hear(peer: &PeerSocket) -> Result<Result<Value, Silent>> {
    let PeerSocket { node, run_dir } = peer;
    let socket = AgentSocket::of_peer(run_dir);
    let silent = |error: anyhow::Error| Ok(Err(Silent { node: node.to_string(), reason: error.to_string() }));
    let status = match socket.get_within("/v1/status", PEER_PATIENCE) {
        Ok(status) => status,
        Err(error) => return silent(error),
    };
    if status["node"] != json!(node) {
        let other = status["node"].as_str().unwrap_or("an unknown node");
        return Err(anyhow!("--peer {node}: {} is of {other}'s agent", run_dir.display()));
    }
    match socket.get_within("/v1/plan/kernel", PEER_PATIENCE) {
        Ok(answer) => Ok(Ok(json!({ "node": node, "differences": answer["differences"] }))),
        Err(error) => silent(error),
    }
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

/// A question as people write it. The socket is lenient, for later versions' sake; here a misspelt key would ask something else.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Question {
    from: String,
    to: String,
    family: Option<Family>,
    source: Option<IpAddr>,
}

fn parse_queries(text: &str) -> Result<Vec<Query>> {
    let mut from = serde_json::Deserializer::from_str(text);
    let questions: Vec<Question> = serde_path_to_error::deserialize(&mut from)
        .map_err(|e| match e.path().to_string() {
            whole if whole == "." => e.inner().to_string(),
            entry => format!("{entry}: {}", e.inner()),
        })
        .and_then(|questions| from.end().map(|()| questions).map_err(|e| e.to_string()))
        .map_err(|e| {
            anyhow!("{e}; a list of {{\"from\": …, \"to\": …}} is wanted, with \"family\" and \"source\" where you like")
        })?;
    let query = |Question { from, to, family, source }| Query { from, to, family, source };
    Ok(questions.into_iter().map(query).collect())
}

fn render(explanation: &Explanation, silent: &[Silent]) -> String {
    let mut text = explanation.text.trim_end().to_owned();
    if explanation.verdict != "unanswerable" {
        text.push_str("\n\n");
        text.push_str(&last_lines(explanation, silent));
    } else {
        text.push('\n');
    }
    for Silent { node, reason } in silent {
        text.push_str(&format!("peer {node} did not answer: {reason}\n"));
    }
    text
}

/// Whether it works, and what the kernels say.
fn last_lines(explanation: &Explanation, silent: &[Silent]) -> String {
    let mut text = String::new();
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
            Word::NotAsked if silent.iter().any(|peer| peer.node == *node) => {
                text.push_str(&format!("kernel: ? {node}'s is not known, as its agent did not answer\n"));
            }
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
        insta::assert_snapshot!(render(&explanation("delivered", true, kernels), &[]), @r"
        the way

        works: the packet arrives and its answer comes back
        kernel: = n1's is as its plan has it
        kernel: ? n2's was not asked: run `weft explain a b:80` there
        kernel: ! n3's differs from its plan, so the above may not be what happens:
          - route a
          + route b
        ");
        let many = Word::Differs { rows: vec!["+ x".into(); SHOWN + 2] };
        let text = render(&explanation("delivered", false, vec![("n1", many)]), &[]);
        assert!(text.contains("its answer does not come back"), "{text}");
        assert!(text.ends_with("  + x\n  and 2 more lines: see `weft plan --diff` there\n"), "{text}");
        assert!(render(&explanation("dropped", false, vec![]), &[]).contains("does not arrive"));
        let nothing = explanation("unanswerable", false, vec![("n1", Word::Agrees)]);
        assert_eq!(render(&nothing, &[]), "the way\n");
        let silent = ["n2", "n4"].map(|node| Silent { node: node.into(), reason: "it is gone".into() });
        let kernels = vec![("n1", Word::Agrees), ("n2", Word::NotAsked)];
        insta::assert_snapshot!(render(&explanation("delivered", true, kernels), &silent), @r"
        the way

        works: the packet arrives and its answer comes back
        kernel: = n1's is as its plan has it
        kernel: ? n2's is not known, as its agent did not answer
        peer n2 did not answer: it is gone
        peer n4 did not answer: it is gone
        ");
    }

    #[test]
    fn questions_are_read_with_place_of_the_mistake() {
        let good = parse_queries(r#"[{"from": "a", "to": "b"}, {"from": "a", "to": "b", "family": "IPv6"}]"#);
        assert_eq!(good.unwrap()[1].family, Some(Family::V6));
        let spoofed = parse_queries(r#"[{"from": "a", "to": "b", "source": "192.0.2.9"}]"#).unwrap();
        assert_eq!(spoofed[0].source.unwrap().to_string(), "192.0.2.9");
        let error = parse_queries("[{\"from\": \"a\"}]").unwrap_err().to_string();
        assert!(error.contains("`to`") && error.contains("line 1"), "{error}");
        // What nobody knows isn't passed over: another question would be answered.
        for (key, value) in [("famly", "IPv4"), ("sorce", "1.2.3.4")] {
            let text = format!(
                "[{{\"from\": \"a\", \"to\": \"b\"}},\n{{\"from\": \"a\", \"to\": \"b\", \"{key}\": \"{value}\"}}]"
            );
            let error = parse_queries(&text).unwrap_err().to_string();
            assert!(error.starts_with("[1]") && error.contains(key) && error.contains("line 2"), "{error}");
        }
        assert!(parse_queries("[] []").is_err());
    }
}
