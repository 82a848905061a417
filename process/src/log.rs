//! The process log on standard error: one line per event, as text or JSON. Which events: the environment variable
//! `SLUICE_LOG`, in the syntax of tracing's `EnvFilter` (`info`, `debug`, `sluice_operator::stream=debug,info`).

use std::{fmt, str::FromStr};

use tracing_subscriber::EnvFilter;

/// The environment variable that says which events are logged.
pub const LEVEL_VARIABLE: &str = "SLUICE_LOG";

/// The shape of a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Format {
    /// For people.
    #[default]
    Text,
    /// One JSON object per line, for collectors.
    Json,
}

/// A log that could not be started.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// The name of a format is unknown.
    #[error("unknown log format {0:?}: text or json")]
    Format(String),
    /// The filter does not parse.
    #[error(
        "{LEVEL_VARIABLE}={filter:?} is not a log filter: {cause}; try `info` or `sluice_operator=debug,info`"
    )]
    Filter {
        /// What the variable holds.
        filter: String,
        /// Why it does not parse.
        cause: String,
    },
    /// Another subscriber is there already.
    #[error("the log was started twice")]
    Twice,
}

impl FromStr for Format {
    type Err = LogError;

    fn from_str(text: &str) -> Result<Self, LogError> {
        match text {
            "text" => Ok(Self::Text),
            "json" => Ok(Self::Json),
            other => Err(LogError::Format(other.chars().take(40).collect())),
        }
    }
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Text => "text",
            Self::Json => "json",
        })
    }
}

/// Starts the log of this process; once. Without the variable, `default_filter` decides.
pub fn start(format: Format, default_filter: &str) -> Result<(), LogError> {
    let filter = std::env::var(LEVEL_VARIABLE).unwrap_or_else(|_| default_filter.to_owned());
    let parsed = EnvFilter::try_new(&filter).map_err(|cause| LogError::Filter {
        filter,
        cause: cause.to_string(),
    })?;
    let builder = tracing_subscriber::fmt()
        .with_env_filter(parsed)
        .with_writer(std::io::stderr);
    match format {
        Format::Text => builder.with_ansi(false).try_init(),
        Format::Json => builder.json().flatten_event(true).try_init(),
    }
    .map_err(|_| LogError::Twice)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn formats_read_back_and_others_are_refused_by_name() {
        for format in [Format::Text, Format::Json] {
            assert_eq!(format.to_string().parse::<Format>().ok(), Some(format));
        }
        let error = "xml".parse::<Format>().expect_err("refused").to_string();
        assert!(error.contains("xml") && error.contains("json"), "{error}");
    }
}
