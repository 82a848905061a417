//! The directory source in front of a real engine: what it delivers, keeps and says.

use std::{fs, os::unix::fs::symlink};

use sluice_process::Readiness;
use sluice_snapshot::UnitName;
use sluice_translate::{FindingReason, world::Pods};
use tempfile::TempDir;
use tokio::task::JoinHandle;

use super::*;
use crate::{
    engine::{self, Handle},
    identity::{Authority, CaMaterial},
    sinks::{StatusFiles, StatusSink},
    stream::{Published, SessionTable, testing::until},
};

const SERVICE: &str = "\
apiVersion: v1
kind: Service
metadata: {name: orders, namespace: shop}
spec:
  ports: [{name: http, port: 80, targetPort: 8080}]
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: orders, namespace: shop, labels: {kubernetes.io/service-name: orders}}
addressType: IPv4
ports: [{name: http, port: 8080}]
endpoints:
- {addresses: [127.0.0.1], conditions: {ready: true}, targetRef: {kind: Pod, name: orders-0}}
";

fn route(name: &str, host: &str) -> String {
    format!(
        "apiVersion: sluice.dev/v1alpha1\nkind: ApiRoute\nmetadata: {{name: {name}, namespace: shop}}\nspec:\n  parentRefs: [{{kind: Service, name: orders}}]\n  hostnames: [{host}]\n"
    )
}

struct World {
    dir: TempDir,
    engine: Handle,
    published: Arc<Published>,
    state: Arc<StateDir>,
    sink: StatusFiles,
    shutdown: Shutdown,
    running: Vec<JoinHandle<anyhow::Result<()>>>,
}

