//! A text as a tree: what YAML and JSON have in common, and where each value stands.
//!
//! What always holds: no mapping has a key twice, and a tree is of at most [`MOST_VALUES`] values. What can't be used is no error until
//! somebody reads it, as most of an object means nothing to Weft: what JSON has no word for; and, of a JSON text, whose unread parts nobody looks
//! at otherwise, what stands twice or too deep.
//!
//! What is absent: how either language is written, and which fields an object has.

use std::borrow::Cow;
use std::cell::Cell;
use std::collections::{HashMap, HashSet};
use std::fmt;

use serde::Deserialize;
use serde::de::value::{Error as Unfit, MapDeserializer, SeqDeserializer};
use serde::de::{
    DeserializeSeed, Deserializer, Error, IgnoredAny, IntoDeserializer, MapAccess, SeqAccess, Visitor,
};
use serde::forward_to_deserialize_any;

/// Values in one document, so that a text of 64 MiB takes no more than a few times that to read. A pod as its API server tells of it has about 250.
pub const MOST_VALUES: usize = 2_000_000;

/// Mappings and lists in each other in JSON, whose reader goes no deeper.
const DEEPEST: usize = 127;

/// One value.
#[derive(Debug, Clone, PartialEq)]
pub struct Node<'a> {
    /// Its line, counted from 1; 0 where it isn't known.
    pub line: u32,
    pub content: Content<'a>,
}

/// What a value is.
#[derive(Debug, Clone, PartialEq)]
pub enum Content<'a> {
    Null,
    Truth(bool),
    Unsigned(u64),
    Signed(i64),
    Float(f64),
    Text(Cow<'a, str>),
    List(Vec<Node<'a>>),
    Map(Vec<(Cow<'a, str>, Node<'a>)>),
    /// What can't be used, and the reason with its mend.
    Odd(Box<str>),
}

impl<'a> Node<'a> {
    /// The value of a mapping's key.
    pub fn get(&self, key: &str) -> Option<&Node<'a>> {
        let Content::Map(entries) = &self.content else { return None };
        entries.iter().find(|(name, _)| name == key).map(|(_, node)| node)
    }

    /// Its text, where it is one.
    pub fn text(&self) -> Option<&str> {
        match &self.content {
            Content::Text(text) => Some(text),
            _ => None,
        }
    }

    /// What it is, in a person's words.
    pub fn is_called(&self) -> &'static str {
        match &self.content {
            Content::Null => "nothing",
            Content::Truth(_) => "a truth value",
            Content::Unsigned(_) | Content::Signed(_) | Content::Float(_) => "a number",
            Content::Text(_) => "a text",
            Content::List(_) => "a list",
            Content::Map(_) => "a mapping",
            Content::Odd(_) => "of no use",
        }
    }
}

/// The first key that is there twice, as its place; keys that are no texts stand there as empty ones.
pub fn repeated<K: AsRef<str>>(keys: impl ExactSizeIterator<Item = K> + Clone) -> Option<usize> {
    const FEW: usize = 8;
    if keys.len() <= FEW {
        let is_known = |at: usize, key: &K| keys.clone().take(at).any(|other| other.as_ref() == key.as_ref());
        return keys
            .clone()
            .enumerate()
            .find(|(at, key)| !key.as_ref().is_empty() && is_known(*at, key))
            .map(|(at, _)| at);
    }
    let keys: Vec<K> = keys.collect();
    let mut seen = HashSet::with_capacity(keys.len());
    keys.iter().position(|key| !key.as_ref().is_empty() && !seen.insert(key.as_ref()))
}

impl<'de> IntoDeserializer<'de> for &'de Node<'de> {
    type Deserializer = Self;
    fn into_deserializer(self) -> Self {
        self
    }
}

