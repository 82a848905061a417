//! YAML as a tree in which every key and value knows its place.

use std::fmt;

use serde::{
    Deserialize, Deserializer,
    de::{self, MapAccess, SeqAccess, Visitor},
};
use serde_json::{Map, Number, Value};
use serde_saphyr::{Options, Spanned};

/// A place in the text, both counted from 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) line: u64,
    pub(super) column: u64,
}

/// A text that is no YAML, or YAML we do not take (a key twice, an alias bomb).
#[derive(Debug)]
pub(super) struct SyntaxError {
    pub(super) place: Place,
    /// Without the snippet of the text: it could be a Secret's.
    pub(super) message: String,
}

/// One document of a text.
#[derive(Clone, Debug)]
pub(super) struct Document {
    root: Spanned<Node>,
    /// Lines of the text before this document's chunk.
    lines_before: u64,
}

/// A node with the places of its children.
#[derive(Clone, Debug)]
pub(super) enum Node {
    Map(Vec<(Spanned<String>, Spanned<Node>)>),
    Seq(Vec<Spanned<Node>>),
    Leaf(Value),
}

/// The documents of a text. One that does not parse is an error and leaves the others alone; each chunk between
/// `---` lines yields none (comments only) or one document.
pub(super) fn documents(text: &str) -> impl Iterator<Item = Result<Vec<Document>, SyntaxError>> {
    chunks(text).into_iter().map(|(lines_before, chunk)| {
        let roots = serde_saphyr::from_multiple_with_options::<Spanned<Node>>(chunk, options());
        roots
            .map(|roots| {
                roots
                    .into_iter()
                    .map(|root| Document { root, lines_before })
                    .collect()
            })
            .map_err(|error| syntax_error(&error, lines_before))
    })
}

/// `0755` is octal, as it is to kubectl. The budget stops an alias bomb early.
fn options() -> Options {
    serde_saphyr::options! {
        with_snippet: false,
        legacy_octal_numbers: true,
        budget: serde_saphyr::budget! {
            max_events: 500_000,
            max_depth: 64,
            max_aliases: 1_000,
            max_anchors: 1_000,
        },
        alias_limits: serde_saphyr::alias_limits! {
            max_total_replayed_events: 50_000,
        },
    }
}

fn syntax_error(error: &serde_saphyr::Error, lines_before: u64) -> SyntaxError {
    let (line, column) = error.location().map_or((1, 1), |location| {
        (location.line().max(1), location.column().max(1))
    });
    let text = error
        .without_snippet()
        .render_with_formatter(&serde_saphyr::UserMessageFormatter);
    // The parser's own "at line" counts from the document's begin: the finding's place is the right one.
    let message = text
        .split(" at line ")
        .next()
        .unwrap_or_default()
        .trim_end_matches(',')
        .to_owned();
    SyntaxError {
        place: Place {
            line: lines_before + line,
            column,
        },
        message,
    }
}

/// The text cut before each line that begins a document, with the number of lines before each piece. YAML 1.2.2
/// section 9.1.2 forbids such a line inside a document, block scalars included.
fn chunks(text: &str) -> Vec<(u64, &str)> {
    let mut chunks = Vec::new();
    let (mut start, mut start_line, mut offset) = (0, 0, 0);
    for (line_number, line) in (0u64..).zip(text.split_inclusive('\n')) {
        let begins = line
            .strip_prefix("---")
            .is_some_and(|rest| rest.is_empty() || rest.starts_with([' ', '\t', '\r', '\n']));
        if begins && offset > start {
            chunks.push((start_line, &text[start..offset]));
            (start, start_line) = (offset, line_number);
        }
        offset += line.len();
    }
    chunks.push((start_line, &text[start..]));
    chunks
}

impl Document {
    /// The document as JSON.
    pub(super) fn to_value(&self) -> Value {
        self.root.value.to_value()
    }

    /// The line it begins at.
    pub(super) fn line(&self) -> u64 {
        self.place_of(&self.root).line
    }

    /// A member of the document's root.
    pub(super) fn get(&self, name: &str) -> Option<&Node> {
        self.root.value.get(name)
    }

