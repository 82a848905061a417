//! Names that live state is kept by: stable over changes of what they name, and found without reading them letter by
//! letter.

use std::hash::{Hash, Hasher};

use aws_lc_rs::digest;
use sluice_snapshot::unit::ObjectRef;

/// `namespace/name/part` of a part of an object. Two are the same where the object's kind is the same too.
#[derive(Debug, Clone)]
pub struct StableId {
    /// 128 bits over kind, namespace, name and part: who chooses names cannot make two alike.
    stamp: [u8; 16],
    text: Box<str>,
}

impl StableId {
    /// The id of `part` of `object`.
    pub fn new(object: &ObjectRef, part: &str) -> Self {
        let ObjectRef {
            kind,
            namespace,
            name,
        } = object;
        let mut context = digest::Context::new(&digest::SHA256);
        for word in [kind, namespace, name, part] {
            context.update(&(word.len() as u64).to_be_bytes());
            context.update(word.as_bytes());
        }
        let mut stamp = [0; 16];
        stamp.copy_from_slice(&context.finish().as_ref()[..16]);
        Self {
            stamp,
            text: format!("{namespace}/{name}/{part}").into(),
        }
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// What tells it apart from every other.
    pub fn stamp(&self) -> &[u8; 16] {
        &self.stamp
    }
}

impl PartialEq for StableId {
    fn eq(&self, other: &Self) -> bool {
        self.stamp == other.stamp
    }
}

impl Eq for StableId {}

impl Hash for StableId {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_u64(u128::from_le_bytes(self.stamp) as u64);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_objects_and_kinds_are_apart() {
        let id = |kind, name, part| StableId::new(&ObjectRef::new(kind, "shop", name), part);
        let one = id("ApiRoute", "orders", "all");
        assert_eq!(one, id("ApiRoute", "orders", "all"));
        assert_eq!(one.as_str(), "shop/orders/all");
        for other in [
            id("HTTPRoute", "orders", "all"),
            id("ApiRoute", "order", "sall"),
            id("ApiRoute", "orders/all", ""),
        ] {
            assert_ne!(one, other);
        }
    }
}
