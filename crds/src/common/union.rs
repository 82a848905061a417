//! Unions of the schema: `type: X` beside the one member that X names, and the plain Rust enum one reads them by.

use kube::core::Rule;

/// A union whose member is not the one that `type` names. The schema refuses it, so it is met only in objects stored
/// before the rule existed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WrongMember {
    /// The member that belongs to the type is absent.
    #[error("type {kind} needs its member `{member}`")]
    Missing {
        /// The value of `type`.
        kind: &'static str,
        /// The member that is absent.
        member: &'static str,
    },
    /// A member of another type is set.
    #[error("`{member}` does not belong to type {kind}: remove it, or change the type")]
    Foreign {
        /// The value of `type`.
        kind: &'static str,
        /// The member that is set and should not be.
        member: &'static str,
    },
}

/// One alternative of a union as its rule needs it.
pub(crate) struct Alternative {
    pub(crate) kind: &'static str,
    pub(crate) member: Option<&'static str>,
    /// Whether `type` alone, without its member, is enough.
    pub(crate) optional: bool,
}

/// The one CEL rule of a union: exactly the member that `type` names is set.
pub(crate) fn member_rule(alternatives: &[Alternative]) -> Rule {
    let clauses: Vec<String> = alternatives
        .iter()
        .filter_map(
            |Alternative {
                 kind,
                 member,
                 optional,
             }| {
                let member = (*member)?;
                Some(match optional {
                    true => format!("(!has(self.{member}) || self.type == '{kind}')"),
                    false => format!("(self.type == '{kind}') == has(self.{member})"),
                })
            },
        )
        .collect();
    Rule::new(clauses.join(" && ")).message("exactly the member that type names must be set")
}

/// Declares a union: the struct of the schema, the enum of its `type`, and the view that its `get` yields.
///
/// `Variant = "Word" => field = "wireName": Type;` and, where the member may be left out, `, or &DEFAULT` before the
/// semicolon; `Variant = "Word";` has no member.
macro_rules! union {
    (
        $(#[$meta:meta])*
        pub struct $name:ident, $kind:ident, $view:ident {
            $( $(#[$xmeta:meta])* pub $extra:ident : $extra_ty:ty, )*
        }
        $(
            #[doc = $doc:literal]
            $variant:ident = $word:literal $( => $field:ident = $wire:literal : $ty:ty $( , or $default:expr )? )? ;
        )+
    ) => {
        $(#[$meta])*
        #[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize, kube::KubeSchema)]
        #[serde(rename_all = "camelCase")]
        #[x_kube(validation = $crate::common::union::member_rule(&[$(
            $crate::common::union::Alternative {
                kind: $word,
                member: [$($wire,)? ""].first().copied().filter(|wire| !wire.is_empty()),
                optional: !([$($(stringify!($default),)?)? ""][0].is_empty()),
            },
        )+]))]
        pub struct $name {
            $( $(#[$xmeta])* pub $extra: $extra_ty, )*
            /// Which member is set.
            #[serde(rename = "type")]
            pub kind: $kind,
            $( $(
                #[doc = $doc]
                #[serde(rename = $wire, skip_serializing_if = "Option::is_none")]
                pub $field: Option<$ty>,
            )? )+
        }

        #[doc = concat!("The `type` of [`", stringify!($name), "`].")]
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize, schemars::JsonSchema)]
        pub enum $kind { $( #[doc = $doc] #[serde(rename = $word)] $variant, )+ }

        #[doc = concat!("What a [`", stringify!($name), "`] says, with no wrong state left.")]
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum $view<'a> { $( #[doc = $doc] $variant $( (&'a $ty) )?, )+ }

        impl $kind {
            /// The word of the schema.
            pub fn as_str(self) -> &'static str {
                match self { $( Self::$variant => $word, )+ }
            }
        }

        impl $name {
            /// The member that `type` names.
            ///
            /// # Errors
            /// [`WrongMember`](crate::common::WrongMember) when it is absent or another one is set.
            pub fn get(&self) -> Result<$view<'_>, $crate::common::WrongMember> {
                let members = [ $( $( ($kind::$variant, self.$field.is_some(), $wire), )? )+ ];
                let foreign = members.iter().find(|(kind, set, _)| *set && *kind != self.kind);
                if let Some((_, _, member)) = foreign {
                    return Err($crate::common::WrongMember::Foreign { kind: self.kind.as_str(), member });
                }
                Ok(match self.kind { $(
                    $kind::$variant => $view::$variant $( (
                        self.$field.as_ref()
                            $( .or(Some($default)) )?
                            .ok_or($crate::common::WrongMember::Missing { kind: $word, member: $wire })?
                    ) )?,
                )+ })
            }
        }
    };
}
pub(crate) use union;
