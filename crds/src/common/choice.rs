//! The macro behind every closed set of words in the schema.

/// Declares an enum whose variants are the words of the schema; `= "word"` names one that is no Rust identifier.
macro_rules! choice {
    ($(#[$meta:meta])* pub enum $name:ident { $( $(#[$vmeta:meta])* $variant:ident $(= $word:literal)?, )+ }) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize, schemars::JsonSchema)]
        pub enum $name { $( $(#[$vmeta])* $(#[serde(rename = $word)])? $variant, )+ }
    };
}
pub(crate) use choice;
