//! SPDX licence expressions, as far as crates use them: `OR`, `AND`, `WITH`, parentheses, and the old `/` for `OR`.

/// Licences that we take: permissive, without a condition beyond keeping the notice.
const ALLOWED: [&str; 10] = [
    "MIT",
    "MIT-0",
    "Apache-2.0",
    "Apache-2.0 WITH LLVM-exception",
    "BSD-2-Clause",
    "BSD-3-Clause",
    // The words of BSD-2-Clause, but fewer: all of TLS in Rust is under it.
    "ISC",
    "0BSD",
    "Unicode-3.0",
    "Zlib",
];

/// Whether an expression leaves us a choice that we take. What can't be read is refused.
pub fn allowed(expression: &str) -> bool {
    let spaced = expression.replace('/', " OR ").replace('(', " ( ").replace(')', " ) ");
    let words: Vec<&str> = spaced.split_whitespace().collect();
    let mut rest = words.as_slice();
    any(&mut rest) == Some(true) && rest.is_empty()
}

fn any(words: &mut &[&str]) -> Option<bool> {
    let mut good = all(words)?;
    while let Some(("OR", rest)) = words.split_first().map(|(w, r)| (*w, r)) {
        *words = rest;
        good |= all(words)?;
    }
    Some(good)
}

fn all(words: &mut &[&str]) -> Option<bool> {
    let mut good = one(words)?;
    while let Some(("AND", rest)) = words.split_first().map(|(w, r)| (*w, r)) {
        *words = rest;
        good &= one(words)?;
    }
    Some(good)
}

fn one(words: &mut &[&str]) -> Option<bool> {
    match **words {
        ["(", ref rest @ ..] => {
            *words = rest;
            let good = any(words)?;
            let (end, rest) = words.split_first()?;
            *words = rest;
            (*end == ")").then_some(good)
        }
        [name, "WITH", exception, ref rest @ ..] => {
            *words = rest;
            Some(ALLOWED.contains(&format!("{name} WITH {exception}").as_str()))
        }
        [name, ref rest @ ..] if !["OR", "AND", "WITH", ")"].contains(&name) => {
            *words = rest;
            Some(ALLOWED.contains(&name))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::allowed;

    #[track_caller]
    fn check(expression: &str, expected: bool) {
        assert_eq!(allowed(expression), expected, "{expression}");
    }

    #[test]
    fn expressions() {
        check("MIT", true);
        check("MIT/Apache-2.0", true);
        check("MIT OR GPL-3.0", true);
        check("GPL-3.0-only", false);
        check("(MIT OR Apache-2.0) AND Unicode-3.0", true);
        check("MIT AND ISC", true);
        check("MIT AND GPL-3.0", false);
        check("Apache-2.0 WITH LLVM-exception", true);
        check("GPL-2.0 WITH LLVM-exception", false);
        check("(MIT", false);
        check("MIT Apache-2.0", false);
        check("", false);
    }
}
