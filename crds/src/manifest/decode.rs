//! From a JSON value to a type: the first thing that does not fit, and every field the type does not have.

use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::validation::Violation;

/// The value as `T`.
///
/// # Errors
/// What does not fit, and every unknown field met on the way.
pub(super) fn decode<T: DeserializeOwned>(value: Value) -> Result<T, Vec<Violation>> {
    let mut track = serde_path_to_error::Track::new();
    let mut violations = Vec::new();
    let decoded: Result<T, serde_json::Error> = serde_ignored::deserialize(
        serde_path_to_error::Deserializer::new(value, &mut track),
        |path| {
            violations.push(Violation {
                path: path_of(&path),
                message: "unknown field".into(),
            });
        },
    );
    match decoded {
        Ok(decoded) if violations.is_empty() => Ok(decoded),
        Ok(_) => Err(violations),
        Err(error) => {
            violations.push(Violation {
                path: track.path().to_string(),
                message: error.to_string(),
            });
            Err(violations)
        }
    }
}

/// The path as everything else here writes it: `spec.ports[0].name`.
fn path_of(path: &serde_ignored::Path<'_>) -> String {
    use serde_ignored::Path;
    match path {
        Path::Root => String::new(),
        Path::Seq { parent, index } => format!("{}[{index}]", path_of(parent)),
        Path::Map { parent, key } => match path_of(parent) {
            parent if parent.is_empty() => key.clone(),
            parent => format!("{parent}.{key}"),
        },
        Path::Some { parent }
        | Path::NewtypeStruct { parent }
        | Path::NewtypeVariant { parent } => path_of(parent),
    }
}
