//! What a line of a watch is about, by its beginning alone: pure.
//!
//! What always holds: nothing is guessed. Only what stands in its place, `object.metadata`, counts; servers write it before everything
//! else that an object has.

use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, Visitor};

/// As far as it could be read; empty where it could not.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Named {
    /// `ADDED`, `MODIFIED`, `DELETED`.
    pub event: String,
    pub namespace: String,
    pub name: String,
    /// Its `resourceVersion`.
    pub version: String,
}

impl Named {
    /// Reads a line that breaks off somewhere.
    pub fn at_the_beginning_of(line: &[u8]) -> Self {
        let mut named = Self::default();
        let mut from = serde_json::Deserializer::from_slice(line);
        // Its end is missing, so it can't go well: what was found until then counts.
        let _ = Level::Event.read(&mut named).deserialize(&mut from);
        named
    }
}

/// How deep the reader is.
#[derive(Debug, Clone, Copy)]
enum Level {
    Event,
    Object,
    Metadata,
}

impl Level {
    fn read(self, named: &mut Named) -> Reader<'_> {
        Reader { level: self, named }
    }
}

struct Reader<'a> {
    level: Level,
    named: &'a mut Named,
}

impl<'de> DeserializeSeed<'de> for Reader<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, from: D) -> Result<(), D::Error> {
        from.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Reader<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        while let Some(key) = map.next_key::<String>()? {
            match (self.level, key.as_str()) {
                (Level::Event, "type") => self.named.event = map.next_value()?,
                (Level::Event, "object") => map.next_value_seed(Level::Object.read(self.named))?,
                (Level::Object, "metadata") => map.next_value_seed(Level::Metadata.read(self.named))?,
                (Level::Metadata, "name") => self.named.name = map.next_value()?,
                (Level::Metadata, "namespace") => self.named.namespace = map.next_value()?,
                (Level::Metadata, "resourceVersion") => self.named.version = map.next_value()?,
                _ => drop(map.next_value::<IgnoredAny>()?),
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_beginning_is_enough() {
        let whole = r#"{"type":"MODIFIED","object":{"kind":"Pod","metadata":{"name":"web","namespace":"shop","uid":"1","resourceVersion":"42","labels":{"name":"x"}},"spec":{"name":"y"}}}"#;
        let check = |line: &str, expected: [&str; 4]| {
            let named = Named::at_the_beginning_of(line.as_bytes());
            assert_eq!([named.event, named.namespace, named.name, named.version], expected, "{line}");
        };
        check(whole, ["MODIFIED", "shop", "web", "42"]);
        check(&whole[..whole.len() - 20], ["MODIFIED", "shop", "web", "42"]);
        check(&whole[..whole.find("uid").unwrap()], ["MODIFIED", "shop", "web", ""]);
        // Half a name is none.
        check(&whole[..whole.find("eb\"").unwrap()], ["MODIFIED", "", "", ""]);
        check(r#"{"type":"ADDED","object":{"spec":{"metadata":{"name":"no"}},"x"#, ["ADDED", "", "", ""]);
        check("[1,", [""; 4]);
        check("", [""; 4]);
    }
}
