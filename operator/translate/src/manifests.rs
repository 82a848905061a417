//! Manifests as translation takes them: what a text declares, sound or broken, and which of two equal objects counts.
//! Shared by all that read files; opening them is theirs, and nothing here judges an object.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::Secret;
use serde_json::Value;
use sluice_crds::{
    GROUP, gateway_api,
    manifest::{self, ManifestFinding, ManifestObject, Outline, Outlines},
};

use crate::{
    finding::{Finding, FindingReason},
    world::{Change, Kind, Meta, Object, ObjectId, Undecodable},
};

/// The type of Secrets that hold a certificate and its key.
pub const TLS_SECRET_TYPE: &str = "kubernetes.io/tls";
/// Findings of a broken document that its object's message quotes.
const QUOTED: usize = 4;
/// The kinds of the Gateway API.
const GATEWAY_API_KINDS: [Kind; 9] = [
    Kind::Gateway,
    Kind::BackendTlsPolicy,
    Kind::GatewayClass,
    Kind::ListenerSet,
    Kind::HttpRoute,
    Kind::GrpcRoute,
    Kind::TlsRoute,
    Kind::TcpRoute,
    Kind::ReferenceGrant,
];
/// How the message of a duplicate begins.
const DUPLICATE: &str = "declares again ";

/// Something that a file declares.
#[derive(Debug, Clone, PartialEq)]
pub enum Declared {
    /// A sound object.
    Sound(ManifestObject),
    /// One of our resources that the schema refuses: it is there, and must not be taken for absent.
    Broken {
        /// Its name.
        id: ObjectId,
        /// Where and why.
        message: String,
        /// The document.
        raw: Value,
    },
}

impl Declared {
    /// What it declares.
    pub fn id(&self) -> ObjectId {
        match self {
            Self::Sound(object) => id_of(object),
            Self::Broken { id, .. } => id.clone(),
        }
    }

    /// As the engine takes it.
    pub fn into_change(self) -> Change {
        match self {
            Self::Sound(object) => Change::Upsert(object_of(&object)),
            Self::Broken { id, message, raw } => Change::Undecodable(Undecodable {
                id,
                meta: Meta::default(),
                message,
                raw: Some(raw),
            }),
        }
    }
}

/// What a text declares, and at which line its document begins.
#[derive(Debug, Clone)]
pub struct Placed {
    /// What it is.
    pub declared: Declared,
    /// Counted from 1.
    pub line: u64,
}

/// What a text holds.
#[derive(Debug, Default)]
pub struct Contents {
    /// What it declares: sound objects first, then the broken, both in the order of the text.
    pub declared: Vec<Placed>,
    /// What is wrong with it.
    pub findings: Vec<ManifestFinding>,
    /// Whether all of it could be parsed: only then is what it does not declare absent from it.
    pub whole: bool,
}

/// Reads a text; `file` only names it in findings.
pub fn read(file: &str, text: &str) -> Contents {
    let manifest::Parsed { objects, findings } = manifest::parse(file, text);
    let mut contents = Contents {
        declared: objects
            .into_iter()
            .map(|located| Placed {
                declared: Declared::Sound(located.object),
                line: located.line,
            })
            .collect(),
        findings,
        whole: true,
    };
    if !contents.findings.is_empty() {
        let outlines = manifest::outlines(text);
        let broken = broken(&outlines, &contents);
        contents.declared.extend(broken);
        contents.whole = outlines.whole;
    }
    contents
}

/// The documents that have findings and are about what must not be taken for absent.
fn broken(outlines: &Outlines, contents: &Contents) -> Vec<Placed> {
    let documents = outlines.documents.iter().enumerate();
    documents
        .filter_map(|(index, outline)| {
            let next = outlines.documents.get(index + 1);
            let lines = outline.line()..next.map_or(u64::MAX, Outline::line);
            let findings = contents.findings.iter();
            let quoted: Vec<String> = findings
                .filter(|finding| lines.contains(&finding.line))
                .take(QUOTED)
                .map(ToString::to_string)
                .collect();
            let id = own_id(outline)?;
            let mut sound = contents.declared.iter().map(|placed| placed.declared.id());
            let counts = !quoted.is_empty() && !sound.any(|sound| sound == id);
            counts.then(|| Placed {
                declared: Declared::Broken {
                    id,
                    message: quoted.join("; "),
                    raw: outline.to_value(),
                },
                line: outline.line(),
            })
        })
        .collect()
}

/// The name of the object that a document is about, where it is one of our resources or of the Gateway API.
fn own_id(outline: &Outline) -> Option<ObjectId> {
    let group = outline.api_version()?.split('/').next()?;
    let kinds: &[Kind] = match group {
        GROUP => &[Kind::ApiRoute, Kind::RateLimitPolicy, Kind::ShardSet],
        gateway_api::GROUP => &GATEWAY_API_KINDS,
        _ => &[],
    };
    let kind = *kinds
        .iter()
        .find(|kind| outline.kind() == Some(kind.as_str()))?;
    let (namespace, name) = (outline.namespace(), outline.name()?);
    let named = [namespace, name].into_iter().all(is_name);
    let namespace = match kind {
        Kind::GatewayClass => "",
        _ => namespace,
    };
    named.then(|| ObjectId::new(kind, namespace, name))
}

