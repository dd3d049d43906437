//! What is wrong with an object: which one, where in it, why.

use std::fmt;

/// Why an object, or a whole document, is no fact.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ObjectError {
    /// The object as a person would name it (`service shop/web`); empty where the document doesn't get that far.
    pub object: String,
    /// Path of the field, such as `spec.ports[1].port`; empty for the document as a whole.
    pub field: String,
    /// Line in the document, counted from 1, where it is known.
    pub line: Option<u64>,
    /// What is wrong, with the value and the mend.
    pub reason: String,
}

impl ObjectError {
    pub(crate) fn at(field: impl Into<String>, reason: impl fmt::Display) -> Self {
        Self { object: String::new(), field: field.into(), line: None, reason: reason.to_string() }
    }

    /// Says of which object the error is, unless that is known.
    pub(crate) fn of(mut self, object: &str) -> Self {
        if self.object.is_empty() {
            self.object = object.to_owned();
        }
        self
    }

    /// Counts its line from further up.
    pub(crate) fn moved(mut self, lines: u64) -> Self {
        self.line = self.line.map(|line| line + lines);
        self
    }

    /// Puts `prefix` before the field.
    pub(crate) fn under(mut self, prefix: &str) -> Self {
        self.field = match self.field.as_str() {
            "" => prefix.to_owned(),
            field if field.starts_with('[') => format!("{prefix}{field}"),
            field => format!("{prefix}.{field}"),
        };
        self
    }
}

/// Whatever the text is that is wrong, what is said of it fits a screen.
impl fmt::Display for ObjectError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for part in [&self.object, &self.field] {
            if !part.is_empty() {
                write!(f, "{}: ", Shortened(part))?;
            }
        }
        Shortened(&self.reason).fmt(f)
    }
}

/// A text whose middle is left out where it is long.
struct Shortened<'a>(&'a str);

impl fmt::Display for Shortened<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const BEGIN: usize = 400;
        const END: usize = 200;
        let text = self.0;
        if text.len() <= BEGIN + END {
            return f.write_str(text);
        }
        let begin = (0..=BEGIN).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0);
        let end = (text.len() - END..text.len()).find(|at| text.is_char_boundary(*at)).unwrap_or(text.len());
        write!(f, "{} … {}", &text[..begin], &text[end..])
    }
}

impl std::error::Error for ObjectError {}

/// A field's path with an entry of a map added; keys with dots or slashes go into brackets.
pub(crate) fn keyed(path: &str, key: &str) -> String {
    if key.contains(['.', '/', '[', ']']) {
        format!("{path}[\"{key}\"]")
    } else if path.is_empty() {
        key.to_owned()
    } else {
        format!("{path}.{key}")
    }
}

/// The path where a deserializer stopped, in our form.
pub(crate) fn path_of(path: &serde_path_to_error::Path) -> String {
    use serde_path_to_error::Segment;
    path.iter().fold(String::new(), |text, segment| match segment {
        Segment::Seq { index } => format!("{text}[{index}]"),
        Segment::Map { key } => keyed(&text, key),
        Segment::Enum { variant } => keyed(&text, variant),
        Segment::Unknown => text,
    })
}

/// What a deserializer says of a value of the wrong type, in a person's words.
pub(crate) fn plainly(reason: &str) -> String {
    let said = reason.strip_prefix("invalid type: ").or_else(|| reason.strip_prefix("invalid value: "));
    let Some((found, wanted)) = said.and_then(|said| said.rsplit_once(", expected ")) else {
        return reason.to_owned();
    };
    let (kind, value) = found.split_once(' ').unwrap_or((found, ""));
    let is_number = matches!(kind, "integer" | "floating");
    let value = value.strip_prefix("point ").unwrap_or(value).trim_matches('`');
    let found = match kind {
        "integer" | "floating" => format!("the number {value}"),
        "boolean" => value.to_owned(),
        "string" => format!("the text {value}"),
        "sequence" => "a list".to_owned(),
        "map" => "a mapping".to_owned(),
        "unit" | "null" => "nothing".to_owned(),
        _ => found.to_owned(),
    };
    let wanted = match wanted {
        // In YAML a label `1` or `no` is a number or a truth.
        "a string" if is_number || kind == "boolean" => {
            return format!("a text is wanted, and this is {found}; put it in quotes");
        }
        "a string" => "a text",
        "a sequence" => "a list",
        "a boolean" => "true or false",
        "u8" => "a whole number from 0 to 255",
        "u32" => "a whole number",
        other => other,
    };
    format!("{wanted} is wanted, and this is {found}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn types_have_names_that_people_use() {
        let check = |reason: &str, expected: &str| assert_eq!(plainly(reason), expected);
        check(
            "invalid type: string \"http\", expected u32",
            "a whole number is wanted, and this is the text \"http\"",
        );
        check(
            "invalid type: integer `1`, expected a string",
            "a text is wanted, and this is the number 1; put it in quotes",
        );
        check(
            "invalid value: integer `300`, expected u8",
            "a whole number from 0 to 255 is wanted, and this is the number 300",
        );
        check("invalid type: sequence, expected a mapping", "a mapping is wanted, and this is a list");
        check("invalid type: unit value, expected a mapping", "a mapping is wanted, and this is nothing");
        check("it is binary; write it as a text", "it is binary; write it as a text");
    }

    #[test]
    fn what_is_said_fits_a_screen() {
        let long = "ö".repeat(1 << 20);
        let error = ObjectError::at(format!("metadata.labels.{long}"), format!("{long:?} is wrong; mend it"));
        let text = error.to_string();
        assert!(text.len() < 1500 && text.ends_with("is wrong; mend it"), "{text}");
    }
}
