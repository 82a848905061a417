//! Follows a sidecar's access log and says, for the request just answered, which object and rule decided.

use std::{
    fs::File,
    io::{Read as _, Seek as _, SeekFrom},
    path::PathBuf,
    time::Duration,
};

use serde_json::Value;

/// How often and how many times the log is looked at: a line is written after its answer.
const LOOK: Duration = Duration::from_millis(10);
const LOOKS: u32 = 100;

/// A log file and how far it was read.
pub(crate) struct AccessLog {
    file: PathBuf,
    offset: u64,
}

impl AccessLog {
    /// From the beginning of `file`.
    pub(crate) fn new(file: PathBuf) -> Self {
        Self { file, offset: 0 }
    }

    /// Passes over what was written so far, such as the demo's own questions whether the sidecar is up.
    pub(crate) fn skip(&mut self) {
        self.offset = std::fs::metadata(&self.file).map_or(self.offset, |data| data.len());
    }

    /// Who decided the one request since the last call; `None` if no line of it appears within a second.
    pub(crate) async fn decision(&mut self) -> Option<String> {
        for _ in 0..LOOKS {
            if let Some(decided) = self.read().iter().rev().find_map(decided) {
                return Some(decided);
            }
            tokio::time::sleep(LOOK).await;
        }
        None
    }

    /// The whole lines since the last call; what cannot be read is read later.
    fn read(&mut self) -> Vec<Value> {
        let mut text = Vec::new();
        let read = File::open(&self.file).and_then(|mut file| {
            file.seek(SeekFrom::Start(self.offset))?;
            file.read_to_end(&mut text)
        });
        let whole = text.iter().rposition(|byte| *byte == b'\n');
        let (Ok(_), Some(end)) = (read, whole) else {
            return Vec::new();
        };
        self.offset += end as u64 + 1;
        text[..end]
            .split(|byte| *byte == b'\n')
            .filter_map(|line| serde_json::from_slice(line).ok())
            .collect()
    }
}

/// Who decided, from a line of the access log; `None` for any other line.
fn decided(line: &Value) -> Option<String> {
    line.get("status")?;
    let word = |name: &str| line[name].as_str();
    let refused = word("reason").map(|reason| match word("decided_by") {
        Some(by) => {
            let kind = word("decided_by_kind").unwrap_or_default();
            format!("{kind} {by}: {reason}")
        }
        None => format!("the sidecar itself: {reason}"),
    });
    let served = || {
        let mut text = format!("ApiRoute {}/{}", word("route")?, word("rule")?);
        if let Some(set) = line["shard"]["set"].as_str() {
            text.push_str(&format!(", ShardSet {set}"));
        }
        Some(text)
    };
    refused.or_else(served).or_else(|| Some("nobody".into()))
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    #[tokio::test]
    async fn each_request_finds_its_own_line_once_it_is_whole() {
        let mut file = tempfile::NamedTempFile::new().expect("a temporary file");
        let mut log = AccessLog::new(file.path().to_owned());
        let line = |status, more| {
            format!(
                "{{\"status\":{status},\"route\":\"shop/orders\",\"rule\":\"catalog\"{more}}}\n"
            )
        };
        let shard = ",\"shard\":{\"set\":\"shop/orders\",\"shard\":\"s0\"}";
        write!(
            file,
            "starting\n{{\"level\":\"INFO\"}}\n{}",
            line(200, shard)
        )
        .expect("written");
        assert_eq!(
            log.decision().await.expect("there"),
            "ApiRoute shop/orders/catalog, ShardSet shop/orders"
        );
        let second = line(
            429,
            ",\"reason\":\"limit-exceeded\",\"decided_by\":\"shop/per-client/per-client\",\
             \"decided_by_kind\":\"RateLimitPolicy\"",
        );
        let (begin, end) = second.split_at(20);
        write!(file, "{}{begin}", line(200, "")).expect("written");
        assert_eq!(log.read().len(), 1, "half a line is none");
        assert!(log.read().is_empty());
        write!(file, "{end}").expect("written");
        assert_eq!(
            log.decision().await.expect("there"),
            "RateLimitPolicy shop/per-client/per-client: limit-exceeded"
        );
        write!(file, "{}", line(500, "")).expect("written");
        log.skip();
        assert!(log.read().is_empty(), "passed over");
    }
}
