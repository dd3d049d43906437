//! One YAML document as a tree, in one pass and without recursion.
//!
//! What always holds: a tree has no more values than its text has bytes and [`FEW`] more, what aliases repeat included, and is at most [`DEEPEST`] deep. Plain
//! words mean what they mean to kubectl, which reads YAML 1.1 (go-yaml 2, `resolve.go`); numbers that people take for others are refused where
//! they are read.

use std::borrow::Cow;
use std::collections::{HashMap, HashSet};

use granit_parser::{ErrorKind, Event, Options, Parser, ScalarStyle, Tag};

use super::error::{ObjectError, keyed};
use super::tree::{Content, MOST_VALUES, Node, each_once, given_twice, repeated, too_many};

/// Mappings and lists in each other. Objects of Kubernetes' own kinds have fewer than twenty, the schema of a large custom resource about forty.
pub const DEEPEST: usize = 64;
/// Values that a text may have whatever its length.
const FEW: usize = 64;
/// As [`DEEPEST`], where only places are asked for: JSON goes deeper.
const DEEPEST_PLACES: usize = 128;

/// What is made of keys that stand twice.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum Doubles {
    /// An error of the document.
    #[default]
    Refused,
    /// One key, at its last place.
    AsOne,
}

/// Reads a text that is one document.
///
/// # Errors
/// When it is no YAML, or has a key twice, or exceeds a limit: with the line, and the field where there is one.
pub fn tree(text: &str) -> Result<Node<'_>, ObjectError> {
    grow(text, Builder { deepest: DEEPEST, ..Builder::default() })
}

/// A tree that tells where the values of a JSON text stand, which may be deeper than those of YAML, and have keys twice.
pub(super) fn places(text: &str) -> Result<Node<'_>, ObjectError> {
    grow(text, Builder { deepest: DEEPEST_PLACES, doubles: Doubles::AsOne, ..Builder::default() })
}

fn grow<'a>(text: &'a str, mut builder: Builder<'a>) -> Result<Node<'a>, ObjectError> {
    builder.most = MOST_VALUES.min(text.len() + FEW);
    let mut options = Options::default();
    options.set_emit_comments(false);
    for event in Parser::new_from_str_with_options(text, options) {
        let (event, span) = event.map_err(|error| {
            let reason = match error.kind() {
                ErrorKind::RecursionLimitExceeded => too_deep(builder.deepest),
                kind => format!("this is not YAML: {kind}"),
            };
            let mut wrong = ObjectError::at("", reason);
            wrong.line = Some(error.marker().line() as u64).filter(|line| *line > 0);
            wrong
        })?;
        let line = u32::try_from(span.start.line()).unwrap_or(0);
        builder.take(event, line).map_err(|wrong| {
            let mut error = ObjectError::at(builder.path(), wrong.reason);
            error.line = Some(u64::from(wrong.line.unwrap_or(line))).filter(|line| *line > 0);
            error
        })?;
    }
    Ok(builder.root.unwrap_or(Node { line: 0, content: Content::Null }))
}

/// Why there is no tree.
struct Wrong {
    /// Where, if not at what was read last.
    line: Option<u32>,
    reason: String,
}

impl From<String> for Wrong {
    fn from(reason: String) -> Self {
        Self { line: None, reason }
    }
}

impl From<&str> for Wrong {
    fn from(reason: &str) -> Self {
        reason.to_owned().into()
    }
}

/// A mapping's key.
#[derive(Debug, Clone)]
enum Key<'a> {
    Text(Cow<'a, str>),
    /// `<<`: its value's entries stand for entries of this mapping, where it has none of the name.
    Merge,
    /// No text. No field is called so; in a mapping of texts the entry is an error.
    Odd,
}

#[derive(Debug)]
enum Inside<'a> {
    List(Vec<Node<'a>>),
    Map { entries: Vec<(Key<'a>, Node<'a>)>, key: Option<Key<'a>> },
}

/// A mapping or a list that has begun.
#[derive(Debug)]
struct Open<'a> {
    line: u32,
    anchor: usize,
    /// Values before it.
    before: usize,
    /// How deep it has got below it.
    height: usize,
    inside: Inside<'a>,
}

