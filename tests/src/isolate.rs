//! One test, one set of namespaces: the test binary is started again, for this test only, in network, process and
//! mount namespaces of its own. When its first process ends, the kernel ends all that it started. What the servers in
//! there are is not this module's business.

use std::fs::{self, File};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail, ensure};

use crate::world::{NETWORK, World};

/// Tells a test process that it is the one inside: the folder of its world.
const INSIDE: &str = "SLUICE_TEST_WORLD";

/// Set to keep the folder of a test (logs, certificates, etcd's data) after it.
const KEEP: &str = "SLUICE_TEST_KEEP";

/// Written by a test that ran to its end: a filter that matches no test also exits with 0.
const DONE: &str = "done";

/// How long a test may take unless it says otherwise.
pub const LIMIT: Duration = Duration::from_secs(180);

/// How much longer the outer process waits before it kills what could not end by itself.
const GRACE: Duration = Duration::from_secs(20);

/// Runs the body of a `#[test]` in namespaces of its own: `isolated!(async |world| { ...; Ok(()) })`, or with a bound
/// in front: `isolated!(seconds(300), async |world| ...)`. The body gets a [`World`] and gives `anyhow::Result<()>`.
#[macro_export]
macro_rules! isolated {
    ($body:expr) => {
        $crate::isolated!($crate::isolate::LIMIT, $body)
    };
    ($limit:expr, $body:expr) => {{
        fn here() {}
        $crate::isolate::run(::std::any::type_name_of_val(&here), $limit, $body)
    }};
}

/// What [`isolated!`] calls. `here` is the path of a function inside the test function: `binary::module::test::here`.
pub fn run(here: &str, limit: Duration, body: impl AsyncFnOnce(&World) -> Result<()>) {
    match std::env::var_os(INSIDE) {
        Some(dir) => inside(dir.into(), limit, body),
        None => {
            if let Err(error) = outside(test_name(here), limit) {
                panic!("{error:#}");
            }
        }
    }
}

/// The name libtest knows the test by: the path without the binary in front and the marker function at the end.
fn test_name(here: &str) -> &str {
    let path = here.split_once("::").map_or(here, |(_binary, path)| path);
    path.rsplit_once("::").map_or(path, |(name, _here)| name)
}

/// Starts this binary again for one test and passes on what it printed and how it ended.
fn outside(name: &str, limit: Duration) -> Result<()> {
    ensure!(
        rustix::process::geteuid().is_root(),
        "{name} needs root: it runs in network namespaces of its own. Run the tests as root, or in a container as root"
    );
    let dir = tempfile::Builder::new()
        .prefix("sluice-test-")
        .tempdir()
        .context("making the test's folder")?;
    let output = dir.path().join("output");
    let kept = dir.path().join("world");
    fs::create_dir(&kept)?;

    let mut child = enter(name, &kept, &output)?;
    let ended = wait(&mut child, limit + GRACE)?;
    let printed = fs::read(&output)
        .map(|b| String::from_utf8_lossy(&b).into_owned())
        .unwrap_or_default();
    let done = dir.path().join(DONE).exists();
    if std::env::var_os(KEEP).is_some() {
        println!("kept: {}", dir.keep().display());
    }
    // Shown for a failing test, or with --nocapture: figures that a test prints.
    println!("{}", without_frame(&printed));
    match ended {
        None => bail!(
            "{name} did not end within {:?} and was killed",
            limit + GRACE
        ),
        Some(status) if !status.success() => {
            bail!("{name} failed inside its namespace ({status}): its output is above")
        }
        Some(_) if !done => bail!(
            "{name} is not what libtest calls this test: use isolated! directly in the #[test] function"
        ),
        Some(_) => Ok(()),
    }
}

/// What the inner run printed without libtest's frame: only the outer result counts, and only it may look like one.
fn without_frame(printed: &str) -> String {
    let frame = |line: &&str| {
        !line.is_empty()
            && !["running 1 test", "test result:", "failures:"]
                .iter()
                .any(|f| line.starts_with(f))
    };
    printed
        .lines()
        .filter(frame)
        .map(|line| line.to_string() + "\n")
        .collect()
}

