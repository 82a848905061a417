//! AdmissionReview v1, as JSON: what a webhook is asked and what it answers. The object stays as it came, so that
//! nothing of a newer API is lost.

use base64::{Engine, engine::general_purpose::STANDARD};
use json_patch::Patch;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::status::conditions::truncated;

const VERSION: &str = "admission.k8s.io/v1";
/// Warnings that an answer carries at most, and the longest: the API server cuts the rest off.
const MAX_WARNINGS: usize = 10;
const MAX_WARNING: usize = 240;

/// A body that is no review.
#[derive(Debug, thiserror::Error)]
pub enum ReviewError {
    /// Not JSON, or not of this shape.
    #[error("not an AdmissionReview: {0}")]
    Shape(#[from] serde_json::Error),
    /// Another version.
    #[error("AdmissionReview {0} is not spoken here: set admissionReviewVersions to [v1]")]
    Version(String),
    /// A review without a question.
    #[error("an AdmissionReview without request")]
    NoRequest,
}

/// What is done with the object.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
#[allow(missing_docs)] // the API's own words
pub enum Operation {
    Create,
    Update,
    Delete,
    Connect,
}

/// One question.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Review {
    /// Names the question in the answer.
    pub uid: String,
    /// What is done.
    pub operation: Operation,
    /// The object's kind.
    pub kind: ReviewKind,
    /// The object's namespace; empty where its kind has none.
    #[serde(default)]
    pub namespace: String,
    /// The object as it would be stored; null where it goes.
    #[serde(default)]
    pub object: Value,
    /// The object as it is stored; null where it is new.
    #[serde(default)]
    pub old_object: Value,
}

/// The object's kind.
#[derive(Debug, Clone, Deserialize)]
pub struct ReviewKind {
    /// Its API group; empty for the core.
    #[serde(default)]
    pub group: String,
    /// Its kind.
    pub kind: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Envelope {
    api_version: String,
    request: Option<Review>,
}

impl Review {
    /// Reads a question.
    pub fn read(body: &[u8]) -> Result<Self, ReviewError> {
        let Envelope {
            api_version,
            request,
        } = serde_json::from_slice(body)?;
        if api_version != VERSION {
            return Err(ReviewError::Version(api_version.chars().take(64).collect()));
        }
        request.ok_or(ReviewError::NoRequest)
    }

    /// Yes, with words for whoever asked.
    pub fn allowed(&self, warnings: &[String]) -> Value {
        self.answer(json!({"allowed": true, "warnings": cut(warnings)}))
    }

    /// Yes, changed so, with words for whoever asked.
    pub fn patched(&self, patch: &Patch, warnings: &[String]) -> Value {
        // A JSON patch always serialises: its paths are strings and its values JSON.
        let patch = serde_json::to_vec(patch).unwrap_or_default();
        let patch = STANDARD.encode(patch);
        self.answer(json!({
            "allowed": true, "patchType": "JSONPatch", "patch": patch, "warnings": cut(warnings),
        }))
    }

    /// No, and why.
    pub fn denied(&self, code: u16, reason: &str, message: &str) -> Value {
        self.answer(json!({
            "allowed": false,
            "status": {"status": "Failure", "code": code, "reason": reason, "message": message},
        }))
    }

    fn answer(&self, mut response: Value) -> Value {
        response["uid"] = self.uid.as_str().into();
        json!({"apiVersion": VERSION, "kind": "AdmissionReview", "response": response})
    }
}

/// What of these warnings the API server shows.
fn cut(warnings: &[String]) -> Vec<String> {
    let cut = |warning: &String| truncated(warning.clone(), MAX_WARNING);
    warnings.iter().take(MAX_WARNINGS).map(cut).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn question(version: &str) -> Vec<u8> {
        json!({
            "apiVersion": version, "kind": "AdmissionReview",
            "request": {
                "uid": "u1", "operation": "CREATE", "kind": {"group": "", "version": "v1", "kind": "Pod"},
                "object": {"fieldOfTomorrow": 1}, "oldObject": null,
            },
        })
        .to_string()
        .into_bytes()
    }

    #[test]
    fn the_object_comes_as_it_is_and_the_answer_names_the_question() {
        let review = Review::read(&question(VERSION)).expect("reads");
        assert_eq!(
            (review.operation, &review.object),
            (Operation::Create, &json!({"fieldOfTomorrow": 1}))
        );
        let patch: Patch = serde_json::from_value(json!([{"op": "add", "path": "/a", "value": 1}]))
            .expect("a patch");
        let answer = review.patched(&patch, &["mind".to_owned()])["response"].clone();
        assert_eq!(
            (&answer["uid"], &answer["allowed"]),
            (&json!("u1"), &json!(true))
        );
        let decoded = STANDARD
            .decode(answer["patch"].as_str().expect("text"))
            .expect("base64");
        assert_eq!(
            serde_json::from_slice::<Patch>(&decoded).expect("a patch"),
            patch
        );
        assert_eq!(
            review.denied(422, "Invalid", "no")["response"]["status"]["message"],
            "no"
        );
    }

    #[test]
    fn warnings_are_bounded() {
        let review = Review::read(&question(VERSION)).expect("reads");
        let answer = review.allowed(&vec!["é".repeat(500); 50]);
        let warnings = answer["response"]["warnings"]
            .as_array()
            .expect("a list")
            .clone();
        assert_eq!(warnings.len(), MAX_WARNINGS);
        assert!(
            warnings
                .iter()
                .all(|warning| warning.as_str().expect("text").len() <= MAX_WARNING)
        );
    }

    #[test]
    fn what_is_no_review_is_refused() {
        assert!(matches!(Review::read(b"{"), Err(ReviewError::Shape(_))));
        assert!(matches!(
            Review::read(&question("admission.k8s.io/v1beta1")),
            Err(ReviewError::Version(_))
        ));
        let empty = json!({"apiVersion": VERSION}).to_string();
        assert!(matches!(
            Review::read(empty.as_bytes()),
            Err(ReviewError::NoRequest)
        ));
    }
}
