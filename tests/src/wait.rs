//! Waiting for a condition: polled, bounded, and able to say what was still wrong at the end. No test sleeps for a
//! fixed time.

use std::time::{Duration, Instant};

use anyhow::{Result, anyhow};

/// How often a condition is looked at. Short against every latency a test measures, long against a kubectl call.
const PERIOD: Duration = Duration::from_millis(20);

/// `Duration::from_secs`, for calls that read as a sentence.
pub const fn seconds(n: u64) -> Duration {
    Duration::from_secs(n)
}

/// Calls `probe` until it gives `Ok`, for at most `within`; the error then names `what` and the last reason.
pub async fn eventually<T>(
    what: &str,
    within: Duration,
    mut probe: impl AsyncFnMut() -> Result<T>,
) -> Result<T> {
    let began = Instant::now();
    let mut last = anyhow!("the first look did not end");
    loop {
        let left = within.saturating_sub(began.elapsed());
        match tokio::time::timeout(left, probe()).await {
            Ok(Ok(value)) => return Ok(value),
            Ok(Err(error)) => last = error,
            // The look that was cut off knows less than the one before it.
            Err(_) => {}
        }
        if began.elapsed() + PERIOD >= within {
            return Err(last.context(format!("not within {within:?}: {what}")));
        }
        tokio::time::sleep(PERIOD).await;
    }
}

#[cfg(test)]
mod tests {
    use anyhow::bail;

    use super::*;

    #[tokio::test]
    async fn gives_the_first_success() {
        let mut looks = 0;
        let value = eventually("three looks", seconds(5), async || {
            looks += 1;
            if looks < 3 {
                bail!("look {looks}")
            } else {
                Ok(looks)
            }
        });
        assert_eq!(value.await.unwrap(), 3);
    }

    #[tokio::test]
    async fn says_what_and_the_last_reason() {
        let error = eventually::<()>("rain", Duration::from_millis(60), async || {
            bail!("blue sky")
        })
        .await
        .unwrap_err();
        let text = format!("{error:#}");
        assert!(text.contains("rain") && text.contains("blue sky"), "{text}");
    }

    #[tokio::test]
    async fn a_probe_that_hangs_is_cut_off() {
        let began = Instant::now();
        eventually::<()>("never", Duration::from_millis(60), async || {
            std::future::pending().await
        })
        .await
        .unwrap_err();
        assert!(began.elapsed() < seconds(5));
    }
}