/// Starts `name` inside. Whatever ends the outer process (Ctrl-C, a CI timeout) ends `unshare`, and that the namespace.
fn enter(name: &str, world: &Path, output: &Path) -> Result<Child> {
    let log = File::create(output)?;
    Command::new("setpriv")
        .args([
            "--pdeathsig",
            "KILL",
            "unshare",
            "--net",
            "--mount",
            "--propagation",
            "private",
        ])
        .args(["--pid", "--fork", "--kill-child", "--mount-proc", "--"])
        .arg(std::env::current_exe()?)
        .args([name, "--exact", "--nocapture", "--test-threads=1"])
        .env(INSIDE, world)
        .env("RUST_BACKTRACE", "0")
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log)
        .spawn()
        .context("starting setpriv and unshare: is util-linux installed? `make tools` installs it")
}

/// Waits for the end, or kills `unshare`: `--kill-child` takes the namespace with it. `None` says that it was killed.
fn wait(child: &mut Child, limit: Duration) -> Result<Option<ExitStatus>> {
    let deadline = Instant::now() + limit;
    while Instant::now() < deadline {
        if let Some(status) = child.try_wait()? {
            return Ok(Some(status));
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    child.kill()?;
    child.wait()?;
    Ok(None)
}

/// The inner process: prepares the namespace, runs the body, prints logs when it fails.
fn inside(dir: PathBuf, limit: Duration, body: impl AsyncFnOnce(&World) -> Result<()>) {
    let world = prepare(&dir).unwrap_or_else(|error| panic!("preparing the namespace: {error:#}"));
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("a runtime");
    let outcome = catch_unwind(AssertUnwindSafe(|| {
        runtime.block_on(async {
            match tokio::time::timeout(limit, body(&world)).await {
                Ok(result) => result,
                Err(_) => Err(anyhow!("the test did not end within {limit:?}")),
            }
        })
    }));
    runtime.shutdown_timeout(Duration::from_secs(1));
    match outcome {
        Ok(Ok(())) => File::create(dir.with_file_name(DONE))
            .map(drop)
            .expect("the outer folder is there"),
        Ok(Err(error)) => {
            world.print_logs();
            panic!("{error:?}");
        }
        Err(panic) => {
            world.print_logs();
            resume_unwind(panic);
        }
    }
}

/// Addresses, a memory-backed folder, the TLS provider.
fn prepare(dir: &Path) -> Result<World> {
    command("ip", &["link", "set", "lo", "up"])?;
    command("ip", &["address", "add", NETWORK, "dev", "lo"])?;
    if std::env::var_os(KEEP).is_none() {
        // etcd syncs every write: on memory that costs nothing, and nothing is left behind.
        command(
            "mount",
            &[
                "-t",
                "tmpfs",
                "-o",
                "mode=0700,size=2g",
                "tmpfs",
                &dir.to_string_lossy(),
            ],
        )?;
    }
    // A second call finds it installed: fine.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    World::new(dir.into())
}

fn command(program: &str, args: &[&str]) -> Result<()> {
    let output = Command::new(program)
        .args(args)
        .output()
        .with_context(|| format!("starting {program}"))?;
    ensure!(
        output.status.success(),
        "{program} {}: {}",
        args.join(" "),
        String::from_utf8_lossy(&output.stderr).trim()
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_is_the_path_between_binary_and_marker() {
        assert_eq!(test_name("real_servers::smoke::here"), "smoke");
        assert_eq!(
            test_name("real_servers::limits::burst::here"),
            "limits::burst"
        );
    }

    #[test]
    fn a_body_runs_with_the_addresses_of_its_world() {
        crate::isolated!(async |world| {
            let listener = tokio::net::TcpListener::bind((world.address(), 80)).await?;
            ensure!(listener.local_addr()?.to_string() == "10.123.1.1:80");
            ensure!(
                std::process::id() == 1,
                "not alone in its process namespace"
            );
            Ok(())
        });
    }

    #[test]
    #[should_panic(expected = "failed inside its namespace")]
    fn an_error_inside_fails_the_test() {
        crate::isolated!(async |_world| bail!("as asked"));
    }

    #[test]
    #[should_panic(expected = "failed inside its namespace")]
    fn a_test_that_hangs_is_ended() {
        crate::isolated!(Duration::from_millis(100), async |_world| {
            std::future::pending::<()>().await;
            Ok(())
        });
    }

    #[test]
    #[should_panic(expected = "is not what libtest calls this test")]
    fn a_wrong_name_does_not_pass() {
        run("x::no_such_test::here", LIMIT, async |_world| Ok(()));
    }
}
