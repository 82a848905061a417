//! Label selectors as text, as the API's query parameters carry them: `app=web,tier in (a,b),!canary`. What they match is
//! kube's to say; kube writes such a text and does not read it.

use std::collections::BTreeSet;

use kube::core::{Expression, Selector};

/// The longest text, in bytes: a Deployment's selector may be long, and no longer than this.
const MAX_TEXT: usize = 16 * 1024;
/// The longest name of a label and its prefix, in bytes.
const MAX_NAME: usize = 63;
const MAX_PREFIX: usize = 253;

/// A text that is no label selector.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SelectorError {
    /// Longer than any that is read.
    #[error("the selector is longer than {MAX_TEXT} bytes")]
    TooLong,
    /// Something else was expected.
    #[error(
        "at byte {at}: {expected} was expected; write requirements like app=web, tier!=a, zone in (a,b), zone notin (a), canary, !canary, with commas between them"
    )]
    Expected {
        /// Where.
        at: usize,
        /// What.
        expected: &'static str,
    },
}

/// Reads a selector. An empty text selects everything.
pub fn parse(text: &str) -> Result<Selector, SelectorError> {
    if text.len() > MAX_TEXT {
        return Err(SelectorError::TooLong);
    }
    let mut reader = Reader { text, at: 0 };
    let mut expressions = Vec::new();
    if reader.is_at_end() {
        return Ok(Selector::default());
    }
    loop {
        expressions.push(reader.requirement()?);
        if reader.is_at_end() {
            return Ok(expressions.into_iter().collect());
        }
        if !reader.takes(",") {
            return Err(reader.expected("a comma or the end"));
        }
    }
}

struct Reader<'t> {
    text: &'t str,
    at: usize,
}

impl<'t> Reader<'t> {
    /// What is left, without white space in front.
    fn rest(&mut self) -> &'t str {
        let rest = self.text.get(self.at..).unwrap_or_default();
        let trimmed = rest.trim_start_matches([' ', '\t', '\r', '\n']);
        self.at += rest.len() - trimmed.len();
        trimmed
    }

    fn is_at_end(&mut self) -> bool {
        self.rest().is_empty()
    }

    fn takes(&mut self, sign: &str) -> bool {
        let taken = self.rest().starts_with(sign);
        if taken {
            self.at += sign.len();
        }
        taken
    }

    fn expected(&self, expected: &'static str) -> SelectorError {
        SelectorError::Expected {
            at: self.at,
            expected,
        }
    }

    /// Characters of names and values; none where a sign stands.
    fn word(&mut self) -> &'t str {
        let rest = self.rest();
        let is_part = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | '/');
        let end = rest.find(|c| !is_part(c)).unwrap_or(rest.len());
        self.at += end;
        rest.get(..end).unwrap_or_default()
    }

    fn requirement(&mut self) -> Result<Expression, SelectorError> {
        if self.rest().starts_with('!') && !self.rest().starts_with("!=") {
            self.at += 1;
            return Ok(Expression::DoesNotExist(self.key()?));
        }
        let key = self.key()?;
        if self.takes("!=") {
            return Ok(Expression::NotEqual(key, self.value()?));
        }
        // The longer sign first.
        if self.takes("==") || self.takes("=") {
            return Ok(Expression::Equal(key, self.value()?));
        }
        match self.word() {
            "in" => Ok(Expression::In(key, self.values()?)),
            "notin" => Ok(Expression::NotIn(key, self.values()?)),
            "" => Ok(Expression::Exists(key)),
            _ => Err(self.expected("an operator")),
        }
    }

    fn key(&mut self) -> Result<String, SelectorError> {
        let word = self.word();
        let (prefix, name) = match word.split_once('/') {
            Some((prefix, name)) => (Some(prefix), name),
            None => (None, word),
        };
        let prefix = prefix.is_none_or(|prefix| (1..=MAX_PREFIX).contains(&prefix.len()));
        match prefix && !name.is_empty() && is_label_text(name) {
            true => Ok(word.to_owned()),
            false => Err(self.expected("the name of a label")),
        }
    }

    /// It may be empty.
    fn value(&mut self) -> Result<String, SelectorError> {
        let word = self.word();
        match is_label_text(word) {
            true => Ok(word.to_owned()),
            false => Err(self.expected("the value of a label")),
        }
    }

    fn values(&mut self) -> Result<BTreeSet<String>, SelectorError> {
        if !self.takes("(") {
            return Err(self.expected("an opening parenthesis"));
        }
        let mut values = BTreeSet::new();
        loop {
            values.insert(self.value()?);
            if self.takes(")") {
                return Ok(values);
            }
            if !self.takes(",") {
                return Err(self.expected("a comma or a closing parenthesis"));
            }
        }
    }
}

