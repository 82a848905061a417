//! The documents of a text as they are written, sound or not: which object each is about, and where its fields stand.
//! For naming the place of what is found out about an object only beside others.

use serde_json::Value;

use super::{
    MAX_DOCUMENTS, MAX_TEXT_BYTES, list_items,
    object::DEFAULT_NAMESPACE,
    tree::{self, Document},
};

/// The documents of a text.
#[derive(Debug, Default)]
pub struct Outlines {
    /// Those that are YAML, in the order of the text.
    pub documents: Vec<Outline>,
    /// Whether all of them are: only then is what the text does not declare known to be absent from it.
    pub whole: bool,
}

/// One document; an item of a `kind: List` is one of its own.
#[derive(Debug)]
pub struct Outline(Document);

/// Reads a text of YAML (or JSON) documents, without judging them.
pub fn outlines(text: &str) -> Outlines {
    let mut outlines = Outlines {
        documents: Vec::new(),
        whole: text.len() <= MAX_TEXT_BYTES,
    };
    if !outlines.whole {
        return outlines;
    }
    for (index, documents) in tree::documents(text).enumerate() {
        match documents {
            Ok(documents) if index < MAX_DOCUMENTS => {
                for document in documents {
                    outlines.take(document);
                }
            }
            Ok(_) => {
                outlines.whole = false;
                break;
            }
            Err(_) => outlines.whole = false,
        }
    }
    outlines
}

impl Outlines {
    fn take(&mut self, document: Document) {
        match list_items(&document, &document.to_value()) {
            Some(items) => items.into_iter().for_each(|item| self.take(item)),
            None => self.documents.push(Outline(document)),
        }
    }

    /// The document that a line belongs to: the last that begins at or before it.
    pub fn at(&self, line: u64) -> Option<&Outline> {
        self.documents
            .iter()
            .rev()
            .find(|outline| outline.line() <= line)
    }

    /// The first document about an object.
    pub fn of(&self, kind: &str, namespace: &str, name: &str) -> Option<&Outline> {
        self.documents.iter().find(|outline| {
            outline.kind() == Some(kind)
                && outline.namespace() == namespace
                && outline.name() == Some(name)
        })
    }

    /// The first document of a kind.
    pub fn of_kind(&self, kind: &str) -> Option<&Outline> {
        self.documents
            .iter()
            .find(|outline| outline.kind() == Some(kind))
    }
}

impl Outline {
    /// The line it begins at, counted from 1.
    pub fn line(&self) -> u64 {
        self.0.line()
    }

    /// Line and column of a field, by a path such as `spec.rules[0].name`: its key, or as much of the way as there is.
    pub fn place(&self, path: &str) -> (u64, u64) {
        let place = self.0.place(path);
        (place.line, place.column)
    }

    /// Its `apiVersion`.
    pub fn api_version(&self) -> Option<&str> {
        self.0.text(&["apiVersion"])
    }

    /// Its `kind`.
    pub fn kind(&self) -> Option<&str> {
        self.0.text(&["kind"])
    }

    /// Its namespace, `default` where it names none.
    pub fn namespace(&self) -> &str {
        self.0
            .text(&["metadata", "namespace"])
            .unwrap_or(DEFAULT_NAMESPACE)
    }

    /// Its name.
    pub fn name(&self) -> Option<&str> {
        self.0.text(&["metadata", "name"])
    }

    /// The document as JSON.
    pub fn to_value(&self) -> Value {
        self.0.to_value()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "\
kind: ApiRoute
metadata: {name: a}
---
a: [1
---
kind: List
apiVersion: v1
items:
- kind: ShardSet
  metadata:
    name: b
    namespace: shop
- {kind: ShardSet}
";

    #[test]
    fn documents_say_what_they_are_about_and_where() {
        let outlines = outlines(TEXT);
        assert!(!outlines.whole, "the second document is no YAML");
        assert_eq!(outlines.documents.len(), 3);
        let set = outlines.of("ShardSet", "shop", "b").expect("an item");
        assert_eq!((set.line(), set.place("metadata.name")), (9, (11, 5)));
        let route = outlines.of("ApiRoute", "default", "a").expect("it is");
        assert_eq!((route.line(), route.api_version()), (1, None));
        assert!(outlines.of("ApiRoute", "shop", "a").is_none());
    }

    #[test]
    fn a_line_belongs_to_the_document_before_it() {
        let outlines = outlines(TEXT);
        let name_at = |line| outlines.at(line).and_then(Outline::name);
        assert_eq!((name_at(2), name_at(12)), (Some("a"), Some("b")));
        assert!(outlines.at(0).is_none());
    }

    #[test]
    fn what_is_too_much_is_not_whole() {
        assert!(outlines("# nothing\n").whole);
        assert!(!outlines(&"#".repeat(MAX_TEXT_BYTES + 1)).whole);
        assert!(!outlines(&"---\na: 1\n".repeat(MAX_DOCUMENTS + 1)).whole);
    }
}
