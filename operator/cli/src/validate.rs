//! `kubectl sluice validate`: what is wrong with manifests, by themselves and beside each other, each thing with its place.

use std::collections::BTreeMap;

use serde::Serialize;
use sluice_crds::manifest::{self, ManifestFinding, Outline, Outlines};
use sluice_snapshot::unit::ObjectRef;
use sluice_translate::{Condition, Finding, FindingReason, Kind, ObjectId, manifests::reason_of};

use crate::{
    Verdict,
    offline::{self, Input, Loaded, Translated},
    output::Shape,
};

const EXAMPLES: &str = "\
Examples:
  kubectl-sluice validate -f examples/quickstart/base --config examples/quickstart/local/sluiceconfig.yaml
  kubectl-sluice validate -f manifests/ -R --strict
  kustomize build overlays/prod | kubectl-sluice validate -f - -o json

Errors are what no other object can mend, and conflicts; warnings are references to what is not among the manifests,
and what serves but is likely not meant. Kinds that are not Sluice's, Service, EndpointSlice or Secret are skipped.
Exit code 1: there are errors (with --strict: or warnings).";

/// What `validate` takes.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    #[command(flatten)]
    input: Input,

    /// Let warnings count as errors
    #[arg(long)]
    strict: bool,

    /// The shape of the answer
    #[arg(short, long, value_enum, default_value_t = Shape::Text)]
    output: Shape,
}

/// How bad something is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Severity {
    Error,
    Warning,
}

/// One thing that is wrong.
#[derive(Debug, Serialize)]
struct Remark {
    severity: Severity,
    file: String,
    line: u64,
    column: u64,
    object: Option<ObjectRef>,
    reason: &'static str,
    path: Option<String>,
    message: String,
}

/// The whole answer.
#[derive(Debug, Serialize)]
struct Answer {
    files: usize,
    objects: usize,
    errors: usize,
    warnings: usize,
    findings: Vec<Remark>,
}

/// Validates and prints.
pub fn run(args: &Args) -> anyhow::Result<Verdict> {
    let loaded = offline::load(&args.input)?;
    let answer = answer(&loaded, args.strict)?;
    args.output.print(&answer, || text(&answer))?;
    Ok(Verdict::of(answer.errors == 0))
}

fn answer(loaded: &Loaded, strict: bool) -> anyhow::Result<Answer> {
    let translated = loaded.translate()?;
    let mut places = Places::of(loaded);
    let mut findings: Vec<Remark> = Vec::new();
    for finding in translated.merged.findings.values().flatten() {
        findings.push(of_file(finding, places.outlines(&finding.file)));
    }
    for id in translated.engine.troubled() {
        for finding in translated.engine.findings(id) {
            // What is wrong with a broken manifest was said, with its place.
            if finding.reason != FindingReason::Undecodable {
                findings.push(of_object(id, finding, &translated, &mut places));
            }
        }
    }
    if strict {
        findings
            .iter_mut()
            .for_each(|remark| remark.severity = Severity::Error);
    }
    findings.sort_by_cached_key(|remark| {
        (
            places.position(&remark.file),
            remark.line,
            remark.column,
            remark.message.clone(),
        )
    });
    let errors = findings
        .iter()
        .filter(|remark| remark.severity == Severity::Error)
        .count();
    Ok(Answer {
        files: loaded.files.len(),
        objects: translated.merged.declared.len(),
        errors,
        warnings: findings.len() - errors,
        findings,
    })
}

fn of_file(finding: &ManifestFinding, outlines: &Outlines) -> Remark {
    let reason = reason_of(finding);
    let ManifestFinding {
        file,
        line,
        column,
        path,
        message,
    } = finding;
    // A text that is no YAML belongs to no document.
    let outline = outlines.at(*line).filter(|_| !path.is_empty());
    let place = match path.is_empty() {
        true => String::new(),
        false => format!("{path}: "),
    };
    Remark {
        severity: match reason {
            FindingReason::DuplicateObject => Severity::Warning,
            _ => Severity::Error,
        },
        file: file.clone(),
        line: *line,
        column: *column,
        object: outline.and_then(reference),
        reason: reason.as_str(),
        path: (!path.is_empty()).then(|| path.clone()),
        message: format!("{place}{message}"),
    }
}

