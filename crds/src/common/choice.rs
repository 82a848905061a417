//! The macro behind every closed set of words in the schema.

/// Declares an enum whose variants are the words of the schema; `= "word"` names one that is no Rust identifier.
///
/// Its schema carries no description: that of the field which uses it must win.
macro_rules! choice {
    ($(#[$meta:meta])* pub enum $name:ident { $( $(#[$vmeta:meta])* $variant:ident $(= $word:literal)?, )+ }) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
        pub enum $name { $( $(#[$vmeta])* $(#[serde(rename = $word)])? $variant, )+ }

        impl $name {
            /// The word of the schema.
            pub fn as_str(self) -> &'static str {
                match self { $( Self::$variant => $crate::common::choice!(@word $variant $($word)?), )+ }
            }
        }

        impl schemars::JsonSchema for $name {
            fn inline_schema() -> bool {
                true
            }
            fn schema_name() -> std::borrow::Cow<'static, str> {
                stringify!($name).into()
            }
            fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
                schemars::json_schema!({"type": "string", "enum": [ $( $crate::common::choice!(@word $variant $($word)?) ),+ ]})
            }
        }
    };
    (@word $variant:ident) => { stringify!($variant) };
    (@word $variant:ident $word:literal) => { $word };
}
pub(crate) use choice;
