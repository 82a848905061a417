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

/// The decision of an access log line, `kind namespace/name/part (reason)`; `None` for any other line.
fn decided(line: &Value) -> Option<String> {
    let line = line.get("fields").unwrap_or(line);
    line.get("status")?;
    let kind = line["kind"].as_str().unwrap_or_default();
    let decided = line.get("decided")?.as_str()?;
    let reason = line["reason"].as_str().map(|reason| format!(" ({reason})"));
    Some(
        format!("{kind} {decided}{}", reason.unwrap_or_default())
            .trim()
            .to_owned(),
    )
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    #[tokio::test]
    async fn each_request_finds_its_own_line_once_it_is_whole() {
        let mut file = tempfile::NamedTempFile::new().expect("a temporary file");
        let mut log = AccessLog::new(file.path().to_owned());
        let line = |status, reason| {
            format!(
                "{{\"status\":{status},\"kind\":\"ApiRoute\",\"decided\":\"shop/orders/catalog\"{reason}}}\n"
            )
        };
        write!(file, "starting\n{{\"level\":\"INFO\"}}\n{}", line(200, "")).expect("written");
        assert_eq!(
            log.decision().await.expect("there"),
            "ApiRoute shop/orders/catalog"
        );
        let second = line(401, ",\"reason\":\"unauthenticated\"");
        let (begin, end) = second.split_at(20);
        write!(file, "{begin}").expect("written");
        assert!(log.read().is_empty(), "half a line is none");
        write!(file, "{end}").expect("written");
        assert_eq!(
            log.decision().await.expect("there"),
            "ApiRoute shop/orders/catalog (unauthenticated)"
        );
        write!(file, "{}", line(500, "")).expect("written");
        log.skip();
        assert!(log.read().is_empty(), "passed over");
    }
}
