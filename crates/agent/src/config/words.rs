//! What is said of a configuration that can't be read: in a person's words, with what to write instead.
//!
//! What always holds: nobody reads the parser's words for a value of the wrong type. What is absent: the file and the field, which the
//! error has beside it; and what our own types say of a value, which is plain already.

use serde_saphyr::Error;

/// A store, as one is written.
const STORE: &str =
    "one of {directory: FOLDER}, {kubernetes: …} and {etcd: …}, such as store: {directory: /srv/cluster}";

/// What is wrong with the text, by the parser's complaint and the field's path; with line and column where they are known.
pub(super) fn plainly(error: &Error, field: &str) -> String {
    let error = error.without_snippet();
    let Some(text) = said(error, field) else { return error.to_string() };
    match error.location().filter(|at| at.line() > 0) {
        Some(at) => format!("line {} column {}: {text}", at.line(), at.column()),
        None => text,
    }
}

fn said(error: &Error, field: &str) -> Option<String> {
    Some(match error {
        Error::Eof { .. } => format!("there is nothing in it; at least `store` is needed: {STORE}"),
        Error::MultipleDocuments { .. } => "it has several documents (`---`); write one".to_owned(),
        Error::DuplicateMappingKey { key, .. } => {
            format!("`{}` is written twice; write it once", key.as_deref().unwrap_or("a field"))
        }
        Error::SerdeMissingField { field: "store", .. } => format!("`store` is missing; write {STORE}"),
        Error::SerdeMissingField { field, .. } => format!("`{field}` is missing"),
        Error::SerdeUnknownField { field, expected, .. } => {
            format!("there is no field `{field}`; there are {}", expected.join(", "))
        }
        Error::SerdeUnknownVariant { variant, .. } => format!("`{variant}` is {}", wanted(field)),
        Error::ExpectedMappingEndAfterEnumVariantValue { .. } => {
            format!("there is another store beside it; write {STORE}")
        }
        Error::Message { msg, .. } if msg != "invalid IP address syntax" => return None,
        Error::Message { .. }
        | Error::Unexpected { .. }
        | Error::UnexpectedSequenceEnd { .. }
        | Error::UnexpectedMappingEnd { .. }
        | Error::NullIntoString { .. }
        | Error::UnexpectedValueForUnitEnumVariant { .. }
        | Error::ExpectedStringKeyForExternallyTaggedEnum { .. }
        | Error::ExternallyTaggedEnumExpectedScalarOrMapping { .. }
        | Error::InvalidScalar { .. }
        | Error::SerdeInvalidType { .. }
        | Error::SerdeInvalidValue { .. }
        | Error::SerdeInvalidLength { .. } => format!("this is {}", wanted(field)),
        _ => return None,
    })
}

/// What a field's value isn't, and is to be.
fn wanted(field: &str) -> String {
    let (list, is_entry) = match field.rsplit_once('[') {
        Some((list, _)) => (list, true),
        None => (field, false),
    };
    let address = "an address without a prefix, such as 192.0.2.1";
    let (entry, example) = match list {
        "" => return "no configuration; write fields with their values, at least `store`".to_owned(),
        "store" => return format!("no store; write {STORE}"),
        "addresses" | "dns.clusterAddresses" | "dns.linkLocal" => (address, "[192.0.2.1]"),
        "dns.upstreams" => ("ADDRESS or ADDRESS:PORT, such as 192.0.2.53", "[192.0.2.53]"),
        "services.nodePortAddresses" => ("a block of addresses, such as 192.0.2.0/24", "[192.0.2.0/24]"),
        "store.etcd.endpoints" => ("a member's https://HOST:PORT", "[\"https://etcd-1.example:2379\"]"),
        "store.kubernetes.networks" => ("a network's fields, such as {name: default}", "[{name: default}]"),
        _ => return format!("not what it takes; write {}", single(list)),
    };
    match is_entry {
        true => format!("not what it takes; write {entry}"),
        false => format!("no list; write one, such as {example}"),
    }
}

