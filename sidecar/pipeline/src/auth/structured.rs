//! Structured field values (RFC 8941), as far as message signatures and digests need them: dictionaries of items and
//! inner lists. Stricter than the RFC where it is lenient: a key or parameter that comes twice is refused rather than
//! overwritten, decimals are not accepted, base64 must be canonical, and everything is bounded.

use std::fmt::Write as _;

use base64::{Engine, engine::general_purpose::STANDARD};

use crate::facts::Facts;

/// Members of a dictionary.
const MAX_MEMBERS: usize = 8;
/// Items of an inner list.
const MAX_ITEMS: usize = 32;
/// Parameters of an item or a list.
const MAX_PARAMETERS: usize = 8;
/// Bytes of a string, key or token.
const MAX_TEXT: usize = 512;
/// Digits of an integer (RFC 8941 section 3.3.1).
const MAX_DIGITS: usize = 15;

/// A bare item.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Bare {
    Integer(i64),
    String(String),
    Token(String),
    Bytes(Vec<u8>),
    Boolean(bool),
}

/// Parameters, in order; names are unique.
pub(super) type Parameters = Vec<(String, Bare)>;

/// An item with its parameters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Item {
    pub value: Bare,
    pub parameters: Parameters,
}

/// An inner list with its parameters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct InnerList {
    pub items: Vec<Item>,
    pub parameters: Parameters,
}

/// A value of a dictionary.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Member {
    Item(Item),
    List(InnerList),
}

/// A field value that is refused. It quotes nothing of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum Malformed {
    #[error("the header field is missing")]
    Missing,
    #[error("the header field is too long or has too many parts")]
    TooLarge,
    #[error("a key or parameter comes twice")]
    Duplicate,
    #[error("not a structured field (RFC 8941): {0}")]
    Syntax(&'static str),
}

/// Every line of a field, joined as RFC 9110 section 5.3 has it.
pub(super) fn field(facts: &impl Facts, name: &str, max: usize) -> Result<Vec<u8>, Malformed> {
    let mut joined = Vec::new();
    let mut any = false;
    for line in facts.header(name) {
        if any {
            joined.extend_from_slice(b", ");
        }
        any = true;
        if joined.len() + line.len() > max {
            return Err(Malformed::TooLarge);
        }
        joined.extend_from_slice(line);
    }
    if any {
        Ok(joined)
    } else {
        Err(Malformed::Missing)
    }
}

/// Parses a dictionary (RFC 8941 section 4.2.2).
pub(super) fn dictionary(text: &[u8]) -> Result<Vec<(String, Member)>, Malformed> {
    let mut parser = Parser { rest: text };
    let mut members: Vec<(String, Member)> = Vec::new();
    parser.skip(b" ");
    while !parser.rest.is_empty() {
        let key = parser.key()?;
        if members.iter().any(|(known, _)| *known == key) {
            return Err(Malformed::Duplicate);
        }
        if members.len() == MAX_MEMBERS {
            return Err(Malformed::TooLarge);
        }
        members.push((key, parser.member()?));
        parser.skip(b" \t");
        if parser.rest.is_empty() {
            return Ok(members);
        }
        parser.expect(b',', "a comma between members")?;
        parser.skip(b" \t");
        if parser.rest.is_empty() {
            return Err(Malformed::Syntax("a comma at the end"));
        }
    }
    Ok(members)
}

struct Parser<'a> {
    rest: &'a [u8],
}

