//! The line of a field.

use super::tree::{Content, Node};

/// The line, counted from 1, of the field at `path` below `root`, or of its nearest ancestor that exists.
pub(super) fn line_of(root: &Node<'_>, path: &str) -> Option<u64> {
    let mut at = root;
    for step in steps(path) {
        let next = match (&at.content, step) {
            (Content::Map(_), Step::Key(key)) => at.get(key),
            (Content::List(items), Step::Index(index)) => items.get(index),
            _ => None,
        };
        match next {
            Some(next) => at = next,
            None => break,
        }
    }
    Some(u64::from(at.line)).filter(|line| *line > 0)
}

enum Step<'a> {
    Key(&'a str),
    Index(usize),
}

/// Takes `spec.ports[1].port` and `metadata.annotations["weft.dev/x"]` apart.
fn steps(path: &str) -> Vec<Step<'_>> {
    let mut steps = Vec::new();
    let mut rest = path;
    while !rest.is_empty() {
        if let Some((key, tail)) = rest.strip_prefix("[\"").and_then(|r| r.split_once("\"]")) {
            steps.push(Step::Key(key));
            rest = tail;
        } else if let Some((index, tail)) = rest.strip_prefix('[').and_then(|r| r.split_once(']')) {
            steps.extend(index.parse().ok().map(Step::Index));
            rest = tail;
        } else {
            rest = rest.strip_prefix('.').unwrap_or(rest);
            let end = rest.find(['.', '[']).unwrap_or(rest.len());
            if end == 0 {
                break;
            }
            steps.push(Step::Key(&rest[..end]));
            rest = &rest[end..];
        }
    }
    steps
}

#[cfg(test)]
mod tests {
    use super::super::yaml;
    use super::line_of;

    #[test]
    fn fields_have_lines() {
        let text = "kind: X\nspec:\n  ports:\n  - port: 1\n  - port: 2\n    name: a\nmeta:\n  notes:\n    a.b/c: x\n";
        let root = yaml::tree(text).unwrap();
        let check = |path: &str, expected: u64| assert_eq!(line_of(&root, path), Some(expected), "{path}");
        check("", 1);
        check("kind", 1);
        check("spec.ports[1].port", 5);
        check("spec.ports[1].name", 6);
        // What isn't there has the line of what it would be in.
        check("spec.ports[1].protocol", 5);
        check("meta.notes[\"a.b/c\"]", 9);
    }
}