    /// A text somewhere below the root.
    pub(super) fn text(&self, path: &[&str]) -> Option<&str> {
        let found = path
            .iter()
            .try_fold(&self.root.value, |node, name| node.get(name));
        match found? {
            Node::Leaf(Value::String(text)) => Some(text),
            _ => None,
        }
    }

    /// A node of this document as a document of its own.
    pub(super) fn inner(&self, node: &Spanned<Node>) -> Self {
        Self {
            root: node.clone(),
            lines_before: self.lines_before,
        }
    }

    /// Where a field stands, by a path such as `spec.rules[0].name`: its key, or as much of the way as there is.
    pub(super) fn place(&self, path: &str) -> Place {
        let mut place = self.place_of(&self.root);
        let mut node = &self.root.value;
        let mut rest = path;
        while let Some((next, found, tail)) = step(node, rest) {
            place = self.shift(found);
            node = next;
            rest = tail;
        }
        place
    }

    fn place_of(&self, node: &Spanned<Node>) -> Place {
        self.shift(node.referenced)
    }

    fn shift(&self, location: serde_saphyr::Location) -> Place {
        Place {
            line: self.lines_before + location.line().max(1),
            column: location.column().max(1),
        }
    }
}

/// One step along a path: the child, its place, and the path's rest. Keys may hold dots, so the longest key that the
/// path begins with is the one.
fn step<'a, 'p>(
    node: &'a Node,
    path: &'p str,
) -> Option<(&'a Node, serde_saphyr::Location, &'p str)> {
    match node {
        Node::Map(members) => {
            let path = path.strip_prefix('.').unwrap_or(path);
            let ends = |rest: &str| rest.is_empty() || rest.starts_with(['.', '[']);
            let fits = members.iter().filter_map(|(key, child)| {
                let rest = path
                    .strip_prefix(key.value.as_str())
                    .filter(|rest| !key.value.is_empty() && ends(rest))?;
                Some((child, key.referenced, rest))
            });
            fits.min_by_key(|(_, _, rest)| rest.len())
                .map(|(child, place, rest)| (&child.value, place, rest))
        }
        Node::Seq(members) => {
            let (index, rest) = path.strip_prefix('[')?.split_once(']')?;
            let child = members.get(index.parse::<usize>().ok()?)?;
            Some((&child.value, child.referenced, rest))
        }
        Node::Leaf(_) => None,
    }
}

impl Node {
    fn get(&self, name: &str) -> Option<&Self> {
        match self {
            Self::Map(members) => members
                .iter()
                .find(|(key, _)| key.value == name)
                .map(|(_, node)| &node.value),
            Self::Seq(_) | Self::Leaf(_) => None,
        }
    }

    fn to_value(&self) -> Value {
        match self {
            Self::Map(members) => Value::Object(
                members
                    .iter()
                    .map(|(key, node)| (key.value.clone(), node.value.to_value()))
                    .collect::<Map<_, _>>(),
            ),
            Self::Seq(members) => {
                Value::Array(members.iter().map(|node| node.value.to_value()).collect())
            }
            Self::Leaf(value) => value.clone(),
        }
    }
}

impl<'de> Deserialize<'de> for Node {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(NodeVisitor)
    }
}

struct NodeVisitor;

