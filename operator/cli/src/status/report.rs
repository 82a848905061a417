//! What objects say of themselves, as a pure function of their status. A status may come from another version of the
//! operator: what does not decode is passed over, what is missing is not Ready.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::Value;
use sluice_crds::{common::LiveStatus, shard_set::MoveStatus};

use super::kind::Kind;

/// The conditions that say by themselves why an object is not as it should be, in the order in which they are told.
const PARTS: [&str; 4] = ["Accepted", "ResolvedRefs", "Programmed", "Scaling"];

/// An object as it was found.
#[derive(Debug, Clone)]
pub struct Seen {
    /// Its kind.
    pub kind: Kind,
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// When it was made; files do not say.
    pub created: Option<Time>,
    /// The generation of its spec; files do not say.
    pub generation: Option<i64>,
    /// Its status.
    pub status: Value,
}

/// Whether an object is Ready.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub enum Ready {
    /// Traffic is served by it.
    True,
    /// It is not.
    False,
    /// Nobody has said so of this generation.
    Unknown,
}

/// Something to be told about an object.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Note {
    /// The condition, or `Warning`.
    pub about: String,
    /// `False` or `Unknown`; none for a warning.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub status: Option<String>,
    /// Its reason.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub reason: String,
    /// What, where and what mends it.
    pub lines: Vec<String>,
    /// Since when.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub since: Option<Time>,
}

/// One object.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Row {
    /// Its kind.
    pub kind: Kind,
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Whether it is Ready.
    pub ready: Ready,
    /// Why it is not; empty where it is.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub reason: String,
    /// Whether waiting will not mend it.
    pub stalled: bool,
    /// On how many pods it is in force.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub live: Option<LiveStatus>,
    /// When it was made.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub created: Option<Time>,
    /// The epoch of a ShardSet's placement in force.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub epoch: Option<i64>,
    /// The move of a ShardSet's slots.
    #[serde(rename = "move", skip_serializing_if = "Option::is_none")]
    pub moving: Option<MoveStatus>,
    /// What is to be told.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub notes: Vec<Note>,
}

/// A manifest file with findings, of an operator in file mode.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct BrokenFile {
    /// The file.
    pub path: String,
    /// Each with its line and column.
    pub findings: Vec<String>,
}

/// The whole answer.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Report {
    /// Every object, by kind, namespace and name.
    pub objects: Vec<Row>,
    /// What was asked for and is not there.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub missing: Vec<String>,
    /// Manifest files with findings.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub files: Vec<BrokenFile>,
}

impl Report {
    /// What was found, sorted, each object once.
    pub fn of(seen: Vec<Seen>, missing: Vec<String>, files: Vec<BrokenFile>) -> Self {
        let mut objects: Vec<Row> = seen.into_iter().map(Row::of).collect();
        objects.sort_by(|a, b| a.key().cmp(&b.key()));
        objects.dedup_by(|a, b| a.key() == b.key());
        Self {
            objects,
            missing,
            files,
        }
    }

    /// Whether everything that was asked for is Ready, and every file is sound.
    pub fn good(&self) -> bool {
        let ready = self.objects.iter().all(|row| row.ready == Ready::True);
        ready && self.missing.is_empty() && self.files.is_empty()
    }
}

impl Row {
    fn key(&self) -> (Kind, &str, &str) {
        (self.kind, &self.namespace, &self.name)
    }

    fn of(seen: Seen) -> Self {
        let Seen {
            kind,
            namespace,
            name,
            created,
            generation,
            status,
        } = seen;
        let conditions = conditions(&status);
        let find = |type_: &str| conditions.iter().find(|it| it.type_ == type_);
        let (ready, own) = readiness(find("Ready"), generation);
        let mut notes: Vec<Note> = PARTS
            .into_iter()
            .filter_map(|part| Note::of_condition(find(part)?, &namespace))
            .collect();
        let explained = notes.iter().any(|note| note.about != "Scaling");
        if !explained || ready == Ready::Unknown {
            notes.extend(own);
        }
        notes.extend(find("Accepted").and_then(Note::warnings));
        let stalled = find("Stalled").is_some_and(|stalled| stalled.status == "True");
        let reason = match (ready, find("Ready")) {
            (Ready::True, _) => String::new(),
            (_, None) => "Pending".to_owned(),
            (_, Some(found)) => found.reason.clone(),
        };
        Self {
            kind,
            namespace,
            name,
            ready,
            reason,
            stalled,
            live: part(&status, "live"),
            created,
            epoch: part(&status, "epoch"),
            moving: part(&status, "move"),
            notes,
        }
    }
}

/// Whether an object is Ready in the generation that is asked about, and what to tell where nothing else explains it.
fn readiness(ready: Option<&Condition>, generation: Option<i64>) -> (Ready, Option<Note>) {
    let Some(ready) = ready else {
        return (Ready::Unknown, Some(Note::unseen()));
    };
    let behind = match (ready.observed_generation, generation) {
        (Some(observed), Some(generation)) => observed < generation,
        _ => false,
    };
    match ready.status.as_str() {
        _ if behind => (Ready::Unknown, Some(Note::outdated(ready, generation))),
        "True" => (Ready::True, None),
        "False" => (Ready::False, Some(Note::plain(ready))),
        _ if ready.reason == "Pending" => (Ready::Unknown, Some(Note::unseen())),
        _ => (Ready::Unknown, Some(Note::plain(ready))),
    }
}

impl Note {
    /// A condition that does not hold.
    fn of_condition(condition: &Condition, namespace: &str) -> Option<Self> {
        if condition.status == "True" {
            return None;
        }
        let mut note = Self::plain(condition);
        if condition.type_ == "Programmed" {
            // One pod a line: they are what its reader has to go through.
            note.lines = condition.message.split("; ").map(str::to_owned).collect();
        }
        note.lines.extend(mend(&condition.reason, namespace));
        Some(note)
    }