impl<'de> Deserializer<'de> for &'de Node<'de> {
    type Error = Unfit;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Unfit> {
        match &self.content {
            Content::Null => visitor.visit_unit(),
            Content::Truth(value) => visitor.visit_bool(*value),
            Content::Unsigned(value) => visitor.visit_u64(*value),
            Content::Signed(value) => visitor.visit_i64(*value),
            Content::Float(value) => visitor.visit_f64(*value),
            Content::Text(value) => visitor.visit_borrowed_str(value),
            Content::List(items) => visitor.visit_seq(SeqDeserializer::new(items.iter())),
            Content::Map(entries) => {
                visitor.visit_map(MapDeserializer::new(entries.iter().map(|(key, node)| (&**key, node))))
            }
            Content::Odd(reason) => Err(Unfit::custom(reason)),
        }
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Unfit> {
        if self.content == Content::Null { visitor.visit_none() } else { visitor.visit_some(self) }
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        visitor: V,
    ) -> Result<V::Value, Unfit> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_ignored_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Unfit> {
        visitor.visit_unit()
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf unit unit_struct seq tuple
        tuple_struct map struct enum identifier
    }
}

/// Makes a tree of what a JSON reader delivers.
#[derive(Debug, Clone, Copy)]
pub struct Grow<'c> {
    /// Values that there may still be.
    left: &'c Cell<usize>,
    /// Mappings and lists around it.
    depth: usize,
}

impl<'c> Grow<'c> {
    /// A whole tree, of no more values than are `left`.
    pub fn root(left: &'c Cell<usize>) -> Self {
        Self { left, depth: 0 }
    }

    fn inside(self) -> Self {
        Self { depth: self.depth + 1, ..self }
    }
}

impl<'de> DeserializeSeed<'de> for Grow<'_> {
    type Value = Node<'de>;
    fn deserialize<D: Deserializer<'de>>(self, from: D) -> Result<Node<'de>, D::Error> {
        match self.left.get().checked_sub(1) {
            Some(left) => self.left.set(left),
            None => return Err(Error::custom(too_many())),
        }
        let content = if self.depth < DEEPEST {
            from.deserialize_any(self)?
        } else {
            IgnoredAny::deserialize(from)?;
            Content::Odd(format!("it is nested more than {DEEPEST} deep; no object of Kubernetes is").into())
        };
        Ok(Node { line: 0, content })
    }
}

/// Why a text with more than [`MOST_VALUES`] isn't read.
pub fn too_many() -> String {
    format!("it has more than {MOST_VALUES} values; split it")
}

impl<'de> Visitor<'de> for Grow<'_> {
    type Value = Content<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("anything")
    }
    fn visit_unit<E>(self) -> Result<Content<'de>, E> {
        Ok(Content::Null)
    }
    fn visit_bool<E>(self, value: bool) -> Result<Content<'de>, E> {
        Ok(Content::Truth(value))
    }
    fn visit_u64<E>(self, value: u64) -> Result<Content<'de>, E> {
        Ok(Content::Unsigned(value))
    }
    fn visit_i64<E>(self, value: i64) -> Result<Content<'de>, E> {
        Ok(Content::Signed(value))
    }
    fn visit_f64<E>(self, value: f64) -> Result<Content<'de>, E> {
        Ok(Content::Float(value))
    }
    fn visit_borrowed_str<E>(self, value: &'de str) -> Result<Content<'de>, E> {
        Ok(Content::Text(Cow::Borrowed(value)))
    }
    fn visit_str<E>(self, value: &str) -> Result<Content<'de>, E> {
        Ok(Content::Text(Cow::Owned(value.to_owned())))
    }
    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Content<'de>, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = seq.next_element_seed(self.inside())? {
            items.push(item);
        }
        Ok(Content::List(items))
    }
    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Content<'de>, A::Error> {
        let mut entries: Vec<(Cow<'de, str>, Node<'de>)> = Vec::new();
        while let Some(key) = map.next_key::<String>()? {
            entries.push((Cow::Owned(key), map.next_value_seed(self.inside())?));
        }
        Ok(Content::Map(match repeated(entries.iter().map(|(key, _)| key)) {
            Some(_) => each_once(entries),
            None => entries,
        }))
    }
}

/// Entries of a mapping, where one with a key that stands twice is of no use, at its second place.
pub fn each_once<'a>(entries: Vec<(Cow<'a, str>, Node<'a>)>) -> Vec<(Cow<'a, str>, Node<'a>)> {
    let mut places: HashMap<Cow<'a, str>, usize> = HashMap::with_capacity(entries.len());
    let mut once: Vec<(Cow<'a, str>, Node<'a>)> = Vec::with_capacity(entries.len());
    for (key, node) in entries {
        match places.get(&key) {
            Some(at) => {
                once[*at].1 = Node { line: node.line, content: Content::Odd(given_twice(&key).into()) }
            }
            None => {
                places.insert(key.clone(), once.len());
                once.push((key, node));
            }
        }
    }
    once
}

/// What is said of a key that stands twice.
pub fn given_twice(key: &str) -> String {
    format!("{key:?} is given twice; remove one")
}
