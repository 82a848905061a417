//! Manifests through the operator's own translation, without a cluster. Shared by `translate` and `validate`; what they
//! print is theirs.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
};

use aws_lc_rs::{hmac, rand::SystemRandom};
use k8s_openapi::{
    api::core::v1::{Container, ContainerPort, Pod, PodSpec, Service},
    apimachinery::pkg::{apis::meta::v1::ObjectMeta, util::intstr::IntOrString},
};
use sluice_crds::manifest::ManifestObject;
use sluice_translate::{
    Change, Engine, Kind, Object, Pods, Settings,
    manifests::{self, Contents, Declared, Merged, Role},
};

use crate::input::{self, InputError, Source};

/// Where manifests are.
#[derive(Debug, clap::Args)]
pub struct Input {
    /// A file or a directory of manifests, or - for standard input; may be repeated. Of two equal objects the first counts
    #[arg(
        short = 'f',
        long = "filename",
        value_name = "FILE|DIR|-",
        required = true
    )]
    pub files: Vec<PathBuf>,

    /// Look for manifests below the directories too
    #[arg(short = 'R', long)]
    pub recursive: bool,

    /// The file of SluiceConfig, where it is not among the manifests
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,

    /// The operator's namespace, in which the Secrets are that SluiceConfig names
    #[arg(long, value_name = "NAME", default_value = OPERATOR_NAMESPACE)]
    pub operator_namespace: String,
}

impl Input {
    /// These files and directories, with the defaults for everything else.
    pub fn of(files: &[PathBuf]) -> Self {
        Self {
            files: files.to_vec(),
            recursive: false,
            config: None,
            operator_namespace: OPERATOR_NAMESPACE.to_owned(),
        }
    }
}

/// Where the operator is by its chart.
pub const OPERATOR_NAMESPACE: &str = "sluice-system";

/// Why nothing could be translated.
#[derive(Debug, thiserror::Error)]
pub enum OfflineError {
    /// Nothing to read.
    #[error(transparent)]
    Input(#[from] InputError),
    /// No key to hash secrets with.
    #[error("the system gives no random bytes")]
    Random,
}

/// A file that was read.
#[derive(Debug)]
pub struct File {
    /// Its name and text.
    pub source: Source,
    /// What it declares.
    pub contents: Contents,
    role: Role,
}

/// Everything that was read.
#[derive(Debug)]
pub struct Loaded {
    /// The files, in the order in which the first of two equal objects counts.
    pub files: Vec<File>,
    operator_namespace: String,
}

/// What it amounts to.
#[derive(Debug)]
pub struct Translated<'a> {
    /// The objects that count, and what is wrong with files.
    pub merged: Merged<'a>,
    /// The result.
    pub engine: Engine,
    /// Whether pods were assumed, because no EndpointSlice names any.
    pub assumed_pods: bool,
}

/// Reads the manifests.
pub fn load(input: &Input) -> Result<Loaded, OfflineError> {
    let config = input.config.as_deref().map(input::read_file).transpose()?;
    let manifests = input::read_all(&input.files, input.recursive)?;
    Ok(Loaded::of(config, manifests, &input.operator_namespace))
}

impl Loaded {
    /// Texts, wherever they come from.
    pub fn of(config: Option<Source>, manifests: Vec<Source>, operator_namespace: &str) -> Self {
        let config = config.into_iter().map(|source| (source, Role::Config));
        let manifests = manifests
            .into_iter()
            .map(|source| (source, Role::Manifests));
        let files = config.chain(manifests).map(|(source, role)| File {
            contents: manifests::read(&source.name, &source.text),
            source,
            role,
        });
        Self {
            files: files.collect(),
            operator_namespace: operator_namespace.to_owned(),
        }
    }

    /// Translates what was read, as the operator does.
    pub fn translate(&self) -> Result<Translated<'_>, OfflineError> {
        let files = self.files.iter();
        let merged = manifests::merge(
            files.map(|file| (file.source.name.as_str(), file.role, &file.contents)),
        );
        let assumed_pods = !merged
            .declared
            .keys()
            .any(|id| id.kind == Kind::EndpointSlice);
        let declared = merged.declared.values();
        let mut changes: Vec<Change> = declared
            .map(|(_, declared)| (*declared).clone().into_change())
            .collect();
        if assumed_pods {
            let pods = assumed(&merged);
            changes.extend(pods.iter().map(|pod| Change::Upsert(Object::from(pod))));
        }
        let mut engine = Engine::new(Settings {
            // Made for this run: under a key that is known, what is printed of a Secret could be guessed at.
            hash_key: hmac::Key::generate(hmac::HMAC_SHA256, &SystemRandom::new())
                .map_err(|_| OfflineError::Random)?,
            operator_namespace: self.operator_namespace.clone(),
            pods: match assumed_pods {
                true => Pods::FromPods,
                false => Pods::FromSlices,
            },
        });
        engine.apply(changes);
        Ok(Translated {
            merged,
            engine,
            assumed_pods,
        })
    }
}

/// One pod for each selector, as long as nothing says which pods there are: manifests meant for a cluster do not.
fn assumed(merged: &Merged<'_>) -> Vec<Pod> {
    let mut seen = BTreeSet::new();
    let services = merged
        .declared
        .values()
        .filter_map(|(_, declared)| match declared {
            Declared::Sound(ManifestObject::Service(service)) => Some(&**service),
            _ => None,
        });
    services
        .filter_map(|service| {
            let namespace = service.metadata.namespace.clone()?;
            let selector = service.spec.as_ref()?.selector.clone()?;
            let first = seen.insert((namespace.clone(), selector.clone()));
            (first && !selector.is_empty()).then(|| assumed_pod(service, namespace, selector))
        })
        .collect()
}

fn assumed_pod(service: &Service, namespace: String, labels: BTreeMap<String, String>) -> Pod {
    let name = service.metadata.name.clone().unwrap_or_default();
    let ports = service
        .spec
        .iter()
        .flat_map(|spec| spec.ports.iter().flatten());
    // A port that the Service knows by name only: any number will do, the Service's own is the likeliest.
    let named = ports.filter_map(|port| match &port.target_port {
        Some(IntOrString::String(name)) => Some(ContainerPort {
            name: Some(name.clone()),
            container_port: port.port,
            ..ContainerPort::default()
        }),
        _ => None,
    });
    Pod {
        metadata: ObjectMeta {
            name: Some(format!("{name}-assumed")),
            namespace: Some(namespace),
            labels: Some(labels),
            ..ObjectMeta::default()
        },
        spec: Some(PodSpec {
            containers: vec![Container {
                ports: Some(named.collect()),
                ..Container::default()
            }],
            ..PodSpec::default()
        }),
        status: None,
    }
}