    fn plain(condition: &Condition) -> Self {
        let since = &condition.last_transition_time;
        Self {
            about: condition.type_.clone(),
            status: Some(condition.status.clone()),
            reason: condition.reason.clone(),
            lines: lines(&condition.message),
            // What the CRD fills in has the first day of 1970.
            since: (since.0.as_second() > 0).then(|| since.clone()),
        }
    }

    /// Warnings touch no condition; the operator puts them into the message of one that holds.
    fn warnings(accepted: &Condition) -> Option<Self> {
        let tells = accepted.status == "True" && !accepted.message.is_empty();
        tells.then(|| Self {
            about: "Warning".into(),
            status: None,
            reason: String::new(),
            lines: lines(&accepted.message),
            since: None,
        })
    }

    fn unseen() -> Self {
        Self {
            about: "Ready".into(),
            status: Some("Unknown".into()),
            reason: "Pending".into(),
            lines: vec![
                "no operator has looked at it yet; is sluice-operator running, and does one replica lead?".into(),
            ],
            since: None,
        }
    }

    fn outdated(ready: &Condition, generation: Option<i64>) -> Self {
        let (observed, now) = (ready.observed_generation, generation);
        Self {
            about: "Ready".into(),
            status: Some("Unknown".into()),
            reason: "Outdated".into(),
            lines: vec![format!(
                "its status speaks of generation {}, its spec is at {}: the operator has not looked at the last change yet",
                observed.unwrap_or_default(),
                now.unwrap_or_default()
            )],
            since: None,
        }
    }
}

/// What mends it, where the operator's message does not say so itself.
fn mend(reason: &str, namespace: &str) -> Option<String> {
    match reason {
        "PodsPending" => Some(format!(
            "where a pod stays away: kubectl logs -n {namespace} POD -c sluice"
        )),
        "ApplyFailed" => {
            Some("the operator's role must allow it to write HorizontalPodAutoscalers".to_owned())
        }
        _ => None,
    }
}

fn lines(message: &str) -> Vec<String> {
    let lines = message.lines().filter(|line| !line.is_empty());
    lines.map(str::to_owned).collect()
}

/// The conditions that decode.
fn conditions(status: &Value) -> Vec<Condition> {
    let all = status.get("conditions").and_then(Value::as_array);
    let decoded = all.into_iter().flatten().map(Condition::deserialize);
    decoded.flatten().collect()
}

fn part<T: DeserializeOwned>(status: &Value, name: &str) -> Option<T> {
    serde_json::from_value(status.get(name)?.clone()).ok()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn condition(type_: &str, status: &str, reason: &str, message: &str) -> Value {
        json!({
            "type": type_, "status": status, "reason": reason, "message": message,
            "observedGeneration": 2, "lastTransitionTime": "2026-01-01T00:00:00Z",
        })
    }

    fn row(conditions: &[Value], generation: i64) -> Row {
        Row::of(Seen {
            kind: Kind::ApiRoute,
            namespace: "shop".into(),
            name: "orders".into(),
            created: None,
            generation: Some(generation),
            status: json!({"conditions": conditions, "live": {"summary": "1/2"}}),
        })
    }

    fn told(row: &Row) -> Vec<(&str, &str)> {
        let notes = row.notes.iter();
        notes
            .map(|note| (note.about.as_str(), note.reason.as_str()))
            .collect()
    }

    #[test]
    fn ready_of_a_former_generation_is_not_ready() {
        let ready = [condition("Ready", "True", "Ready", "")];
        assert_eq!(row(&ready, 2).ready, Ready::True);
        let behind = row(&ready, 3);
        assert_eq!(behind.ready, Ready::Unknown);
        assert_eq!(told(&behind), [("Ready", "Outdated")]);
    }

    #[test]
    fn what_was_never_looked_at_is_not_ready() {
        for conditions in [
            vec![],
            vec![condition("Ready", "Unknown", "Pending", "waiting")],
        ] {
            let row = row(&conditions, 1);
            assert_eq!(
                (row.ready, told(&row)),
                (Ready::Unknown, vec![("Ready", "Pending")])
            );
        }
    }

    #[test]
    fn the_cause_is_told_once_and_pods_by_line() {
        let row = row(
            &[
                condition("Accepted", "True", "Accepted", "NoPods: spec.parentRefs[0]"),
                condition(
                    "Programmed",
                    "False",
                    "PodsPending",
                    "live on 1 of 2 pods; a not connected",
                ),
                condition(
                    "Ready",
                    "False",
                    "PodsPending",
                    "live on 1 of 2 pods; a not connected",
                ),
                condition("Stalled", "True", "SidecarTooOld", ""),
                json!({"type": "Nonsense"}),
            ],
            2,
        );
        assert_eq!((row.ready, row.stalled), (Ready::False, true));
        assert_eq!(told(&row), [("Programmed", "PodsPending"), ("Warning", "")]);
        assert_eq!(row.notes[0].lines[1], "a not connected");
        assert!(row.notes[0].lines[2].contains("-n shop"));
        assert_eq!(row.live, None, "what does not decode is passed over");
    }

    #[test]
    fn scaling_is_told_and_does_not_count() {
        let row = row(
            &[
                condition("Scaling", "False", "TargetTaken", "x"),
                condition("Ready", "True", "Ready", ""),
            ],
            2,
        );
        assert_eq!(
            (row.ready, told(&row)),
            (Ready::True, vec![("Scaling", "TargetTaken")])
        );
    }
}