/// What an alias repeats.
#[derive(Debug)]
struct Anchored<'a> {
    node: Node<'a>,
    values: usize,
    height: usize,
}

#[derive(Debug, Default)]
struct Builder<'a> {
    open: Vec<Open<'a>>,
    root: Option<Node<'a>>,
    anchors: HashMap<usize, Anchored<'a>>,
    values: usize,
    most: usize,
    deepest: usize,
    doubles: Doubles,
}

impl<'a> Builder<'a> {
    fn take(&mut self, event: Event<'a>, line: u32) -> Result<(), Wrong> {
        match event {
            Event::DocumentStart(..) if self.root.is_some() => {
                Err("another document begins here; write --- between the two".into())
            }
            Event::Scalar(text, style, anchor, tag) => self.scalar(text, style, anchor, tag.as_deref(), line),
            Event::SequenceStart(_, anchor, _) => self.begin(Inside::List(Vec::new()), anchor, line),
            Event::MappingStart(_, anchor, _) => {
                self.begin(Inside::Map { entries: Vec::new(), key: None }, anchor, line)
            }
            Event::SequenceEnd | Event::MappingEnd => self.end(),
            Event::Alias(id) => {
                let Some(anchored) = self.anchors.get(&id) else {
                    return Err("an alias stands inside what it repeats".into());
                };
                let (values, height) = (anchored.values, anchored.height);
                if self.open.len() + height > self.deepest {
                    return Err(too_deep(self.deepest).into());
                }
                self.count(values)?;
                let content = self.anchors[&id].node.content.clone();
                self.put(Node { line, content }, height)
            }
            _ => Ok(()),
        }
    }

    fn scalar(
        &mut self,
        text: Cow<'a, str>,
        style: ScalarStyle,
        anchor: usize,
        tag: Option<&Tag>,
        line: u32,
    ) -> Result<(), Wrong> {
        if let Some(Open { inside: Inside::Map { key: key @ None, .. }, .. }) = self.open.last_mut() {
            *key = Some(match &*text {
                "<<" if style == ScalarStyle::Plain => Key::Merge,
                _ => Key::Text(text.clone()),
            });
            let node = Node { line, content: Content::Text(text) };
            return self.remember(anchor, &node, 1, 0);
        }
        self.count(1)?;
        let node = Node { line, content: meant(text, style, tag) };
        self.remember(anchor, &node, 1, 0)?;
        self.put(node, 0)
    }

    fn begin(&mut self, inside: Inside<'a>, anchor: usize, line: u32) -> Result<(), Wrong> {
        if self.open.len() >= self.deepest {
            return Err(too_deep(self.deepest).into());
        }
        self.open.push(Open { line, anchor, before: self.values, height: 0, inside });
        self.count(1)
    }

    fn end(&mut self) -> Result<(), Wrong> {
        let Some(Open { line, anchor, before, height, inside }) = self.open.pop() else { return Ok(()) };
        let content = match inside {
            Inside::List(items) => Content::List(items),
            Inside::Map { entries, .. } => Content::Map(mapping(entries, self.doubles)?),
        };
        let node = Node { line, content };
        self.remember(anchor, &node, self.values - before, height + 1)?;
        self.put(node, height + 1)
    }

    /// Puts a value where it belongs.
    fn put(&mut self, node: Node<'a>, height: usize) -> Result<(), Wrong> {
        let Some(open) = self.open.last_mut() else {
            self.root = Some(node);
            return Ok(());
        };
        open.height = open.height.max(height);
        match &mut open.inside {
            Inside::List(items) => items.push(node),
            Inside::Map { entries, key } => match key.take() {
                Some(name) => entries.push((name, node)),
                None => {
                    *key = Some(match node.content {
                        Content::Text(text) => Key::Text(text),
                        _ => Key::Odd,
                    });
                }
            },
        }
        Ok(())
    }

