//! Writing to the terminal. What is written may come from a cluster or a file of somebody else: control characters, with
//! which a terminal can be steered, are written out.

use std::{
    error::Error,
    fmt::Write as _,
    io::{self, Write},
};

use clap::ValueEnum;
use serde::Serialize;

/// The shapes of an answer: for people, or its value for programs.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub enum Shape {
    Text,
    Json,
    Yaml,
}

impl Shape {
    /// Writes an answer in this shape to standard output.
    pub fn print(
        self,
        value: &impl Serialize,
        text: impl FnOnce() -> String,
    ) -> anyhow::Result<()> {
        print(&match self {
            Self::Text => text(),
            Self::Json => json(value)?,
            Self::Yaml => yaml(value)?,
        })?;
        Ok(())
    }
}

/// The shapes of an answer that is a value and nothing else.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub enum ValueShape {
    Yaml,
    Json,
}

/// Writes a text to standard output. A reader that has gone (`| head`) is no error.
pub fn print(text: &str) -> io::Result<()> {
    script(harmless(text).as_bytes())
}

/// Writes what this program itself made, byte for byte.
pub fn script(bytes: &[u8]) -> io::Result<()> {
    let mut out = io::stdout().lock();
    let written = out.write_all(bytes).and_then(|()| out.flush());
    match written {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        other => other,
    }
}

/// Writes a line to standard error; where that is closed, nobody listens.
pub fn complain(text: &str) {
    let _ = writeln!(io::stderr(), "{}", harmless(text));
}

/// A value as indented JSON with a line's end.
pub fn json(value: &impl Serialize) -> anyhow::Result<String> {
    Ok(serde_json::to_string_pretty(value)? + "\n")
}

/// A value as YAML with a line's end.
pub fn yaml(value: &impl Serialize) -> anyhow::Result<String> {
    let text = serde_saphyr::to_string(value)?;
    Ok(text.trim_end().to_owned() + "\n")
}

/// An error with its causes, each once: many repeat theirs.
pub fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let words = error.to_string();
        if !text.contains(&words) {
            text.push_str(": ");
            text.push_str(&words);
        }
        cause = error.source();
    }
    text
}

fn harmless(text: &str) -> String {
    let mut clean = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '\n' => clean.push('\n'),
            // Writing into a String cannot fail.
            control if control.is_control() => {
                let _ = write!(clean, "{}", control.escape_default());
            }
            other => clean.push(other),
        }
    }
    clean
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_terminal_cannot_be_steered() {
        assert_eq!(harmless("a\u{1b}[2Jb\nü\r"), "a\\u{1b}[2Jb\nü\\r");
    }
}