/// What a field takes that has no list.
fn single(field: &str) -> &'static str {
    match field {
        "cni" | "dns" | "services" | "store.kubernetes" | "store.etcd" => {
            "fields with their values, as examples/agent.yaml has them"
        }
        "cni.deadlineMs" => "a number of milliseconds without a unit, such as 20000",
        "store.etcd.leaseSeconds" => "a number of seconds without a unit, such as 86400",
        "services.healthPort" => "a port from 1 to 65535, or 0 for none",
        "services.nodePortRange" => "a range of ports, such as 30000-32767",
        "dns.enabled" | "services.enabled" => "true or false",
        "dns.podNames" => "disabled, insecure or verified",
        "stateDir" | "runDir" | "cni.confDir" | "cni.leaseDir" | "dns.resolvConf" | "store.directory" => {
            "a path that begins with /"
        }
        _ => "a text",
    }
}

#[cfg(test)]
mod tests {
    use super::super::parse;

    #[track_caller]
    fn check(text: &str, field: &str, expected: &str) {
        let (found, reason) = parse(text).unwrap_err();
        assert_eq!((found.as_str(), reason.as_str()), (field, expected), "{text}");
    }

    #[test]
    fn nobody_reads_the_parsers_words() {
        let store = "store: {directory: /x}";
        let one = "one of {directory: FOLDER}, {kubernetes: …} and {etcd: …}, such as store: {directory: /srv/cluster}";
        check("", "", &format!("line 1 column 1: there is nothing in it; at least `store` is needed: {one}"));
        check(
            "[]",
            "",
            "line 1 column 1: this is no configuration; write fields with their values, at least `store`",
        );
        check("node: n1", "", &format!("line 1 column 1: `store` is missing; write {one}"));
        check(
            "store: /srv/cluster",
            "store",
            &format!("line 1 column 8: `/srv/cluster` is no store; write {one}"),
        );
        let two = format!("line 1 column 24: there is another store beside it; write {one}");
        check("store: {directory: /x, etcd: {endpoints: [http://e:2379]}}", "store.directory", &two);
        check(&format!("{store}\n{store}"), "", "line 2 column 1: `store` is written twice; write it once");
        let list = "line 2 column 12: this is no list; write one, such as [192.0.2.1]";
        check(&format!("{store}\naddresses: 192.168.77.15"), "addresses", list);
        let address = "line 2 column 13: this is not what it takes; write an address without a prefix, such as 192.0.2.1";
        check(&format!("{store}\naddresses: [192.168.77.15/24]"), "addresses[0]", address);
        let port = "line 2 column 24: this is not what it takes; write a port from 1 to 65535, or 0 for none";
        check(&format!("{store}\nservices: {{healthPort: 70000}}"), "services.healthPort", port);
        let number = "line 2 column 19: this is not what it takes; write a number of milliseconds without a unit, such as 20000";
        check(&format!("{store}\ncni: {{deadlineMs: 20s}}"), "cni.deadlineMs", number);
    }

    /// Of every field that the example has, a value of the wrong kind is answered in our words.
    #[test]
    fn every_field_says_what_it_takes() {
        let config = parse("store: {directory: /x}").unwrap();
        let mut open = vec![(String::new(), serde_json::to_value(&config).unwrap())];
        let mut fields = Vec::new();
        while let Some((path, value)) = open.pop() {
            for (key, value) in value.as_object().into_iter().flatten() {
                let path = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
                fields.push(path.clone());
                open.push((path, value.clone()));
            }
        }
        assert!(fields.len() > 20, "{fields:?}");
        for field in fields {
            let wrong =
                field.split('.').rev().fold("[[[]]]".to_owned(), |value, key| format!("{{{key}: {value}}}"));
            let rest = if field.starts_with("store") { "" } else { "store: {directory: /x}, " };
            let text = format!("{{{rest}{}", &wrong[1..]);
            let (_, reason) = parse(&text).unwrap_err();
            assert!(reason.contains("; write "), "{text}: {reason}");
        }
    }
}