    fn remember(
        &mut self,
        anchor: usize,
        node: &Node<'a>,
        values: usize,
        height: usize,
    ) -> Result<(), Wrong> {
        if anchor != 0 {
            // What is kept counts as well, or anchors inside each other would be as costly as aliases.
            self.count(values)?;
            self.anchors.insert(anchor, Anchored { node: node.clone(), values, height });
        }
        Ok(())
    }

    fn count(&mut self, values: usize) -> Result<(), Wrong> {
        self.values += values;
        if self.values > MOST_VALUES {
            return Err(too_many().into());
        }
        if self.values > self.most {
            return Err("its aliases make more of it than it has characters; write it out".into());
        }
        Ok(())
    }

    /// Where the text has been read to.
    fn path(&self) -> String {
        self.open.iter().fold(String::new(), |path, open| match &open.inside {
            Inside::List(items) => format!("{path}[{}]", items.len()),
            Inside::Map { key: Some(Key::Text(key)), .. } => keyed(&path, key),
            Inside::Map { .. } => path,
        })
    }
}

fn too_deep(deepest: usize) -> String {
    format!("it is nested more than {deepest} deep; no object of Kubernetes is")
}

/// A mapping's entries, merged and each there once.
fn mapping<'a>(
    entries: Vec<(Key<'a>, Node<'a>)>,
    doubles: Doubles,
) -> Result<Vec<(Cow<'a, str>, Node<'a>)>, Wrong> {
    let mut own = Vec::with_capacity(entries.len());
    let mut merged = Vec::new();
    for (key, node) in entries {
        match key {
            Key::Text(key) => own.push((key, node)),
            Key::Merge => merged.push(node),
            Key::Odd => {
                let content = Content::Odd("a key is no text; write one".into());
                own.push((Cow::Borrowed(""), Node { line: node.line, content }));
            }
        }
    }
    if let Some(at) = repeated(own.iter().map(|(key, _)| key)) {
        if doubles == Doubles::AsOne {
            return Ok(each_once(own));
        }
        let (key, node) = &own[at];
        return Err(Wrong { line: Some(node.line), reason: given_twice(key) });
    }
    if merged.is_empty() {
        return Ok(own);
    }
    let mut known: HashSet<Cow<'a, str>> = own.iter().map(|(key, _)| key.clone()).collect();
    for node in merged {
        let maps = match node.content {
            Content::List(items) => items,
            _ => vec![node],
        };
        for map in maps {
            let Content::Map(entries) = map.content else {
                return Err("<< takes a mapping, or a list of some".into());
            };
            own.extend(entries.into_iter().filter(|(key, _)| known.insert(key.clone())));
        }
    }
    Ok(own)
}

/// What a scalar means.
fn meant<'a>(text: Cow<'a, str>, style: ScalarStyle, tag: Option<&Tag>) -> Content<'a> {
    let Some(tag) = tag else {
        return if style == ScalarStyle::Plain { plain(text) } else { Content::Text(text) };
    };
    let odd = |what: &str| Content::Odd(format!("{text:?} is no {what}, as its tag says").into());
    match tag.core_suffix() {
        Some("null") if matches!(plain(text.clone()), Content::Null) => Content::Null,
        Some("null") => odd("null"),
        Some("bool") => match plain(text.clone()) {
            truth @ Content::Truth(_) => truth,
            _ => odd("truth value"),
        },
        Some("int" | "float") => match plain(text.clone()) {
            number @ (Content::Unsigned(_) | Content::Signed(_) | Content::Float(_)) => number,
            _ => odd("number"),
        },
        _ if tag.suffix_in_namespace("tag:yaml.org,2002:").as_deref() == Some("binary") => {
            Content::Odd("it is binary; write it as a text".into())
        }
        _ => Content::Text(text),
    }
}