impl World {
    /// Manifests in `first` and `second`, of which `files` are there from the start.
    async fn start(files: &[(&str, &str)]) -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        for name in ["first", "second"] {
            fs::create_dir(dir.path().join(name)).expect("made");
        }
        for (file, content) in files {
            fs::write(dir.path().join(file), content).expect("written");
        }
        let state = Arc::new(StateDir::open(&dir.path().join("state")).expect("made"));
        Self::over(dir, state).await
    }

    async fn over(dir: TempDir, state: Arc<StateDir>) -> Self {
        let registry = Registry::new();
        let material = CaMaterial::generate(1_700_000_000).expect("a CA");
        let hash_key =
            aws_lc_rs::hmac::Key::new(aws_lc_rs::hmac::HMAC_SHA256, material.hash_key.expose());
        let published = Arc::new(Published::default());
        let shutdown = Shutdown::default();
        let (engine, actor) = engine::new(engine::Wiring {
            settings: sluice_translate::world::Settings {
                hash_key,
                operator_namespace: "sluice-system".into(),
                pods: Pods::FromSlices,
            },
            published: published.clone(),
            table: SessionTable::new(),
            authority: Arc::new(
                Authority::new(material, "operator", "cluster.local", 1_700_000_000)
                    .expect("an authority"),
            ),
            ready: Readiness::default().condition("world"),
            metrics: engine::Metrics::register(&registry).expect("registers"),
            verify: false,
            shutdown: shutdown.clone(),
        });
        let places = Places {
            directories: vec![dir.path().join("first"), dir.path().join("second")],
            config: Some(dir.path().join("config.yaml")),
        };
        let written = Arc::new(Notify::new());
        let metrics = Metrics::register(&registry).expect("registers");
        let source = Directory::new(places, engine.inlet("directory"), metrics)
            .with_state(state.clone(), written.clone())
            .expect("made");
        let running = vec![
            tokio::spawn(actor.run()),
            tokio::spawn(source.run(shutdown.clone())),
        ];
        let world = Self {
            sink: StatusFiles::new(state.clone(), written),
            dir,
            engine,
            published,
            state,
            shutdown,
            running,
        };
        let started = world.published.clone();
        until("the first list", || started.has_started()).await;
        world
    }

    fn write(&self, file: &str, content: &str) {
        fs::write(self.dir.path().join(file), content).expect("written");
    }

    /// Ends it and leaves the files.
    async fn stop(self) -> (TempDir, Arc<StateDir>) {
        self.shutdown.begin("test");
        for task in self.running {
            task.await.expect("no panic").expect("ends well");
        }
        (self.dir, self.state)
    }

    /// The hostnames of a route, as its unit says them; `None` where there is no such unit.
    async fn unit(&self, name: &str) -> Option<String> {
        let name = UnitName::route("shop", name);
        let read = move |engine: &sluice_translate::Engine| {
            let unit = engine.unit(&name)?;
            Some(String::from_utf8_lossy(&unit.body).into_owned())
        };
        self.engine.read(read).await.expect("the engine runs")
    }

    async fn generation(&self, name: &str) -> Option<i64> {
        let id = ObjectId::new(Kind::ApiRoute, "shop", name);
        let read = move |engine: &sluice_translate::Engine| Some(engine.meta(&id)?.generation);
        self.engine.read(read).await.expect("the engine runs")
    }

    /// The inbound unit of the group, which names its routes and hostnames.
    async fn inbound(&self) -> String {
        let name = UnitName::inbound("shop", "orders");
        let read = move |engine: &sluice_translate::Engine| {
            let unit = engine.unit(&name)?;
            Some(String::from_utf8_lossy(&unit.body).into_owned())
        };
        self.engine
            .read(read)
            .await
            .expect("the engine runs")
            .unwrap_or_default()
    }

    async fn until_inbound(&self, what: &str, condition: impl Fn(&str) -> bool) {
        let deadline = Instant::now() + crate::stream::testing::PATIENCE;
        loop {
            let inbound = self.inbound().await;
            if condition(&inbound) {
                return;
            }
            assert!(Instant::now() < deadline, "{what}: not in time: {inbound}");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    async fn file_findings(&self, file: &str) -> Vec<(FindingReason, String)> {
        let path = self.dir.path().join(file).display().to_string();
        let id = ObjectId::new(Kind::File, "", &path);
        let read = move |engine: &sluice_translate::Engine| {
            let findings = engine.findings(&id).into_iter();
            findings
                .map(|finding| (finding.reason, finding.message.clone()))
                .collect()
        };
        self.engine.read(read).await.expect("the engine runs")
    }
}

#[tokio::test]
async fn what_is_there_is_published_as_one_and_changes_follow() {
    let world = World::start(&[
        ("first/service.yaml", SERVICE),
        ("first/route.yaml", &route("orders", "one.example")),
        ("first/ignored.txt", "not YAML: ["),
        ("first/.hidden.yaml", "not YAML: ["),
    ])
    .await;
    assert_eq!(world.published.pods().len(), 1);
    assert!(world.inbound().await.contains("one.example"));
    assert_eq!(world.generation("orders").await, Some(1));

    world.write("first/route.yaml", &route("orders", "two.example"));
    world
        .until_inbound("the change", |inbound| inbound.contains("two.example"))
        .await;
    assert_eq!(world.generation("orders").await, Some(2));

    fs::remove_file(world.dir.path().join("first/route.yaml")).expect("removed");
    world
        .until_inbound("the deletion", |inbound| !inbound.contains("example"))
        .await;
    assert_eq!(world.unit("orders").await, None);
    world.stop().await;
}

#[tokio::test]
async fn a_file_that_does_not_parse_keeps_its_last_good_objects_and_says_where() {
    let world = World::start(&[
        ("first/service.yaml", SERVICE),
        ("first/route.yaml", &route("orders", "one.example")),
    ])
    .await;
    world.write(
        "first/route.yaml",
        "apiVersion: sluice.dev/v1alpha1\nkind: [ApiRoute\n",
    );
    let deadline = Instant::now() + crate::stream::testing::PATIENCE;
    let findings = loop {
        let findings = world.file_findings("first/route.yaml").await;
        if !findings.is_empty() {
            break findings;
        }
        assert!(Instant::now() < deadline, "no finding in time");
        tokio::time::sleep(Duration::from_millis(10)).await;
    };
    assert_eq!(findings[0].0, FindingReason::UnreadableFile);
    assert!(findings[0].1.contains("line "), "{}", findings[0].1);
    tokio::time::sleep(GRACE * 2).await;
    assert!(
        world.inbound().await.contains("one.example"),
        "the last good one serves"
    );
    let statuses = world.state.list(Path::new("status/file/-")).expect("lists");
    assert_eq!(statuses.len(), 1);

    world.write("first/route.yaml", &route("orders", "two.example"));
    world
        .until_inbound("the mended file", |inbound| inbound.contains("two.example"))
        .await;
    assert_eq!(world.file_findings("first/route.yaml").await, []);
    assert_eq!(
        world
            .state
            .list(Path::new("status/file/-"))
            .expect("lists")
            .len(),
        0
    );
    world.stop().await;
}

#[tokio::test]
async fn a_route_that_the_schema_refuses_denies_what_it_names_from_the_start() {
    let broken = format!("{}  nonsense: 1\n", route("orders", "one.example"));
    let world = World::start(&[
        ("first/service.yaml", SERVICE),
        ("first/route.yaml", &broken),
        ("first/other.yaml", &route("other", "other.example")),
    ])
    .await;
    let findings = world.file_findings("first/route.yaml").await;
    assert_eq!(findings[0].0, FindingReason::UnknownField, "{findings:?}");
    assert!(
        findings[0].1.contains("nonsense") && findings[0].1.contains("line 7"),
        "{findings:?}"
    );
    let inbound = world.inbound().await;
    assert!(
        inbound.contains("one.example"),
        "its hostname is taken, not left open: {inbound}"
    );
    assert!(inbound.contains("other.example"), "{inbound}");
    let unit = world.unit("orders").await.expect("a unit that denies");
    assert!(
        unit.contains("Invalid") || unit.contains("broken"),
        "{unit}"
    );
    world.stop().await;
}

#[tokio::test]
async fn of_two_equal_objects_the_first_counts() {
    let world = World::start(&[
        ("first/service.yaml", SERVICE),
        ("first/route.yaml", &route("orders", "one.example")),
        ("second/a-route.yaml", &route("orders", "two.example")),
    ])
    .await;
    assert!(world.inbound().await.contains("one.example"));
    let findings = world.file_findings("second/a-route.yaml").await;
    assert_eq!(findings[0].0, FindingReason::DuplicateObject);
    assert!(findings[0].1.contains("first/route.yaml"), "{findings:?}");
    fs::remove_file(world.dir.path().join("first/route.yaml")).expect("removed");
    world
        .until_inbound("the second", |inbound| inbound.contains("two.example"))
        .await;
    world.stop().await;
}

#[tokio::test]
async fn a_rename_and_a_symlink_swap_never_take_an_object_away() {
    let world = World::start(&[
        ("first/service.yaml", SERVICE),
        ("first/route.yaml", &route("orders", "one.example")),
    ])
    .await;
    let path = world.dir.path().to_owned();
    let mut deltas = world.engine.deltas();
    // As an editor saves: the file is moved away, and written anew a moment later.
    fs::rename(
        path.join("first/route.yaml"),
        path.join("first/route.yaml~"),
    )
    .expect("renamed");
    tokio::time::sleep(GRACE / 4).await;
    world.write("first/route.yaml", &route("orders", "two.example"));
    world
        .until_inbound("the saved file", |inbound| inbound.contains("two.example"))
        .await;
    // As the kubelet updates a ConfigMap: `..data` is swapped by a rename.
    for version in ["v3", "v4"] {
        let data = path.join(format!("first/..{version}"));
        fs::create_dir(&data).expect("made");
        fs::write(
            data.join("route.yaml"),
            route("orders", &format!("{version}.example")),
        )
        .expect("written");
        symlink(format!("..{version}"), path.join("first/..data_tmp")).expect("linked");
        if version == "v3" {
            symlink("..data/route.yaml", path.join("first/link_tmp")).expect("linked");
            fs::rename(path.join("first/..data_tmp"), path.join("first/..data")).expect("swapped");
            fs::rename(path.join("first/link_tmp"), path.join("first/route.yaml")).expect("put");
        } else {
            fs::rename(path.join("first/..data_tmp"), path.join("first/..data")).expect("swapped");
        }
        world
            .until_inbound(version, |inbound| inbound.contains(version))
            .await;
    }
    while let Ok(delta) = deltas.try_recv() {
        assert!(delta.units_removed.is_empty(), "{delta:?}");
    }
    world.stop().await;
}

#[tokio::test]
async fn the_configuration_file_counts_before_a_document_and_a_bad_change_keeps_the_last() {
    let config = |domain: &str| {
        format!(
            "apiVersion: config.sluice.dev/v1alpha1\nkind: SluiceConfig\ntrustDomain: {domain}\n"
        )
    };
    let world = World::start(&[
        ("first/service.yaml", SERVICE),
        ("config.yaml", &config("file.example")),
        ("second/config.yaml", &config("document.example")),
    ])
    .await;
    assert!(world.inbound().await.contains("file.example"));
    world.write("config.yaml", "kind: [\n");
    let deadline = Instant::now() + crate::stream::testing::PATIENCE;
    while world.file_findings("config.yaml").await.is_empty() {
        assert!(Instant::now() < deadline, "no finding in time");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert!(
        world.inbound().await.contains("file.example"),
        "the last good one"
    );
    world.write("config.yaml", &config("new.example"));
    world
        .until_inbound("the new domain", |inbound| inbound.contains("new.example"))
        .await;
    world.stop().await;
}

#[tokio::test]
async fn status_is_read_back_also_after_a_restart() {
    const SHARDS: &str = "\
apiVersion: sluice.dev/v1alpha1
kind: ShardSet
metadata: {name: orders, namespace: shop}
spec:
  protocol: HTTP
  keyspace: {slots: 16384, hash: CRC16}
  key: {from: [{type: Header, header: {name: X-Tenant}}], onMissing: Reject}
  shards:
  - {name: s0, members: [{name: a, role: Primary, backendRef: {kind: Service, name: orders, port: 80}}]}
  - {name: s1, members: [{name: a, role: Primary, backendRef: {kind: Service, name: orders, port: 80}}]}
  placement: [{slots: \"0-8191\", shard: s0}, {slots: \"8192-16383\", shard: s1}]
";
    let world = World::start(&[
        ("first/service.yaml", SERVICE),
        ("first/shards.yaml", SHARDS),
    ])
    .await;
    assert_eq!(world.file_findings("first/shards.yaml").await, []);
    let object = ObjectRef::new("ShardSet", "shop", "orders");
    let status = json!({
        "epoch": 7,
        "placement": [{"slots": "0-100", "shard": "s1"}, {"slots": "101-16383", "shard": "s0"}],
    });
    world.sink.write(&object, &status).await.expect("written");
    let epoch = |world: &World| {
        let name = UnitName::shard_map("shop", "orders");
        let engine = world.engine.clone();
        async move {
            let read = move |engine: &sluice_translate::Engine| {
                let body = engine.unit(&name)?.body.clone();
                let unit: serde_json::Value = serde_json::from_slice(&body).ok()?;
                unit.get("epoch")?.as_u64()
            };
            engine.read(read).await.expect("the engine runs")
        }
    };
    let deadline = Instant::now() + crate::stream::testing::PATIENCE;
    while epoch(&world).await != Some(7) {
        assert!(Instant::now() < deadline, "{:?}", epoch(&world).await);
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let (dir, state) = world.stop().await;
    let again = World::over(dir, state).await;
    assert_eq!(epoch(&again).await, Some(7));
    again.stop().await;
}
