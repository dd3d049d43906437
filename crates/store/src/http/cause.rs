//! An error in words.

/// An error with what it was caused by: hyper's own words end at "connection error". What is said already isn't said again.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(inner) = source {
        let inner_text = inner.to_string();
        if !text.contains(&inner_text) {
            text = format!("{text}: {inner_text}");
        }
        source = inner.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::chain;

    #[derive(Debug, thiserror::Error)]
    #[error("{0}")]
    struct Outer(&'static str, #[source] std::io::Error);

    #[test]
    fn a_cause_is_named_once() {
        let cause = || std::io::Error::other("no route");
        assert_eq!(chain(&Outer("connection error", cause())), "connection error: no route");
        assert_eq!(chain(&Outer("connection error (no route)", cause())), "connection error (no route)");
    }
}
