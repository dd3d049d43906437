//! Everybody's words together, and what there is to tell of them: pure.

use std::collections::{BTreeMap, BTreeSet};

use weft_model::FactKey;

use super::board::Board;
use super::gathered::{Gathered, counted};
use super::table::{Missing, Table, Which};
use super::{Manifest, Writer};
use crate::store::{Event, Remark};

/// Changes delivered together at most.
const CHUNK: usize = 1024;
/// Objects that stand twice in one text and are told one by one.
const MOST_TWICE: usize = 5;

/// What all texts say, and the notices about them.
#[derive(Debug)]
pub(crate) struct Words {
    pub table: Table,
    pub board: Board,
    /// What people call one of the texts: `file`, `key`.
    text: &'static str,
    /// What is said of objects that several texts hold.
    shared: Gathered,
}

impl Words {
    /// Nothing said yet, in texts that people call `text`.
    pub fn of(text: &'static str) -> Self {
        Self { table: Table::default(), board: Board::default(), text, shared: Gathered::default() }
    }

    /// Takes in what a text says now.
    pub fn accept(&mut self, path: &str, writer: &Writer, mut manifest: Manifest) {
        let missing = missing(&manifest);
        let twice = self.table.set_file(
            path,
            writer,
            std::mem::take(&mut manifest.facts),
            manifest.published_at,
            missing,
        );
        let unknown = std::mem::take(&mut manifest.unknown);
        self.board.set_file(path, remarks(manifest, path, self.text, &twice), &unknown);
    }

    /// A text is gone.
    pub fn withdraw(&mut self, path: &str, writer: &Writer) {
        self.board.set_file(path, Vec::new(), &BTreeSet::new());
        self.table.set_file(path, writer, Vec::new(), 0, Missing::Remove);
    }

    /// A text can't be read at all; what it said stays.
    pub fn pass_over(&mut self, path: &str, reason: &str) {
        let text = format!("{reason}. What was in force of it stays");
        let notices = vec![(path.to_owned(), Remark::Unread { text, only: None })];
        self.board.set_file(path, notices, &BTreeSet::new());
    }

    /// What there is to tell since the last call.
    pub fn drain(&mut self) -> Vec<Event> {
        let mut events = self.tell(Which::All);
        events.extend(self.board.drain());
        events
    }

    /// The same, without notices and without objects that other texts have a part of: for telling while texts are still read.
    pub fn drain_decided(&mut self) -> Vec<Event> {
        self.tell(Which::Decided)
    }

    fn tell(&mut self, which: Which) -> Vec<Event> {
        let (changes, holders) = self.table.drain(which);
        for (key, paths) in holders {
            let remark = match &paths[..] {
                [first, others @ ..] if !others.is_empty() => {
                    let few = others[..others.len().min(MOST_TWICE)].join(", ");
                    let others = match others.len().saturating_sub(MOST_TWICE) {
                        0 => few,
                        more => format!("{few}, {} more", counted(more)),
                    };
                    Some(Remark::Warning(format!(
                        "{others} and {first} both hold it; {first} counts, since its path comes first. Remove one"
                    )))
                }
                _ => None,
            };
            self.shared.set(key.to_string(), remark);
        }
        let several = |more: String| {
            Remark::Warning(format!(
                "{more} more of them stand in several {}s; the first path counts",
                self.text
            ))
        };
        for (about, remark) in self.shared.told("objects", several) {
            self.board.set(&about, remark);
        }
        let mut events = Vec::new();
        let mut changes = changes.into_iter().peekable();
        while changes.peek().is_some() {
            events.push(Event::Changes(changes.by_ref().take(CHUNK).collect()));
        }
        events
    }
}

/// What becomes of what a text said before and says no more.
fn missing(manifest: &Manifest) -> Missing {
    if manifest.errors.is_empty() { Missing::Remove } else { Missing::Keep }
}