impl Parser<'_> {
    fn peek(&self) -> Option<u8> {
        self.rest.first().copied()
    }

    fn next(&mut self) -> Option<u8> {
        let (first, rest) = self.rest.split_first()?;
        self.rest = rest;
        Some(*first)
    }

    fn take(&mut self, byte: u8) -> bool {
        let found = self.peek() == Some(byte);
        if found {
            self.next();
        }
        found
    }

    fn expect(&mut self, byte: u8, what: &'static str) -> Result<(), Malformed> {
        if self.take(byte) {
            Ok(())
        } else {
            Err(Malformed::Syntax(what))
        }
    }

    fn skip(&mut self, bytes: &[u8]) {
        while self.peek().is_some_and(|byte| bytes.contains(&byte)) {
            self.next();
        }
    }

    /// The longest run of bytes that `accepts`, bounded.
    fn run(&mut self, max: usize, accepts: impl Fn(u8) -> bool) -> Result<&str, Malformed> {
        let end = self
            .rest
            .iter()
            .position(|byte| !accepts(*byte))
            .unwrap_or(self.rest.len());
        if end > max {
            return Err(Malformed::TooLarge);
        }
        let (run, rest) = self.rest.split_at(end);
        self.rest = rest;
        std::str::from_utf8(run).map_err(|_| Malformed::Syntax("bytes beyond ASCII"))
    }

    fn key(&mut self) -> Result<String, Malformed> {
        if !self
            .peek()
            .is_some_and(|byte| byte.is_ascii_lowercase() || byte == b'*')
        {
            return Err(Malformed::Syntax("a key begins with a lower-case letter"));
        }
        let accepts = |byte: u8| {
            byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"_-.*".contains(&byte)
        };
        self.run(MAX_TEXT, accepts).map(str::to_owned)
    }

    fn member(&mut self) -> Result<Member, Malformed> {
        if !self.take(b'=') {
            let parameters = self.parameters()?;
            return Ok(Member::Item(Item {
                value: Bare::Boolean(true),
                parameters,
            }));
        }
        if self.peek() == Some(b'(') {
            self.inner_list().map(Member::List)
        } else {
            self.item().map(Member::Item)
        }
    }

    fn inner_list(&mut self) -> Result<InnerList, Malformed> {
        self.expect(b'(', "an inner list")?;
        let mut items = Vec::new();
        loop {
            self.skip(b" ");
            if self.take(b')') {
                return Ok(InnerList {
                    items,
                    parameters: self.parameters()?,
                });
            }
            if items.len() == MAX_ITEMS {
                return Err(Malformed::TooLarge);
            }
            items.push(self.item()?);
            if !matches!(self.peek(), Some(b' ' | b')')) {
                return Err(Malformed::Syntax(
                    "items of an inner list are separated by spaces",
                ));
            }
        }
    }

    fn item(&mut self) -> Result<Item, Malformed> {
        Ok(Item {
            value: self.bare()?,
            parameters: self.parameters()?,
        })
    }

    fn parameters(&mut self) -> Result<Parameters, Malformed> {
        let mut parameters = Parameters::new();
        while self.take(b';') {
            self.skip(b" ");
            let key = self.key()?;
            let value = if self.take(b'=') {
                self.bare()?
            } else {
                Bare::Boolean(true)
            };
            if parameters.iter().any(|(known, _)| *known == key) {
                return Err(Malformed::Duplicate);
            }
            if parameters.len() == MAX_PARAMETERS {
                return Err(Malformed::TooLarge);
            }
            parameters.push((key, value));
        }
        Ok(parameters)
    }

    fn bare(&mut self) -> Result<Bare, Malformed> {
        match self.peek() {
            Some(b'-' | b'0'..=b'9') => self.integer(),
            Some(b'"') => self.string(),
            Some(b':') => self.bytes(),
            Some(b'?') => self.boolean(),
            Some(byte) if byte.is_ascii_alphabetic() || byte == b'*' => self.token(),
            _ => Err(Malformed::Syntax("an item is expected")),
        }
    }

    fn integer(&mut self) -> Result<Bare, Malformed> {
        let negative = self.take(b'-');
        let digits = self.run(MAX_DIGITS, |byte| byte.is_ascii_digit())?;
        let value: i64 = digits
            .parse()
            .map_err(|_| Malformed::Syntax("digits are expected"))?;
        if self.peek() == Some(b'.') {
            return Err(Malformed::Syntax("decimals are not used here"));
        }
        Ok(Bare::Integer(if negative { -value } else { value }))
    }

    fn string(&mut self) -> Result<Bare, Malformed> {
        self.expect(b'"', "a string")?;
        let mut text = String::new();
        loop {
            let byte = match self
                .next()
                .ok_or(Malformed::Syntax("a string without end"))?
            {
                b'"' => return Ok(Bare::String(text)),
                b'\\' => self
                    .next()
                    .filter(|byte| matches!(byte, b'"' | b'\\'))
                    .ok_or(Malformed::Syntax(
                        "a backslash escapes only a quote or a backslash",
                    ))?,
                byte @ 0x20..=0x7e => byte,
                _ => return Err(Malformed::Syntax("a string holds visible ASCII")),
            };
            if text.len() == MAX_TEXT {
                return Err(Malformed::TooLarge);
            }
            text.push(char::from(byte));
        }
    }

    fn token(&mut self) -> Result<Bare, Malformed> {
        let accepts =
            |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~:/".contains(&byte);
        self.run(MAX_TEXT, accepts)
            .map(|token| Bare::Token(token.to_owned()))
    }

    fn bytes(&mut self) -> Result<Bare, Malformed> {
        self.expect(b':', "a byte sequence")?;
        let encoded = self.run(2 * MAX_TEXT, |byte| byte != b':')?;
        let bytes = STANDARD
            .decode(encoded)
            .map_err(|_| Malformed::Syntax("not base64"))?;
        self.expect(b':', "a byte sequence ends with a colon")?;
        Ok(Bare::Bytes(bytes))
    }

    fn boolean(&mut self) -> Result<Bare, Malformed> {
        self.expect(b'?', "a boolean")?;
        match self.next() {
            Some(b'0') => Ok(Bare::Boolean(false)),
            Some(b'1') => Ok(Bare::Boolean(true)),
            _ => Err(Malformed::Syntax("a boolean is ?0 or ?1")),
        }
    }
}