/// Whether an object could have this name: anything else has no place in units, paths or logs.
fn is_name(name: &str) -> bool {
    (1..=253).contains(&name.len())
        && name.bytes().all(|byte| {
            byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'-' | b'.')
        })
}

/// The name of an object that a manifest describes.
pub fn id_of(object: &ManifestObject) -> ObjectId {
    let kind = match object {
        ManifestObject::ApiRoute(_) => Kind::ApiRoute,
        ManifestObject::RateLimitPolicy(_) => Kind::RateLimitPolicy,
        ManifestObject::ShardSet(_) => Kind::ShardSet,
        ManifestObject::SluiceConfig(_) => return ObjectId::config(),
        ManifestObject::Service(_) => Kind::Service,
        ManifestObject::Secret(secret) if is_tls(secret) => Kind::TlsSecret,
        ManifestObject::Secret(_) => Kind::Secret,
        ManifestObject::EndpointSlice(_) => Kind::EndpointSlice,
        ManifestObject::ConfigMap(_) => Kind::ConfigMap,
        ManifestObject::Gateway(_) => Kind::Gateway,
        ManifestObject::BackendTlsPolicy(_) => Kind::BackendTlsPolicy,
        ManifestObject::GatewayClass(_) => Kind::GatewayClass,
        ManifestObject::ListenerSet(_) => Kind::ListenerSet,
        ManifestObject::HttpRoute(_) => Kind::HttpRoute,
        ManifestObject::GrpcRoute(_) => Kind::GrpcRoute,
        ManifestObject::TlsRoute(_) => Kind::TlsRoute,
        ManifestObject::TcpRoute(_) => Kind::TcpRoute,
        ManifestObject::ReferenceGrant(_) => Kind::ReferenceGrant,
    };
    ObjectId::new(kind, object.namespace(), object.name())
}

/// Whether a Secret is one for listeners.
fn is_tls(secret: &Secret) -> bool {
    secret.type_.as_deref() == Some(TLS_SECRET_TYPE)
}

/// An object as the world takes it.
pub fn object_of(object: &ManifestObject) -> Object {
    match object {
        ManifestObject::ApiRoute(object) => Object::from(&**object),
        ManifestObject::RateLimitPolicy(object) => Object::from(&**object),
        ManifestObject::ShardSet(object) => Object::from(&**object),
        ManifestObject::SluiceConfig(object) => Object::from(&**object),
        ManifestObject::Service(object) => Object::from(&**object),
        ManifestObject::Secret(secret) if is_tls(secret) => Object::tls_secret(secret),
        ManifestObject::Secret(object) => Object::from(&**object),
        ManifestObject::EndpointSlice(object) => Object::from(&**object),
        ManifestObject::ConfigMap(object) => Object::from(&**object),
        ManifestObject::Gateway(object) => Object::from(&**object),
        ManifestObject::BackendTlsPolicy(object) => Object::from(&**object),
        ManifestObject::GatewayClass(object) => Object::from(&**object),
        ManifestObject::ListenerSet(object) => Object::from(&**object),
        ManifestObject::HttpRoute(object) => Object::from(&**object),
        ManifestObject::GrpcRoute(object) => Object::from(&**object),
        ManifestObject::TlsRoute(object) => Object::from(&**object),
        ManifestObject::TcpRoute(object) => Object::from(&**object),
        ManifestObject::ReferenceGrant(object) => Object::from(&**object),
    }
}

/// What a file is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Manifests of any kind.
    Manifests,
    /// SluiceConfig and nothing else.
    Config,
}

/// What all files together declare.
#[derive(Debug, Default)]
pub struct Merged<'a> {
    /// Every object that counts, and the file that declares it.
    pub declared: BTreeMap<ObjectId, (&'a str, &'a Declared)>,
    /// What is wrong, by file; only files with findings.
    pub findings: BTreeMap<&'a str, Vec<ManifestFinding>>,
}

/// Puts files together: the first of two equal objects counts.
pub fn merge<'a>(files: impl IntoIterator<Item = (&'a str, Role, &'a Contents)>) -> Merged<'a> {
    let mut merged = Merged::default();
    for (file, role, contents) in files {
        let mut findings = contents.findings.clone();
        for Placed { declared, line } in &contents.declared {
            let id = declared.id();
            let at_line = |message| ManifestFinding {
                line: *line,
                ..of_file(file, message)
            };
            if role == Role::Config && id.kind != Kind::Config {
                let message =
                    format!("{id} does not belong into the file of SluiceConfig; it is ignored");
                findings.push(at_line(message));
            } else if let Some((first, _)) = merged.declared.get(&id) {
                let message = format!("{DUPLICATE}{id}, which {first} declares: that one counts");
                findings.push(at_line(message));
            } else {
                merged.declared.insert(id, (file, declared));
            }
        }
        if !findings.is_empty() {
            merged.findings.entry(file).or_default().extend(findings);
        }
    }
    merged
}