/// What a word without quotes means.
fn plain(text: Cow<'_, str>) -> Content<'_> {
    match &*text {
        "" | "~" | "null" | "Null" | "NULL" => Content::Null,
        "y" | "Y" | "yes" | "Yes" | "YES" | "true" | "True" | "TRUE" | "on" | "On" | "ON" => {
            Content::Truth(true)
        }
        "n" | "N" | "no" | "No" | "NO" | "false" | "False" | "FALSE" | "off" | "Off" | "OFF" => {
            Content::Truth(false)
        }
        ".nan" | ".NaN" | ".NAN" | ".inf" | ".Inf" | ".INF" | "+.inf" | "+.Inf" | "+.INF" | "-.inf"
        | "-.Inf" | "-.INF" => Content::Odd(format!("{text} is no number that JSON has").into()),
        word => match number(word) {
            Some(number) => number,
            None => Content::Text(text),
        },
    }
}

/// True for a word without quotes that is a text all the same.
pub(super) fn is_text(word: &str) -> bool {
    matches!(plain(Cow::Borrowed(word)), Content::Text(_))
}

fn number(word: &str) -> Option<Content<'static>> {
    if !word.starts_with(|c: char| c.is_ascii_digit() || matches!(c, '+' | '-' | '.')) {
        return None;
    }
    let plain = word.replace('_', "");
    let (is_negative, rest) = match plain.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, plain.strip_prefix('+').unwrap_or(&plain)),
    };
    let whole = |digits: &str, radix: u32| {
        if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_alphanumeric()) {
            return None;
        }
        let value = u64::from_str_radix(digits, radix).ok()?;
        match is_negative {
            true => 0_i64.checked_sub_unsigned(value).map(Content::Signed),
            false => Some(Content::Unsigned(value)),
        }
    };
    let radix = |prefix: &str| match prefix {
        "0x" | "0X" => Some(16),
        "0o" | "0O" => Some(8),
        "0b" | "0B" => Some(2),
        _ => None,
    };
    if let Some((prefix, digits)) = rest.split_at_checked(2)
        && let Some(radix) = radix(prefix)
    {
        return whole(digits, radix);
    }
    if rest.len() > 1 && rest.starts_with('0') && rest.bytes().all(|b| b.is_ascii_digit()) {
        return Some(zero_in_front(word, rest));
    }
    let is_number = |b: u8| b.is_ascii_digit() || matches!(b, b'.' | b'e' | b'E' | b'+' | b'-');
    whole(rest, 10).or_else(|| {
        let value: f64 = plain.bytes().all(is_number).then(|| plain.parse().ok()).flatten()?;
        value.is_finite().then_some(Content::Float(value))
    })
}