/// What a document is about, as far as it says so.
fn reference(outline: &Outline) -> Option<ObjectRef> {
    let (kind, name) = (outline.kind()?, outline.name());
    match kind == Kind::Config.as_str() {
        true => Some(ObjectRef::new(kind, "", name.unwrap_or_default())),
        false => Some(ObjectRef::new(kind, outline.namespace(), name?)),
    }
}

fn of_object(
    id: &ObjectId,
    finding: &Finding,
    translated: &Translated<'_>,
    places: &mut Places<'_>,
) -> Remark {
    let Finding {
        object,
        reason,
        path,
        message,
    } = finding;
    let declared = translated.merged.declared.get(id);
    let file = declared.map(|(file, _)| *file).unwrap_or_default();
    let outlines = places.outlines(file);
    let outline = match id.kind {
        Kind::Config => outlines.of_kind(id.kind.as_str()),
        kind => outlines.of(kind.as_str(), &id.namespace, &id.name),
    };
    let place = outline.map(|outline| outline.place(path.as_deref().unwrap_or_default()));
    let (line, column) = place.unwrap_or((1, 1));
    Remark {
        severity: match reason.condition() {
            Condition::Accepted => Severity::Error,
            Condition::ResolvedRefs | Condition::Scaling | Condition::Warning => Severity::Warning,
        },
        file: file.to_owned(),
        line,
        column,
        object: Some(object.clone()),
        reason: reason.as_str(),
        path: path.clone(),
        message: message.clone(),
    }
}

/// Where fields stand, by file; a text is read again only where something has to be found in it.
struct Places<'a> {
    texts: BTreeMap<&'a str, (usize, &'a str)>,
    read: BTreeMap<String, Outlines>,
}

impl<'a> Places<'a> {
    fn of(loaded: &'a Loaded) -> Self {
        let files = loaded.files.iter().enumerate();
        let texts = files.map(|(position, file)| {
            let source = &file.source;
            (source.name.as_str(), (position, source.text.as_str()))
        });
        Self {
            texts: texts.collect(),
            read: BTreeMap::new(),
        }
    }

    fn outlines(&mut self, file: &str) -> &Outlines {
        let text = self.texts.get(file).map_or("", |(_, text)| text);
        self.read
            .entry(file.to_owned())
            .or_insert_with(|| manifest::outlines(text))
    }

    fn position(&self, file: &str) -> usize {
        self.texts
            .get(file)
            .map_or(usize::MAX, |(position, _)| *position)
    }
}

fn text(answer: &Answer) -> String {
    let Answer {
        files,
        objects,
        errors,
        warnings,
        findings,
    } = answer;
    let mut lines: Vec<String> = findings.iter().map(line).collect();
    lines.push(format!(
        "{}, {}: {}, {}\n",
        counted(*files, "file"),
        counted(*objects, "object"),
        counted(*errors, "error"),
        counted(*warnings, "warning"),
    ));
    lines.join("\n")
}

fn line(remark: &Remark) -> String {
    let Remark {
        severity,
        file,
        line,
        column,
        object,
        reason: _,
        path: _,
        message,
    } = remark;
    let severity = match severity {
        Severity::Error => "error",
        Severity::Warning => "warning",
    };
    let object = object.as_ref().map(named).unwrap_or_default();
    format!("{file}:{line}:{column}: {severity}: {object}{message}")
}

fn named(object: &ObjectRef) -> String {
    let ObjectRef {
        kind,
        namespace,
        name,
    } = object;
    match (namespace.is_empty(), name.is_empty()) {
        (true, true) => format!("{kind} "),
        (true, false) => format!("{kind} {name} "),
        (false, _) => format!("{kind} {namespace}/{name} "),
    }
}

fn counted(number: usize, what: &str) -> String {
    match number {
        0 => format!("no {what}s"),
        1 => format!("1 {what}"),
        more => format!("{more} {what}s"),
    }
}