/// Empty, or at most 63 of `[A-Za-z0-9._-]` with letters or digits at both ends.
fn is_label_text(text: &str) -> bool {
    let ends = |c: Option<char>| c.is_none_or(|c| c.is_ascii_alphanumeric());
    text.len() <= MAX_NAME
        && !text.contains('/')
        && ends(text.chars().next())
        && ends(text.chars().next_back())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use kube::core::SelectorExt;
    use proptest::prelude::*;

    use super::*;

    fn matches(text: &str, labels: &[(&str, &str)]) -> bool {
        let labels: BTreeMap<String, String> = labels
            .iter()
            .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
            .collect();
        parse(text).expect("a selector").matches(&labels)
    }

    #[test]
    fn every_operator_means_what_kubernetes_means() {
        let web = [("app", "web"), ("tier", "a")];
        for yes in [
            "",
            "app=web",
            "app==web",
            " app = web , tier in ( a , b ) ",
            "app!=api",
            "zone!=eu",
            "zone notin (eu)",
            "tier notin (b,c)",
            "tier",
            "!zone",
            "app in (web,)",
        ] {
            assert!(matches(yes, &web), "{yes}");
        }
        for no in [
            "app=api",
            "app=",
            "app!=web",
            "tier in (b)",
            "tier notin (a)",
            "zone",
            "!tier",
            "app=web,zone",
        ] {
            assert!(!matches(no, &web), "{no}");
        }
        assert!(matches("a.example/b=", &[("a.example/b", "")]));
        // `in` and `notin` are names like any other.
        assert!(matches(
            "in in (in),notin=notin",
            &[("in", "in"), ("notin", "notin")]
        ));
    }

    #[test]
    fn what_is_no_selector_is_refused_and_says_where() {
        let errors: Vec<String> = [
            "=web",
            "app=web,",
            ",",
            "app in web",
            "app in (web",
            "app in ()x",
            "app ~ web",
            "app=-web",
            "a/b/c",
            "/a=b",
            "app>1",
            "!",
            "!=a",
            "app=web tier=a",
            "app=\u{e9}",
        ]
        .iter()
        .map(|text| format!("{text}: {}", parse(text).expect_err(text)))
        .collect();
        for error in &errors {
            assert!(error.contains("was expected"), "{error}");
        }
        assert_eq!(
            parse(&"a,".repeat(MAX_TEXT)).expect_err("too long"),
            SelectorError::TooLong
        );
        assert!(parse(&format!("{}=b", "a".repeat(64))).is_err());
    }

    fn name() -> impl Strategy<Value = String> {
        "([a-z]{1,8}/)?[a-z0-9]([a-z0-9._-]{0,8}[a-z0-9])?"
    }

    fn value() -> impl Strategy<Value = String> {
        "([a-z0-9]([a-z0-9._-]{0,8}[a-z0-9])?)?"
    }

    fn expression() -> impl Strategy<Value = Expression> {
        let set = || prop::collection::btree_set(value(), 1..4);
        prop_oneof![
            (name(), set()).prop_map(|(key, set)| Expression::In(key, set)),
            (name(), set()).prop_map(|(key, set)| Expression::NotIn(key, set)),
            (name(), value()).prop_map(|(key, value)| Expression::Equal(key, value)),
            (name(), value()).prop_map(|(key, value)| Expression::NotEqual(key, value)),
            name().prop_map(Expression::Exists),
            name().prop_map(Expression::DoesNotExist),
        ]
    }

    proptest! {
        #[test]
        fn reads_what_kube_writes(expressions in prop::collection::vec(expression(), 0..5)) {
            let selector: Selector = expressions.into_iter().collect();
            prop_assert_eq!(parse(&selector.to_string()).map(|read| read.to_string()), Ok(selector.to_string()));
        }

        #[test]
        fn no_text_makes_it_fail(text in "[a-z=!,() ./\u{e9}-]{0,40}") {
            let _ = parse(&text);
        }
    }
}