/// YAML 1.1 counts such a number by eights, YAML 1.2 by tens, and people mean either.
fn zero_in_front(word: &str, digits: &str) -> Content<'static> {
    let by_tens = digits.trim_start_matches('0');
    let by_tens = if by_tens.is_empty() { "0" } else { by_tens };
    let sign = if word.starts_with('-') && by_tens != "0" { "-" } else { "" };
    let reason = match u64::from_str_radix(digits, 8) {
        Ok(by_eights) if by_eights.to_string() != by_tens => {
            format!(
                "{word} begins with 0, so that kubectl reads it as {sign}{by_eights}; write {sign}{by_eights} or {sign}{by_tens}, or a text in quotes"
            )
        }
        _ => format!("{word} begins with 0; write {sign}{by_tens}, or a text in quotes"),
    };
    Content::Odd(reason.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_mean_what_they_mean_to_kubectl() {
        let check = |word: &str, expected: Content<'_>| {
            let text = format!("a: {word}\n");
            assert_eq!(tree(&text).unwrap().get("a").unwrap().content, expected, "{word}");
        };
        let text = |word: &'static str| Content::Text(word.into());
        check("", Content::Null);
        check("~", Content::Null);
        check("nULL", text("nULL"));
        check("y", Content::Truth(true));
        check("Off", Content::Truth(false));
        check("oFF", text("oFF"));
        check("0", Content::Unsigned(0));
        check("-7", Content::Signed(-7));
        check("+1_000", Content::Unsigned(1000));
        check("0o17", Content::Unsigned(15));
        check("0x1F", Content::Unsigned(31));
        check("-0b11", Content::Signed(-3));
        check("0x", text("0x"));
        check("0x+1", text("0x+1"));
        check("1.5e3", Content::Float(1500.0));
        check(".5", Content::Float(0.5));
        check("99999999999999999999", Content::Float(1e20));
        check("1e999", text("1e999"));
        check("2026-11-21", text("2026-11-21"));
        check("10.0.0.1", text("10.0.0.1"));
        check("1:30", text("1:30"));
        check("-x", text("-x"));
        check("'7'", text("7"));
        check("!!str 7", text("7"));
        check("!!int '7'", Content::Unsigned(7));
        check("!mine 7", text("7"));
        check("'<<'", text("<<"));
        let odd = |word: &str, part: &str| {
            let text = format!("a: {word}\n");
            let Content::Odd(reason) = tree(&text).unwrap().get("a").unwrap().content.clone() else {
                panic!("{word}")
            };
            assert!(reason.contains(part), "{word}: {reason}");
        };
        odd("0123", "kubectl reads it as 83; write 83 or 123");
        odd("089", "write 89");
        odd("-0123", "kubectl reads it as -83; write -83 or -123");
        odd("-089", "write -89");
        odd("-00", "write 0,");
        odd("-.inf", "no number that JSON has");
        odd("!!binary aGk=", "binary");
        odd("!!int x", "as its tag says");
    }

    #[test]
    fn aliases_repeat_and_merge() {
        let text = "a: &a {x: 1, y: 2}\nb: {<<: *a, y: 3}\nc: {<<: [*a, {z: 4}]}\nd: *a\n";
        let root = tree(text).unwrap();
        let of = |map: &str, key: &str| {
            root.get(map).and_then(|node| node.get(key)).map(|node| node.content.clone())
        };
        assert_eq!(of("b", "x"), Some(Content::Unsigned(1)));
        assert_eq!(of("b", "y"), Some(Content::Unsigned(3)));
        assert_eq!(of("c", "z"), Some(Content::Unsigned(4)));
        assert_eq!(of("d", "y"), Some(Content::Unsigned(2)));
        assert_eq!(root.get("d").unwrap().line, 4);
    }

    #[test]
    fn what_is_wrong_has_its_line_and_field() {
        let check = |text: &str, field: &str, line: u64, part: &str| {
            let error = tree(text).unwrap_err();
            assert_eq!((&*error.field, error.line), (field, Some(line)), "{text}: {error}");
            assert!(error.reason.contains(part), "{text}: {error}");
        };
        check("a:\n  b: 1\n  b: 2\nc: 3\n", "a", 3, "\"b\" is given twice");
        check("a: &a [*a]\n", "a[0]", 1, "inside what it repeats");
        check("a: 1\n...\nb: 2\n", "", 3, "another document");
        check("a: {<<: 7}\n", "a", 1, "<< takes a mapping");
        check("a: [\n", "", 1, "this is not YAML");
        check("a: *b\n", "", 1, "unknown anchor");
        let deep = format!("a:\n  {}{}\n", "[".repeat(200), "]".repeat(200));
        let error = tree(&deep).unwrap_err();
        assert_eq!(error.line, Some(2));
        assert!(error.reason.contains("nested more than 64 deep"), "{error}");
        let within = format!("{}{}", "[".repeat(DEEPEST), "]".repeat(DEEPEST));
        assert!(tree(&within).is_ok());
        let by_alias = format!("a: &a {}{}\nb: [[[[[*a]]]]]\n", "[".repeat(62), "]".repeat(62));
        assert!(tree(&by_alias).unwrap_err().reason.contains("deep"));
    }

    #[test]
    fn a_key_that_is_no_text_is_no_error_before_it_is_read() {
        let root = tree("a: {? {b: c} : d, ? [1] : e, f: 1}\n").unwrap();
        let Content::Map(entries) = &root.get("a").unwrap().content else { panic!() };
        let odd = |content: &Content<'_>| matches!(content, Content::Odd(_));
        assert!(odd(&entries[0].1.content) && odd(&entries[1].1.content) && !odd(&entries[2].1.content));
    }
}
