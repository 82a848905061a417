//! What this build says of itself: its name, for people, and the features it knows, by which the operator decides what it
//! is sent. The cargo feature `without-cache` makes a build that knows one feature less, as a sidecar of a former version.

use sluice_process::build;
use sluice_snapshot::Feature;

/// What a build for tests does not know.
const UNKNOWN: Option<Feature> = match cfg!(feature = "without-cache") {
    true => Some(Feature::Cache),
    false => None,
};

/// Version and commit, and what is missing.
pub fn build() -> String {
    match UNKNOWN {
        None => build::describe(),
        Some(feature) => format!("{} without {}", build::describe(), feature.name()),
    }
}

/// The names of the features it knows.
pub(super) fn features() -> Vec<String> {
    let known = Feature::ALL
        .into_iter()
        .filter(|feature| Some(*feature) != UNKNOWN);
    known.map(|feature| feature.name().to_owned()).collect()
}