/// Writes an inner list in its only canonical form (RFC 8941 section 4.1.1.1).
pub(super) fn write_list(list: &InnerList, out: &mut String) {
    out.push('(');
    for (index, item) in list.items.iter().enumerate() {
        if index > 0 {
            out.push(' ');
        }
        write_bare(&item.value, out);
        write_parameters(&item.parameters, out);
    }
    out.push(')');
    write_parameters(&list.parameters, out);
}

fn write_parameters(parameters: &Parameters, out: &mut String) {
    for (name, value) in parameters {
        out.push(';');
        out.push_str(name);
        if *value != Bare::Boolean(true) {
            out.push('=');
            write_bare(value, out);
        }
    }
}

/// Writes a bare item in its canonical form.
pub(super) fn write_bare(value: &Bare, out: &mut String) {
    match value {
        Bare::Integer(value) => {
            // Writing to a String cannot fail.
            let _ = write!(out, "{value}");
        }
        Bare::String(text) => write_string(text, out),
        Bare::Token(token) => out.push_str(token),
        Bare::Bytes(bytes) => {
            out.push(':');
            STANDARD.encode_string(bytes, out);
            out.push(':');
        }
        Bare::Boolean(value) => out.push_str(if *value { "?1" } else { "?0" }),
    }
}

/// Writes a string with its quotes.
pub(super) fn write_string(text: &str, out: &mut String) {
    out.push('"');
    for character in text.chars() {
        if matches!(character, '"' | '\\') {
            out.push('\\');
        }
        out.push(character);
    }
    out.push('"');
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn list(text: &str) -> InnerList {
        match dictionary(text.as_bytes()).expect(text).remove(0).1 {
            Member::List(list) => list,
            Member::Item(item) => panic!("{item:?}"),
        }
    }

    #[test]
    fn an_inner_list_is_written_as_it_was_read() {
        for text in [
            r#"("date" "@authority" "content-type");created=1618884473;keyid="test-shared-secret""#,
            r#"()"#,
            r#"("a";sf "b";key="x\"y\\z");n=-5;t=tok/en:1;b=:AQI=:;f=?0;yes"#,
        ] {
            let mut written = String::new();
            write_list(&list(&format!("sig={text}")), &mut written);
            assert_eq!(written, text);
        }
    }

    #[test]
    fn spaces_that_the_grammar_allows_disappear() {
        let mut written = String::new();
        write_list(&list("  sig=(  \"a\"   \"b\" );  created=1"), &mut written);
        assert_eq!(written, r#"("a" "b");created=1"#);
    }

    #[test]
    fn what_comes_twice_is_refused() {
        for text in ["a=1, a=2", "a=1;x;x", "a=();x=1;y;x=2"] {
            assert_eq!(
                dictionary(text.as_bytes()),
                Err(Malformed::Duplicate),
                "{text}"
            );
        }
    }

    #[test]
    fn what_is_no_dictionary_is_refused() {
        for text in [
            "A=1",
            "a=1,",
            "a=1 b=2",
            "a=(1",
            "a=(1\t2)",
            "a=(\"x\"\"y\")",
            "a=\"",
            "a=\"\\x\"",
            "a=\"\u{e9}\"",
            "a=:x:",
            "a=:AQI=",
            "a=:AQI:",
            "a=:AR==:",
            "a=?2",
            "a=1.5",
            "a=--1",
            "a=-",
            "a=1;",
            "a=1;=2",
            "a=",
            ",",
            "a=1\n",
        ] {
            assert!(
                matches!(dictionary(text.as_bytes()), Err(Malformed::Syntax(_))),
                "{text}"
            );
        }
    }

    #[test]
    fn everything_is_bounded() {
        let many = |part: &str, count: usize, between: &str| vec![part; count].join(between);
        let members: Vec<String> = (0..=MAX_MEMBERS).map(|index| format!("k{index}")).collect();
        for text in [
            members.join(","),
            format!("a=({})", many("1", MAX_ITEMS + 1, " ")),
            format!(
                "a=1;{}",
                (0..=MAX_PARAMETERS)
                    .map(|index| format!("p{index}"))
                    .collect::<Vec<_>>()
                    .join(";")
            ),
            format!("a=\"{}\"", many("x", MAX_TEXT + 1, "")),
            format!("a={}", many("9", MAX_DIGITS + 1, "")),
        ] {
            assert_eq!(
                dictionary(text.as_bytes()),
                Err(Malformed::TooLarge),
                "{text}"
            );
        }
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = dictionary(&bytes);
        }

        #[test]
        fn no_text_of_its_own_alphabet_makes_it_panic_and_what_is_read_reads_back(
            text in r#"[a-c]=[()"a-c0-9;:=?*,\\ /+.-]{0,40}"#
        ) {
            for (key, member) in dictionary(text.as_bytes()).unwrap_or_default() {
                let list = match member {
                    Member::List(list) => list,
                    Member::Item(item) => InnerList { items: vec![item], parameters: Vec::new() },
                };
                let mut written = format!("{key}=");
                write_list(&list, &mut written);
                prop_assert_eq!(dictionary(written.as_bytes()), Ok(vec![(key, Member::List(list))]));
            }
        }
    }
}
