//! Values of fields out of a head that was judged: they are not looked at again.
//!
//! `unsafe` is here for that alone. What makes a field value is that no control byte but the tab is among its bytes, and
//! `sluice_pipeline::framing` has refused every head and trailer line where one is. Debug builds look again.
#![allow(unsafe_code)]

use bytes::Bytes;
use http::HeaderValue;

/// The value of a field line of which a `framing::Reader` has said that it is sound.
pub(super) fn of_sound(value: Bytes) -> HeaderValue {
    // SAFETY: the reader's spans of values hold no end of a line, and no other control byte but tabs is in a sound head.
    unsafe { HeaderValue::from_maybe_shared_unchecked(value) }
}
