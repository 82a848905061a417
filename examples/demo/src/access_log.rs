//! Follows a sidecar's access log and says, for a request just answered, which object and rule decided.

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

    /// Who decided the request from this address; `None` if no line of it appears within a second. Lines before
    /// it are passed over, so a request can be asked about once, and in the order of sending.
    pub(crate) async fn decision(&mut self, peer: &str) -> Option<String> {
        for _ in 0..LOOKS {
            let line = self.read().into_iter().find(|line| line["peer"] == peer);
            if let Some(line) = line {
                return Some(decided(&line));
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

/// Who decided, from a line of the access log.
fn decided(line: &Value) -> String {
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
    refused.or_else(served).unwrap_or_else(|| "no route".into())
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    #[tokio::test]
    async fn each_request_finds_its_own_line_once_it_is_whole() {
        let mut file = tempfile::NamedTempFile::new().expect("a temporary file");
        let mut log = AccessLog::new(file.path().to_owned());
        let line = |peer: &str, more: &str| {
            format!(
                "{{\"peer\":\"{peer}\",\"route\":\"shop/orders\",\"rule\":\"catalog\"{more}}}\n"
            )
        };
        let shard = ",\"shard\":{\"set\":\"shop/orders\",\"shard\":\"s0\"}";
        let other = line("[::1]:0", "");
        write!(
            file,
            "starting\n{{\"level\":\"INFO\"}}\n{other}{}",
            line("[::1]:1", shard)
        )
        .expect("written");
        assert_eq!(
            log.decision("[::1]:1").await.expect("there"),
            "ApiRoute shop/orders/catalog, ShardSet shop/orders"
        );
        let third = line(
            "[::1]:3",
            ",\"reason\":\"limit-exceeded\",\"decided_by\":\"shop/per-client/per-client\",\
             \"decided_by_kind\":\"RateLimitPolicy\"",
        );
        let (begin, end) = third.split_at(20);
        write!(file, "{}{begin}", line("[::1]:2", "")).expect("written");
        assert_eq!(log.read().len(), 1, "half a line is none");
        assert!(log.read().is_empty());
        write!(file, "{end}").expect("written");
        assert_eq!(
            log.decision("[::1]:3").await.expect("there"),
            "RateLimitPolicy shop/per-client/per-client: limit-exceeded"
        );
        assert_eq!(log.decision("[::1]:3").await, None, "asked about once");
    }
}