/// A finding of a file as a whole.
pub fn of_file(file: &str, message: String) -> ManifestFinding {
    ManifestFinding {
        file: file.to_owned(),
        line: 1,
        column: 1,
        path: String::new(),
        message,
    }
}

/// The reason of a file's finding.
pub fn reason_of(finding: &ManifestFinding) -> FindingReason {
    match (finding.path.is_empty(), finding.message.as_str()) {
        (true, message) if message.starts_with(DUPLICATE) => FindingReason::DuplicateObject,
        (true, _) => FindingReason::UnreadableFile,
        (false, message) if message.starts_with("unknown field") => FindingReason::UnknownField,
        (false, _) => FindingReason::SchemaViolation,
    }
}

/// A file's finding as the engine takes it; `about` is the file.
pub fn finding(about: &ObjectId, finding: &ManifestFinding) -> Finding {
    let ManifestFinding {
        file: _,
        line,
        column,
        path,
        message,
    } = finding;
    let path = (!path.is_empty()).then_some(path.as_str());
    let what = format!("line {line}, column {column}: {message}");
    Finding::new(about, reason_of(finding), path, &what)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROUTE: &str = "apiVersion: sluice.dev/v1alpha1\nkind: ApiRoute\nmetadata: {name: a}\n";

    fn text(spec: &str) -> String {
        format!("{ROUTE}spec: {spec}\n")
    }

    #[test]
    fn a_broken_resource_is_there_and_says_only_what_is_wrong_with_it() {
        let other = text("{rulez: []}").replace("name: a", "name: b");
        let contents = read(
            "a.yaml",
            &format!(
                "{}---\n{other}---\nkind: [\n",
                text("{parentRefs: [{kind: Service, name: s, port: 0}]}")
            ),
        );
        assert!(!contents.whole);
        let named: Vec<_> = contents
            .declared
            .iter()
            .map(|placed| (placed.declared.id().to_string(), placed.line))
            .collect();
        let expected = [("ApiRoute default/a", 1), ("ApiRoute default/b", 6)];
        assert_eq!(named, expected.map(|(name, line)| (name.to_owned(), line)));
        let Declared::Broken { message, .. } = &contents.declared[0].declared else {
            panic!("{:?} is broken", contents.declared);
        };
        assert!(
            message.contains("port") && !message.contains("rulez"),
            "{message}"
        );
        let change = contents.declared[0].declared.clone().into_change();
        assert!(matches!(change, Change::Undecodable(_)));
    }

    #[test]
    fn what_no_object_can_be_called_declares_nothing() {
        for name in ["../../etc", "A", "\"a b\""] {
            let contents = read(
                "a.yaml",
                &text("{rulez: []}").replace("name: a", &format!("name: {name}")),
            );
            assert!(contents.declared.is_empty(), "{name}");
            assert!(!contents.findings.is_empty(), "{name}");
        }
    }

    #[test]
    fn the_first_of_two_equal_objects_counts() {
        let (one, two) = (
            read("one.yaml", &text("{}")),
            read("two.yaml", &text("{hostnames: [a.example]}")),
        );
        let files = [
            ("one.yaml", Role::Manifests, &one),
            ("two.yaml", Role::Manifests, &two),
        ];
        let merged = merge(files);
        let id = ObjectId::new(Kind::ApiRoute, "default", "a");
        assert_eq!(merged.declared[&id].0, "one.yaml");
        let found = &merged.findings["two.yaml"][0];
        assert_eq!(reason_of(found), FindingReason::DuplicateObject);
        assert!(found.message.contains("one.yaml"), "{}", found.message);
    }

    #[test]
    fn the_file_of_sluice_config_holds_nothing_else() {
        let contents = read("config.yaml", &text("{}"));
        let merged = merge([("config.yaml", Role::Config, &contents)]);
        assert!(merged.declared.is_empty());
        assert_eq!(merged.findings["config.yaml"].len(), 1);
    }

    #[test]
    fn findings_of_files_have_the_reason_that_fits() {
        let reason = |text: &str| {
            let contents = read("a.yaml", text);
            contents.findings.first().map(reason_of)
        };
        assert_eq!(
            reason(&text("{rulez: []}")),
            Some(FindingReason::UnknownField)
        );
        assert_eq!(
            reason(&text("{hostnames: [\"\"]}")),
            Some(FindingReason::SchemaViolation)
        );
        assert_eq!(reason("a: ["), Some(FindingReason::UnreadableFile));
        assert_eq!(reason(&text("{}")), None);
    }
}
