//! The checks an API server makes of one object, made offline: structure first, then the CEL rules.
//!
//! Holds the compiled schemas, one per kind for the life of the process (compiling one costs a fifth of a second). Must
//! not hold anything that needs a second object: that is `translate`.

mod shape;

use std::sync::LazyLock;

use kube::core::cel::{CompiledSchema, Validator, compile_schema};
use serde_json::Value;

use crate::crd::{self, CrdError};
use shape::Shape;

/// The kinds whose schema is ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// [`crate::ApiRoute`].
    ApiRoute,
    /// [`crate::RateLimitPolicy`].
    RateLimitPolicy,
    /// [`crate::ShardSet`].
    ShardSet,
    /// [`crate::SluiceConfig`].
    SluiceConfig,
}

impl Kind {
    /// All of them.
    pub const ALL: [Self; 4] = [
        Self::ApiRoute,
        Self::RateLimitPolicy,
        Self::ShardSet,
        Self::SluiceConfig,
    ];

    /// The `kind` of a manifest.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::ApiRoute => "ApiRoute",
            Self::RateLimitPolicy => "RateLimitPolicy",
            Self::ShardSet => "ShardSet",
            Self::SluiceConfig => "SluiceConfig",
        }
    }
}

/// One thing an API server would refuse an object for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// Where, as `spec.rules[0].name`; empty for the object as a whole.
    pub path: String,
    /// What is wrong, in words.
    pub message: String,
}

/// A manifest as the API server would store it, or why it would refuse it.
///
/// Null fields are dropped (null means absent) and schema defaults applied; `status` and `metadata` are not looked
/// at. `old` is the stored object that this one replaces: with it, rules about changes count as well.
///
/// # Errors
/// Everything that is wrong with the structure, or, where that is sound, every rule that is broken.
pub fn admit(kind: Kind, object: &Value, old: Option<&Value>) -> Result<Value, Vec<Violation>> {
    let rules = &RULES[kind as usize];
    let rules = rules.as_ref().map_err(|error| {
        vec![Violation {
            path: String::new(),
            message: error.to_string(),
        }]
    })?;
    let object = kube::core::cel::apply_defaults(&rules.schema, &rules.shape.without_nulls(object));
    let mut violations = Vec::new();
    rules.shape.check(&object, "", &mut violations);
    if !violations.is_empty() {
        return Err(violations);
    }
    match rules.broken(&object, old) {
        broken if broken.is_empty() => Ok(object),
        broken => Err(broken),
    }
}

/// What [`admit`] checks a kind against.
struct KindRules {
    schema: Value,
    shape: Shape,
    compiled: CompiledSchema,
    validator: Validator,
}

static RULES: LazyLock<[Result<KindRules, RulesError>; 4]> =
    LazyLock::new(|| Kind::ALL.map(KindRules::of));

/// Why a schema of our own is unusable; a test shows that none is.
#[derive(Debug, thiserror::Error)]
enum RulesError {
    #[error(transparent)]
    Crd(#[from] CrdError),
    #[error(transparent)]
    Shape(#[from] shape::ShapeError),
}

impl KindRules {
    fn of(kind: Kind) -> Result<Self, RulesError> {
        let mut schema = match kind {
            Kind::SluiceConfig => crd::config_schema()?,
            Kind::ApiRoute => crd::schema_of(&crd::definitions()?[0]).clone(),
            Kind::RateLimitPolicy => crd::schema_of(&crd::definitions()?[1]).clone(),
            Kind::ShardSet => crd::schema_of(&crd::definitions()?[2]).clone(),
        };
        if let Some(properties) = schema["properties"].as_object_mut() {
            properties.remove("status");
        }
        Ok(Self {
            shape: Shape::compile(&schema)?,
            compiled: compile_schema(&schema),
            validator: Validator::new(),
            schema,
        })
    }

    fn broken(&self, object: &Value, old: Option<&Value>) -> Vec<Violation> {
        let broken = self
            .validator
            .validate_compiled(&self.compiled, object, old)
            .err()
            .into_iter()
            .flatten();
        broken
            .map(|error| Violation {
                path: error.field_path,
                message: error.message,
            })
            .collect()
    }
}

#[cfg(test)]
mod tests;