/// What there is to say of a text, as people call it, and of what, but for the kinds in it. `twice` are the objects that stand in it twice.
fn remarks(manifest: Manifest, path: &str, text: &str, twice: &[FactKey]) -> Vec<(String, Remark)> {
    let missing = missing(&manifest);
    let mut notices: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for (line, said) in manifest.errors {
        let about = line.map_or(path.to_owned(), |line| format!("{path}:{line}"));
        let said = format!("{said}. What was in force of it stays; mend the {text}");
        notices.entry(about).or_default().push(said);
    }
    let mut of_text = Vec::new();
    if manifest.more_errors > 0 {
        of_text.push(format!("{} more objects in it can't be read", counted(manifest.more_errors)));
    }
    of_text.extend(
        twice.iter().take(MOST_TWICE).map(|key| format!("{key} stands in it twice; the first one counts")),
    );
    if twice.len() > MOST_TWICE {
        of_text.push(format!("and so do {} more", counted(twice.len() - MOST_TWICE)));
    }
    if !of_text.is_empty() {
        notices.entry(path.to_owned()).or_default().append(&mut of_text);
    }
    let remark = |text| match missing {
        Missing::Keep => Remark::Unread { text, only: None },
        Missing::Remove => Remark::Warning(text),
    };
    let mut notices: Vec<(String, Remark)> =
        notices.into_iter().map(|(about, texts)| (about, remark(texts.join("; ")))).collect();
    if manifest.more_unknown > 0 {
        let count = counted(manifest.more_unknown);
        let text = format!("Weft has no use for {count} more objects of other kinds, and passes them over");
        notices.push((format!("kinds in {path}"), Remark::Info(text)));
    }
    notices
}

#[cfg(test)]
mod tests {
    use weft_model::Change;

    use super::super::{Form, take_apart};
    use super::*;
    use crate::object::Interner;
    use crate::store::Notice;

    const GOOD: &str = "apiVersion: v1\nkind: Service\nmetadata: {name: web, namespace: shop}\nspec:\n  ports: [{port: 80}]\n";

    /// A file, and what is told of it: changes and notices in words.
    struct Heard {
        words: Words,
        names: Interner,
    }

    impl Heard {
        fn new() -> Self {
            Self { words: Words::of("file"), names: Interner::default() }
        }

        fn put(&mut self, path: &str, text: &str) -> Vec<String> {
            let form = if path.ends_with(".json") { Form::Json } else { Form::Yaml };
            let manifest = take_apart(form, &Writer::User, text, &mut self.names);
            self.words.accept(path, &Writer::User, manifest);
            let of_change = |change: Change| match change {
                Change::Set(fact) => format!("set {}", fact.key()),
                Change::Remove(key) => format!("remove {key}"),
            };
            let said = |event| match event {
                Event::Changes(changes) => changes.into_iter().map(of_change).collect(),
                Event::Notice(Notice { about, text: Some(remark) }) => {
                    vec![format!("{about}: {}", remark.text())]
                }
                Event::Notice(Notice { about, text: None }) => vec![format!("{about} is mended")],
                other => vec![format!("{other:?}")],
            };
            self.words.drain().into_iter().flat_map(said).collect()
        }
    }

    /// Puts `text` in the place of a good service: it is broken, and takes nothing away.
    fn check_broken(path: &str, text: &str, expected: &str) {
        let mut heard = Heard::new();
        assert_eq!(
            heard.put(path, if path.ends_with(".json") { JSON } else { GOOD }),
            ["set service shop/web"]
        );
        let said = heard.put(path, text);
        let shown = &text[..text.len().min(200)];
        assert!(said.iter().all(|line| !line.starts_with("remove")), "{shown}: {said:?}");
        assert!(said.first().is_some_and(|line| line.contains(expected)), "{shown}: {said:?}");
        assert!(said[0].ends_with("What was in force of it stays; mend the file"), "{shown}: {said:?}");
    }

    const JSON: &str = r#"{"apiVersion":"v1","kind":"Service","metadata":{"name":"web","namespace":"shop"},"spec":{"ports":[{"port":80}]}}"#;