impl<'de> Visitor<'de> for NodeVisitor {
    type Value = Node;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a mapping, a list or a scalar")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Node, A::Error> {
        let mut members = Vec::new();
        while let Some(entry) = map.next_entry()? {
            members.push(entry);
        }
        Ok(Node::Map(members))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Node, A::Error> {
        let mut members = Vec::new();
        while let Some(member) = seq.next_element()? {
            members.push(member);
        }
        Ok(Node::Seq(members))
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Node, E> {
        Ok(Node::Leaf(Value::String(text.to_owned())))
    }

    fn visit_bool<E: de::Error>(self, flag: bool) -> Result<Node, E> {
        Ok(Node::Leaf(Value::Bool(flag)))
    }

    fn visit_i64<E: de::Error>(self, number: i64) -> Result<Node, E> {
        Ok(Node::Leaf(Value::Number(number.into())))
    }

    fn visit_u64<E: de::Error>(self, number: u64) -> Result<Node, E> {
        Ok(Node::Leaf(Value::Number(number.into())))
    }

    fn visit_f64<E: de::Error>(self, number: f64) -> Result<Node, E> {
        Number::from_f64(number)
            .map(|number| Node::Leaf(Value::Number(number)))
            .ok_or_else(|| {
                E::custom("a number that JSON cannot write: quote it if a string is meant")
            })
    }

    fn visit_unit<E: de::Error>(self) -> Result<Node, E> {
        Ok(Node::Leaf(Value::Null))
    }

    fn visit_none<E: de::Error>(self) -> Result<Node, E> {
        Ok(Node::Leaf(Value::Null))
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Node, D::Error> {
        deserializer.deserialize_any(Self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Vec<Result<Vec<Document>, SyntaxError>> {
        documents(text).collect()
    }

    fn first(text: &str) -> Document {
        read(text).remove(0).expect("YAML").remove(0)
    }

    #[test]
    fn documents_are_cut_where_yaml_cuts_them() {
        let text = "# only a comment\n---\na: 1\n--- # second\nb: |\n  ---\n  x\n---\n---\nc: -----BEGIN\n";
        let lines: Vec<u64> = read(text)
            .into_iter()
            .flat_map(|documents| documents.expect("YAML"))
            .map(|document| document.line())
            .collect();
        assert_eq!(lines, [3, 5, 10]);
        assert_eq!(first("b: |\n  ---\n  x\n").to_value()["b"], "---\nx\n");
    }

    #[test]
    fn a_broken_document_leaves_its_siblings_alone() {
        let read = read("a: 1\n---\na: [1\n---\nb: 2\n");
        assert!(read[0].is_ok() && read[2].is_ok());
        let error = read[1].as_ref().expect_err("no YAML");
        assert!((3..=4).contains(&error.place.line), "{error:?}");
    }

    #[test]
    fn every_field_has_its_place() {
        let document = first(
            "---\nmetadata:\n  labels:\n    sluice.dev/use: keys\nspec:\n  rules:\n  - name: a\n  - {name: b}\n",
        );
        let place = |path: &str| document.place(path);
        assert_eq!(place("spec.rules[0].name"), Place { line: 7, column: 5 });
        assert_eq!(place("spec.rules[1].name"), Place { line: 8, column: 6 });
        assert_eq!(
            place("metadata.labels.sluice.dev/use"),
            Place { line: 4, column: 5 }
        );
        assert_eq!(
            place("spec.rules[7].name"),
            Place { line: 6, column: 3 },
            "as much of the way as there is"
        );
        assert_eq!(place(""), Place { line: 2, column: 1 });
    }

    #[test]
    fn scalars_are_read_as_kubectl_reads_them() {
        let value = first("a: on\nb: \"on\"\nc: 0755\nd: 1.5\ne: ~\nf: 12:30:45\n").to_value();
        assert_eq!(value["a"], true);
        assert_eq!(value["b"], "on");
        assert_eq!(value["c"], 493);
        assert_eq!(
            (&value["d"], &value["e"]),
            (&serde_json::json!(1.5), &Value::Null)
        );
    }

    #[test]
    fn hostile_texts_are_refused() {
        let bomb = "a: &a [x,x,x,x,x,x,x,x,x]\nb: &b [*a,*a,*a,*a,*a,*a,*a,*a,*a]\nc: &c [*b,*b,*b,*b,*b,*b,*b,*b,*b]\n\
            d: &d [*c,*c,*c,*c,*c,*c,*c,*c,*c]\ne: &e [*d,*d,*d,*d,*d,*d,*d,*d,*d]\nf: [*e,*e,*e,*e,*e,*e,*e,*e,*e]\n";
        let deep = "[".repeat(10_000);
        for text in [bomb, deep.as_str(), "a: 1\na: 2\n", "a: .nan\n", "\u{0}"] {
            assert!(
                read(text).iter().any(Result::is_err),
                "{}",
                text.chars().take(20).collect::<String>()
            );
        }
    }
}
