//! The client pod as seen by a test: started in a namespace, asked through `kubectl exec`, gone with its handle's
//! namespace. What it sends is the test's.

use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::json;
use sluice_tests::eventually;
use tokio::io::AsyncWriteExt;
use tokio::process::Child;

use crate::place::Place;
use crate::wire::{Ask, LatencyReport, LatencySpec, LoadReport, LoadSpec, TcpAsk, TcpTold, Told};

/// How long a pod may take to run.
const START: Duration = Duration::from_secs(60);
/// The program in its image.
const PROGRAM: &str = "/sluice-e2e-client";

/// A pod that sends what it is told to. It is never injected.
#[derive(Debug, Clone)]
pub struct ClientPod<'p> {
    place: &'p Place,
    name: String,
}

/// A load under way.
#[derive(Debug)]
pub struct RunningLoad {
    child: Child,
}

impl<'p> ClientPod<'p> {
    /// Starts one of this name and waits until it runs.
    pub async fn start(place: &'p Place, name: &str) -> Result<Self> {
        let pod = json!({
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": name, "labels": {"app": name, "sluice.dev/inject": "false"}},
            "spec": {
                "terminationGracePeriodSeconds": 1,
                "serviceAccountName": "default",
                "containers": [{
                    "name": "client",
                    "image": place.image("sluice-e2e-client"),
                    "args": ["idle"],
                    "securityContext": {
                        "allowPrivilegeEscalation": false,
                        "runAsNonRoot": true,
                        "runAsUser": 65_532,
                        "capabilities": {"drop": ["ALL"]},
                        "seccompProfile": {"type": "RuntimeDefault"},
                    },
                }],
            },
        });
        place.apply(&pod.to_string()).await?;
        let client = Self {
            place,
            name: name.into(),
        };
        eventually(&format!("pod {name} runs"), START, async || {
            let phase = place
                .kubectl(["get", "pod", name, "-o", "jsonpath={.status.phase}"])
                .await?;
            anyhow::ensure!(phase == "Running", "it is {phase}");
            Ok(())
        })
        .await?;
        Ok(client)
    }

    /// One request.
    pub async fn ask(&self, ask: Ask) -> Result<Told> {
        self.send(vec![ask]).await?.pop().context("one answer")
    }

    /// Requests one after the other.
    pub async fn send(&self, asks: Vec<Ask>) -> Result<Vec<Told>> {
        self.call("send", &asks).await
    }

    /// One raw connection.
    pub async fn tcp(&self, ask: TcpAsk) -> Result<TcpTold> {
        self.call("tcp", &ask).await
    }

    /// Changes of a route, timed.
    pub async fn latency(&self, spec: LatencySpec) -> Result<LatencyReport> {
        self.call("latency", &spec).await
    }

    /// Starts a load; it runs until [`RunningLoad::finish`].
    pub async fn load(&self, spec: &LoadSpec) -> Result<RunningLoad> {
        let mut child = self.exec("load")?;
        let input = child.stdin.as_mut().context("standard input is a pipe")?;
        let line = serde_json::to_string(spec)? + "\n";
        input.write_all(line.as_bytes()).await?;
        input.flush().await?;
        Ok(RunningLoad { child })
    }

    async fn call<T: DeserializeOwned>(&self, command: &str, input: &impl Serialize) -> Result<T> {
        let mut child = self.exec(command)?;
        let mut stdin = child.stdin.take().context("standard input is a pipe")?;
        stdin.write_all(&serde_json::to_vec(input)?).await?;
        drop(stdin);
        answer(child).await
    }

    fn exec(&self, command: &str) -> Result<Child> {
        self.place
            .command(["exec", "-i", &self.name, "--", PROGRAM, command])?
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .context("starting kubectl exec")
    }
}

impl RunningLoad {
    /// Starts no more requests, waits for those under way, and gives what was seen.
    pub async fn finish(mut self) -> Result<LoadReport> {
        drop(self.child.stdin.take());
        answer(self.child).await
    }

    /// Waits until it has ended by its own bound, and gives what was seen.
    pub async fn run_out(mut self) -> Result<LoadReport> {
        // Whoever closes it ends the load.
        let _open = self.child.stdin.take();
        answer(self.child).await
    }
}

async fn answer<T: DeserializeOwned>(child: Child) -> Result<T> {
    let output = child.wait_with_output().await?;
    if !output.status.success() {
        bail!(
            "the client: {}: {}",
            output.status,
            String::from_utf8_lossy(&output.stderr)
        );
    }
    serde_json::from_slice(&output.stdout).context("the client's answer")
}

impl Told {
    /// The status, or zero where there was no answer.
    pub fn status(&self) -> u16 {
        match self {
            Self::Answer { status, .. } => *status,
            Self::Error(_) => 0,
        }
    }

    /// The first header of this name.
    pub fn header(&self, name: &str) -> Option<&str> {
        let Self::Answer { headers, .. } = self else {
            return None;
        };
        headers
            .iter()
            .find(|(found, _)| found.eq_ignore_ascii_case(name))
            .map(|(_, value)| value.as_str())
    }

    /// Itself when the status is this; else an error that shows it.
    pub fn expect(self, status: u16) -> Result<Self> {
        if self.status() != status {
            bail!("expected {status}: {self:?}");
        }
        Ok(self)
    }
}

impl Ask {
    /// A GET of `path` from `to`.
    pub fn get(to: &str, path: &str) -> Self {
        Self {
            to: to.into(),
            path: path.into(),
            ..Self::default()
        }
    }

    /// With one more header.
    pub fn with(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.into(), value.into()));
        self
    }

    /// With another method.
    pub fn method(self, method: &str) -> Self {
        Self {
            method: method.into(),
            ..self
        }
    }
}