    #[test]
    fn a_list_where_a_mapping_belongs_is_an_error_of_its_field() {
        let head = "apiVersion: v1\nkind: Service\n";
        check_broken("a.yaml", "- v1\n- Service\n- {name: web}\n", "a.yaml:1: it is a list where an object");
        check_broken(
            "a.yaml",
            &format!("{head}metadata: [web, shop]\n"),
            "a.yaml:3: service: metadata: a mapping is wanted, and this is a list",
        );
        let ports = "metadata: {name: web, namespace: shop}\nspec:\n  ports:\n  - [http, TCP, 80]\n";
        check_broken(
            "a.yaml",
            &format!("{head}{ports}"),
            "a.yaml:6: service shop/web: spec.ports[0]: a mapping is wanted, and this is a list",
        );
        check_broken("a.json", r#"["v1", "Service", {"name": "web"}]"#, "a.json:1: it is a list");
        check_broken(
            "a.json",
            "{\"apiVersion\":\"v1\",\"kind\":\"Service\",\n\"metadata\":[\"web\",\"shop\"]}",
            "a.json:2: service: metadata: a mapping is wanted, and this is a list",
        );
        check_broken(
            "a.json",
            r#"{"apiVersion":"v1","kind":"List","items":[["v1","Service",{"name":"web"}]]}"#,
            "items[0]: it is a list",
        );
        check_broken("a.json", r#"["v1","List",[{"apiVersion":"v1","kind":"Namespace"}]]"#, "it is a list");
    }

    #[test]
    fn a_key_that_stands_twice_is_an_error() {
        check_broken("a.yaml", &format!("{GOOD}kind: ConfigMap\n"), "a.yaml:6: \"kind\" is given twice");
        let check = |rest: &str, expected: &str| {
            check_broken(
                "a.json",
                &format!("{{\"apiVersion\":\"v1\",\"kind\":\"Service\",{rest}}}"),
                expected,
            );
        };
        let meta = r#""metadata":{"name":"web","namespace":"shop"}"#;
        check(&format!("{meta},\"kind\":\"ConfigMap\""), "\"kind\" is given twice; remove one");
        check(
            &format!("\n{meta},\n{meta}"),
            "a.json:3: service: metadata: \"metadata\" is given twice; remove one",
        );
        check(
            r#""metadata":{"name":"web","namespace":"shop","labels":{"a":"1","a":"2"}}"#,
            "metadata.labels.a: \"a\" is given twice",
        );
        check(
            &format!("{meta},\"spec\":{{\"selector\":{{}},\"selector\":{{\"a\":\"b\"}}}}"),
            "spec.selector: \"selector\" is",
        );
        let list = |items: &str| format!("{{\"apiVersion\":\"v1\",\"kind\":\"List\",{items}}}");
        let once = r#""items":[]"#;
        check_broken("a.json", &list(&format!("{once},{once}")), "\"items\" is given twice");
        // Where the text begins with a kind, another look goes on to the end.
        for first in ["Service", "ConfigMap"] {
            let item = format!(
                "\"items\":[\n{{\"apiVersion\":\"v1\",\"kind\":\"{first}\",{meta},\"kind\":\"Service\"}}]"
            );
            check_broken("a.json", &list(&item), "a.json:2: items[0].kind: \"kind\" is given twice");
        }
    }

    #[test]
    fn a_kind_that_is_none_is_no_other_kind() {
        let check = |id: &str, expected: &str| {
            check_broken("a.yaml", &format!("metadata: {{name: web, namespace: shop}}\n{id}"), expected);
        };
        check(
            "apiVersion: v1\nkind: 7\n",
            "a.yaml:3: kind: a text is wanted, such as Service, and this is a number",
        );
        check(
            "apiVersion: v1\nkind: [Service]\n",
            "a.yaml:3: kind: a text is wanted, such as Service, and this is a list",
        );
        check("apiVersion: v1\nkind: true\n", "kind: a text is wanted");
        check("apiVersion: 1\nkind: Service\n", "a.yaml:2: apiVersion: a text is wanted, such as v1");
        check("apiVersion: v1\nkind:\n", "kind: it is missing");
        check("apiVersion: v1\n", "a.yaml:1: kind: it is missing");
        check("apiVersion: v1\nkind: '7'\n", "kind: \"7\" is no name of a kind");
        check("apiVersion: v1\nkind: service\n", "kind: \"service\" is unknown; write Service");
        check("apiVersion: V1\nkind: Service\n", "apiVersion: \"V1\" is unknown; write v1");
        check("apiVersion: v1\nkind: ServiceList\n", "items: it is missing");
        let json = |kind: &str| {
            format!("{{\"apiVersion\":\"v1\",\"kind\":{kind},\"metadata\":{{\"name\":\"web\"}}}}")
        };
        check_broken("a.json", &json("7"), "a.json:1: kind: a text is wanted");
        check_broken("a.json", &json("[\"Service\"]"), "kind: a text is wanted");
        check_broken("a.json", &json("null"), "kind: it is missing");
        let typed = format!("{{\"apiVersion\":\"v1\",\"kind\":\"ServiceList\",\"items\":[{}]}}", json("7"));
        check_broken("a.json", &typed, "items[0].kind: a text is wanted");
    }

    #[test]
    fn other_texts_are_errors_with_a_line_in_plain_words() {
        check_broken("scalar.yaml", "\n\nhello\n", "scalar.yaml:3: it is a text where an object is wanted");
        let port = |port: &str| GOOD.replace("80", port);
        check_broken(
            "a.yaml",
            &port("0123"),
            "a.yaml:5: service shop/web: spec.ports[0].port: 0123 begins with 0",
        );
        check_broken("a.yaml", &port(".nan"), "spec.ports[0].port: .nan is no number that JSON has");
        let deep = |levels: usize| format!("{GOOD}status: {}{}\n", "[".repeat(levels), "]".repeat(levels));
        check_broken("a.yaml", &deep(64), "a.yaml:6: status");
        check_broken("a.yaml", &deep(100_000), "nested more than 64 deep");
        let deep = format!(
            "{GOOD}status:\n{}",
            (1..200).map(|i| format!("{}a:\n", " ".repeat(i))).collect::<String>()
        );
        check_broken("a.yaml", &deep, "nested more than 64 deep");
        let deep = format!("{}{}", "[".repeat(500), "]".repeat(500));
        check_broken(
            "a.json",
            &JSON.replace("[{\"port\":80}]", &deep),
            "spec.ports[0]: a mapping is wanted, and this is a list",
        );
        let lists = (0..64).fold(JSON.to_owned(), |inner, _| {
            format!("{{\"apiVersion\":\"v1\",\"kind\":\"List\",\"items\":[{inner}]}}")
        });
        check_broken("a.json", &lists, "nested more than 127 deep");
    }

    #[test]
    fn what_is_not_read_breaks_nothing() {
        let mut heard = Heard::new();
        let more = "  template: {a: .nan, b: !!binary aGk=, ? {c: d} : e, ? [1] : 2, f: 99999999999999999999999, g: 1e999, h: 0123}\n\
                    status: {conditions: [.inf]}\n";
        let annotated =
            GOOD.replace("namespace: shop", "namespace: shop, annotations: {a: 1, b: .inf, c: {}, d: 0123}");
        assert_eq!(heard.put("a.yaml", &format!("{annotated}{more}")), ["set service shop/web"]);
        let json = JSON.replace("\"spec\":{", r#""more":[1e400,123456789012345678901234567890],"spec":{"#);
        assert_eq!(
            heard.put("b.json", &format!("\u{feff}{}", json.replace("web", "b"))),
            ["set service shop/b"]
        );
    }

    #[test]
    fn what_is_said_of_one_text_is_bounded() {
        let mut heard = Heard::new();
        let mut text = String::new();
        for i in 0..5000 {
            text.push_str(&format!("---\napiVersion: x/v1\nkind: K{i}\n---\napiVersion: v1\nkind: Pod\nmetadata: {{name: B_{i}}}\n"));
            text.push_str("---\napiVersion: v1\nkind: Pod\nmetadata: {name: same}\n");
        }
        let said = heard.put("a.yaml", &text);
        let count = |part: &str| said.iter().filter(|line| line.contains(part)).count();
        assert_eq!((count("is no valid object name"), count("Weft has no use for this kind")), (20, 20));
        assert_eq!(
            count("a.yaml: 4,980 more objects in it can't be read; pod default/same stands in it twice"),
            1
        );
        assert_eq!(count("kinds in a.yaml: Weft has no use for 4,980 more objects of other kinds"), 1);
        assert_eq!(said.len(), 1 + 20 + 20 + 2, "{said:#?}");
        assert!(said.iter().all(|line| line.len() < 1000));
    }

    #[test]
    fn what_is_said_of_objects_in_several_texts_is_bounded() {
        let mut heard = Heard::new();
        let pods: String = (0..1000)
            .map(|i| format!("---\napiVersion: v1\nkind: Pod\nmetadata: {{name: p{i}}}\n"))
            .collect();
        heard.put("a.yaml", &pods);
        let said = heard.put("b.yaml", &pods);
        assert_eq!(said.len(), 101);
        assert!(said.iter().any(|line| line == "objects: 900 more of them stand in several files; the first path counts"));
        let said = heard.put("b.yaml", "");
        assert_eq!(said.iter().filter(|line| line.ends_with("is mended")).count(), 101, "{said:?}");
    }
}
