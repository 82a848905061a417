//! The injector: what a Pod looks like with the sidecar in it. Pure; the Pod is JSON, so that no field of a newer API is
//! lost. Whether a Pod is asked for at all is the webhook configuration's selectors' business, but an opt-out is
//! honoured here too.
//!
//! | file | holds |
//! |---|---|
//! | `annotations` | what a Pod may say about its sidecar, validated |
//! | `containers` | the two containers, and which containers of those names are ours |
//! | `probes` | probes and hooks that would be captured, led around through the sidecar |
//! | `pod` | what every container of ours needs of its Pod, an edge's too |
//! | `named_ports` | the mode without privilege: names of ports that move to the sidecar |
//! | `stop` | the delay before the app is told to stop |
//! | `volumes` | token, state, and the emptiness that keeps the app's token away |
//! | `json` | lists in a Pod |
//!
//! Asked twice about one Pod it changes nothing: each step finds what it did before.

mod annotations;
mod containers;
mod json;
mod named_ports;
pub(crate) mod pod;
mod ports;
mod probes;
mod stop;
#[cfg(test)]
mod tests;
mod volumes;

use json_patch::Patch;
use serde_json::Value;
use sluice_crds::sluice_config::{CaptureMode, ImagePullPolicy, InjectionResources, LogLevel};
use sluice_translate::world::{
    INJECT_LABEL as OPT_OUT, MIRROR_ANNOTATION, SIDECAR_CONTAINER as CONTAINER,
};

use annotations::Wishes;
pub use annotations::{ANNOTATIONS, Annotation};
pub use named_ports::Target;

/// The container that sets up the capture, and ends.
pub const CAPTURE_CONTAINER: &str = "sluice-capture";

/// What is injected: from flags and SluiceConfig.
#[derive(Debug, Clone, PartialEq)]
pub struct Injection {
    /// The sidecar's image.
    pub image: String,
    /// When it is pulled; without, as Kubernetes does by the image's tag.
    pub image_pull_policy: Option<ImagePullPolicy>,
    /// `host:port` of the stream server.
    pub operator: String,
    /// The name its certificate carries.
    pub operator_name: String,
    /// The PEM bundle of roots.
    pub roots: String,
    /// Threads that carry traffic; without, what the Pod asks for decides.
    pub data_threads: Option<u16>,
    /// What the sidecar logs, where not its own default.
    pub log_level: Option<LogLevel>,
    /// Requests and limits. Without: a small request and no CPU limit.
    pub resources: Option<InjectionResources>,
    /// How traffic reaches the sidecar.
    pub capture: CaptureMode,
    /// How long the app goes on after its Pod was deleted, seconds.
    pub app_stop_delay_s: u64,
}

/// Where a Pod is to be.
#[derive(Debug, Clone, Copy, Default)]
pub struct Place<'a> {
    /// Its namespace.
    pub namespace: &'a str,
    /// What the namespace enforces of the Pod Security Standards; none where it is not labelled.
    pub pod_security: Option<&'a str>,
}

/// Why a Pod is refused.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum InjectError {
    /// Not a Pod.
    #[error("the object is not a Pod with a spec")]
    NotAPod,
    /// An annotation that says nothing usable.
    #[error("the Pod's annotation {name} is {value:?}: {mend}")]
    Annotation {
        /// Its name.
        name: String,
        /// Its value, bounded.
        value: String,
        /// What it should be.
        mend: String,
    },
    /// Somebody else's container of one of our names.
    #[error(
        "the Pod has a container named `{0}` that is not what would be injected: remove it if it was copied from another Pod, rename it if it is your own, or opt out with the label sluice.dev/inject: \"false\""
    )]
    ForeignContainer(&'static str),
    /// Somebody else's volume of one of our names.
    #[error(
        "the Pod has a volume named `{0}` that is not what would be injected: remove it if it was copied from another Pod, rename it if it is your own, or opt out with the label sluice.dev/inject: \"false\""
    )]
    ForeignVolume(&'static str),
    /// The namespace would refuse what capturing needs.
    #[error(
        "namespace {namespace} enforces Pod Security `{level}`, which refuses the capability NET_ADMIN that capturing its ports needs: give the Pod (in a workload: its template) the annotation sluice.dev/capture: NamedPorts, which needs no privilege, or opt out with the label sluice.dev/inject: \"false\""
    )]
    PodSecurity {
        /// The namespace.
        namespace: String,
        /// What it enforces.
        level: String,
    },
    /// The app uses a port of the sidecar.
    #[error(
        "{what} uses port {port}, which is the sidecar's: give it another, or opt out with the label sluice.dev/inject: \"false\""
    )]
    OurPort {
        /// Where the port stands.
        what: String,
        /// The port.
        port: u16,
    },
    /// A probe or hook names a port that its container does not have.
    #[error(
        "{what} names port {port:?}, and its container has no port of that name: correct the name, or give the number"
    )]
    NoSuchPort {
        /// Which probe or hook.
        what: String,
        /// What it names.
        port: String,
    },
    /// More than the sidecar performs.
    #[error(
        "the Pod's probes and hooks over the network are more than the sidecar performs: at most {max} of them, {headers} httpHeaders each, texts of 4096 bytes, 64 KiB in all",
        max = probes::MAX_ENTRIES,
        headers = probes::MAX_HEADERS
    )]
    ProbesTooLarge,
    /// Two ports of one name: which of them a Service means would depend on their order.
    #[error("two containers of the Pod have a port named {0:?}: give one of them another name")]
    SameName(String),
    /// More named ports than the sidecar has room for.
    #[error(
        "the Pod has more than {max} named ports: name only those that Services use",
        max = ports::MAX_MOVED
    )]
    TooManyPorts,
}

