//! Names of fields that came lately. The same few come with nearly every message, spelt the same; to recognise one costs less
//! than to read it anew.

use std::cell::RefCell;

use http::HeaderName;

/// Places for names.
const PLACES: usize = 128;
/// Bytes of the longest name that is kept.
const LONGEST: usize = 32;

thread_local! {
    /// Those of this thread's connections.
    pub static NAMES: RefCell<Names> = RefCell::new(Names::default());
}

/// The last names that came for each pair of places.
#[derive(Debug)]
pub struct Names([Option<Known>; PLACES]);

#[derive(Debug)]
struct Known {
    /// As it was spelt; the rest is zero.
    spelt: [u8; LONGEST],
    length: usize,
    name: HeaderName,
}

impl Default for Names {
    fn default() -> Self {
        Self([const { None }; PLACES])
    }
}

impl Names {
    /// The name that is spelt so; none: it is no token.
    #[inline(always)] // for each field of each head
    pub fn get(&mut self, spelt: &[u8]) -> Option<HeaderName> {
        let (Some(first), Some(last)) = (spelt.first(), spelt.last()) else {
            return None;
        };
        if spelt.len() > LONGEST {
            return HeaderName::from_bytes(spelt).ok();
        }
        let middle = spelt[spelt.len() / 2];
        // So that those which come together in most heads, as Host and Cookie, have places of their own.
        let place = spelt.len() * 31 + usize::from(*first) * 13 + usize::from(*last) * 11;
        let place = (place + usize::from(middle)) % PLACES;
        for known in [&self.0[place], &self.0[place ^ 1]].into_iter().flatten() {
            if known.spelt.get(..known.length) == Some(spelt) {
                return Some(known.name.clone());
            }
        }
        let name = HeaderName::from_bytes(spelt).ok()?;
        let mut kept = [0; LONGEST];
        kept[..spelt.len()].copy_from_slice(spelt);
        // Of two places the name that came before the other goes.
        self.0.swap(place, place ^ 1);
        self.0[place] = Some(Known {
            spelt: kept,
            length: spelt.len(),
            name: name.clone(),
        });
        Some(name)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn names_that_come_together_are_kept_beside_each_other() {
        let mut names = Names::default();
        let spelt = [
            "host",
            "cookie",
            "authorization",
            "user-agent",
            "accept",
            "accept-encoding",
            "content-type",
            "content-length",
            "date",
            "server",
            "x-request-id",
        ];
        for spelt in spelt {
            names.get(spelt.as_bytes());
        }
        let kept = names.0.iter().flatten().count();
        assert_eq!(kept, spelt.len());
    }

    proptest! {
        /// Whatever came before.
        #[test]
        fn a_name_is_what_it_is_spelt(spelt in proptest::collection::vec("[a-zA-Z :\u{e9}-]{0,40}", 1..40)) {
            let mut names = Names::default();
            for spelt in spelt.iter().chain(&spelt) {
                let expected = HeaderName::from_bytes(spelt.as_bytes()).ok();
                prop_assert_eq!(names.get(spelt.as_bytes()), expected);
            }
        }
    }
}
