//! The three kinds and how a command line names their objects.

use std::{fmt, str::FromStr};

use serde::Serialize;

/// A kind of resource.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[allow(missing_docs)] // the resources have pages of their own
pub enum Kind {
    ApiRoute,
    RateLimitPolicy,
    ShardSet,
}

impl Kind {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::ApiRoute, Self::RateLimitPolicy, Self::ShardSet];

    /// As manifests write it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::ApiRoute => "ApiRoute",
            Self::RateLimitPolicy => "RateLimitPolicy",
            Self::ShardSet => "ShardSet",
        }
    }

    /// As the API server's paths write it.
    pub const fn plural(self) -> &'static str {
        match self {
            Self::ApiRoute => "apiroutes",
            Self::RateLimitPolicy => "ratelimitpolicies",
            Self::ShardSet => "shardsets",
        }
    }

    /// The headline of its table.
    pub const fn title(self) -> &'static str {
        match self {
            Self::ApiRoute => "ApiRoutes",
            Self::RateLimitPolicy => "RateLimitPolicies",
            Self::ShardSet => "ShardSets",
        }
    }

    const fn short(self) -> &'static str {
        match self {
            Self::ApiRoute => "ar",
            Self::RateLimitPolicy => "rlp",
            Self::ShardSet => "ss",
        }
    }
}

/// A word that is no `KIND[/NAME]`.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum SelectorError {
    /// None of ours.
    #[error(
        "{0:?} is no kind of Sluice: there are apiroute (ar), ratelimitpolicy (rlp), shardset (ss)"
    )]
    Kind(String),
    /// `KIND/` or a name with a slash.
    #[error("{0:?} names no object: write KIND/NAME, and the namespace as -n NAMESPACE")]
    Name(String),
}

/// Which objects are meant: all of a kind, or one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Selector {
    /// The kind.
    pub kind: Kind,
    /// The object; none: all.
    pub name: Option<String>,
}

impl Selector {
    /// All objects of a kind.
    pub fn all(kind: Kind) -> Self {
        Self { kind, name: None }
    }
}

impl FromStr for Selector {
    type Err = SelectorError;

    fn from_str(text: &str) -> Result<Self, SelectorError> {
        let (kind, name) = match text.split_once('/') {
            Some((kind, name)) => (kind, Some(name)),
            None => (text, None),
        };
        let word = kind.to_ascii_lowercase();
        let word = word.split('.').next().unwrap_or_default();
        let kind = Kind::ALL.into_iter().find(|kind| {
            let names = [kind.short(), kind.plural()];
            names.contains(&word) || kind.as_str().eq_ignore_ascii_case(word)
        });
        let kind = kind.ok_or_else(|| SelectorError::Kind(text.to_owned()))?;
        match name {
            Some(name) if name.is_empty() || name.contains('/') => {
                Err(SelectorError::Name(text.to_owned()))
            }
            name => Ok(Self {
                kind,
                name: name.map(str::to_owned),
            }),
        }
    }
}

impl fmt::Display for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { kind, name } = self;
        match name {
            None => f.write_str(kind.as_str()),
            Some(name) => write!(f, "{} {name}", kind.as_str()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_are_named_as_kubectl_names_them() {
        for text in [
            "ar",
            "apiroute",
            "apiroutes",
            "ApiRoute",
            "AR",
            "ApiRoutes",
            "apiroutes.sluice.dev",
        ] {
            assert_eq!(text.parse(), Ok(Selector::all(Kind::ApiRoute)), "{text}");
        }
        let one = Selector {
            kind: Kind::ShardSet,
            name: Some("orders".into()),
        };
        assert_eq!("ss/orders".parse(), Ok(one));
        let parse = |text: &str| text.parse::<Selector>();
        assert!(matches!(parse("pod/x"), Err(SelectorError::Kind(_))));
        for text in ["ar/", "ar/shop/orders"] {
            assert!(matches!(parse(text), Err(SelectorError::Name(_))), "{text}");
        }
    }
}