/// The patch that puts the sidecar into `pod`: empty where it is there already, or not wanted.
pub fn inject(pod: &Value, injection: &Injection, place: Place<'_>) -> Result<Patch, InjectError> {
    if opted_out(pod) || is_of_the_host(pod) {
        return Ok(Patch(Vec::new()));
    }
    let wishes = Wishes::of(pod, injection)?;
    refuse_what_the_namespace_refuses(&wishes, place)?;
    let mut injected = pod.clone();
    let metadata = json::object(&mut injected, "metadata").ok_or(InjectError::NotAPod)?;
    let grace = stop::recorded_grace(metadata);
    let spec = injected
        .get_mut("spec")
        .and_then(Value::as_object_mut)
        .ok_or(InjectError::NotAPod)?;

    let former = containers::Former::take(spec)?;
    let mut state = former.state();
    state.settle_threads(wishes.data_threads, spec);
    let before = state.clone();
    ports::refuse_ours(spec, wishes.capture)?;
    match wishes.capture {
        CaptureMode::Redirect => probes::rewrite(spec, &wishes.excluded, &mut state.probes)?,
        CaptureMode::NamedPorts => {
            probes::resolve_names(spec)?;
            named_ports::move_names(spec, &wishes.excluded, &mut state.moved)?;
        }
    }
    let raised = stop::delay(spec, wishes.stop_delay_s, grace)?;
    former.put_back(spec, injection, &wishes, &before, &state)?;
    volumes::put(spec)?;
    if let Some(original) = raised {
        stop::record_grace(&mut injected, original).ok_or(InjectError::NotAPod)?;
    }
    Ok(json_patch::diff(pod, &injected))
}

/// What of a Pod that is to be injected is likely not meant; `targets` is where the Services that select it lead.
pub fn warning(pod: &Value, injection: &Injection, targets: &[Target]) -> Option<String> {
    if opted_out(pod) || is_of_the_host(pod) {
        return None;
    }
    let wishes = Wishes::of(pod, injection).ok()?;
    let spec = pod.get("spec")?.as_object()?;
    match wishes.capture {
        CaptureMode::Redirect => None,
        CaptureMode::NamedPorts => named_ports::unreached(spec, &wishes.excluded, targets),
    }
}

fn opted_out(pod: &Value) -> bool {
    let labels = pod.pointer("/metadata/labels").and_then(Value::as_object);
    labels
        .and_then(|labels| labels.get(OPT_OUT))
        .and_then(Value::as_str)
        == Some("false")
}

/// A Pod on the host's network would redirect the host's connections; a static Pod's mirror is only a picture of it.
fn is_of_the_host(pod: &Value) -> bool {
    let network = pod.pointer("/spec/hostNetwork").and_then(Value::as_bool);
    let annotations = pod.pointer("/metadata/annotations");
    let mirror = annotations.and_then(|annotations| annotations.get(MIRROR_ANNOTATION));
    network == Some(true) || mirror.is_some()
}

/// The API server would refuse it a moment later, in words that do not help; the mode is never changed behind a Pod's
/// back.
fn refuse_what_the_namespace_refuses(wishes: &Wishes, place: Place<'_>) -> Result<(), InjectError> {
    match (wishes.capture, place.pod_security) {
        (CaptureMode::NamedPorts, _) | (_, None | Some("privileged")) => Ok(()),
        // A level that is misspelt is enforced as `restricted`.
        (CaptureMode::Redirect, Some(level)) => Err(InjectError::PodSecurity {
            namespace: place.namespace.to_owned(),
            level: level.to_owned(),
        }),
    }
}
