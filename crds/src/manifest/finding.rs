//! What is wrong with a manifest, and where.

use std::fmt;

use super::tree::SyntaxError;

/// One thing that is wrong, with its place in the text.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ManifestFinding {
    /// The file's name as it was given.
    pub file: String,
    /// Line, counted from 1.
    pub line: u64,
    /// Column, counted from 1.
    pub column: u64,
    /// The field, as `spec.rules[0].name`; empty where the text is no YAML or the object as a whole is meant.
    pub path: String,
    /// What is wrong, in words; never the content of a Secret.
    pub message: String,
}

impl ManifestFinding {
    pub(super) fn of_file(file: &str, message: String) -> Self {
        Self {
            file: file.to_owned(),
            line: 1,
            column: 1,
            path: String::new(),
            message,
        }
    }

    pub(super) fn of_syntax(file: &str, error: SyntaxError) -> Self {
        let SyntaxError { place, message } = error;
        Self {
            file: file.to_owned(),
            line: place.line,
            column: place.column,
            path: String::new(),
            message,
        }
    }
}

impl fmt::Display for ManifestFinding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            file,
            line,
            column,
            path,
            message,
        } = self;
        match path.is_empty() {
            true => write!(f, "{file}:{line}:{column}: {message}"),
            false => write!(f, "{file}:{line}:{column}: {path}: {message}"),
        }
    }
}
