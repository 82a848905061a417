//! Values as the log writes them, put together by hand: std's formatting costs a request more than all else of its line.

use std::{io::Write as _, net::SocketAddr};

/// Writes a number's lowest decimal digits, as many as there is room for.
pub fn decimal(room: &mut [u8], mut number: u64) {
    for digit in room.iter_mut().rev() {
        *digit = b'0' + (number % 10) as u8;
        number /= 10;
    }
}

/// An address and its port: `192.0.2.1:4711`.
#[derive(Debug, Clone, Copy)]
pub struct Endpoint(pub SocketAddr);

impl Endpoint {
    /// Adds it to a line.
    pub fn write(&self, out: &mut Vec<u8>) {
        let SocketAddr::V4(address) = self.0 else {
            // A Vec takes everything.
            let _ = write!(out, "{}", self.0);
            return;
        };
        // The longest is `255.255.255.255:65535`.
        let mut text = [0; 21];
        let mut at = 0;
        let mut number = |number: u32, end: &[u8]| {
            let digits = number.checked_ilog10().map_or(1, |log| log as usize + 1);
            decimal(&mut text[at..at + digits], number.into());
            at += digits;
            text[at..at + end.len()].copy_from_slice(end);
            at += end.len();
        };
        let [a, b, c, d] = address.ip().octets().map(u32::from);
        number(a, b".");
        number(b, b".");
        number(c, b".");
        number(d, b":");
        number(address.port().into(), b"");
        out.extend_from_slice(&text[..at]);
    }
}

/// A trace's id: 32 hexadecimal digits.
#[derive(Debug, Clone, Copy)]
pub struct Trace(pub u128);

impl Trace {
    /// Its digits.
    pub fn text(&self) -> [u8; 32] {
        let mut text = [0; 32];
        let mut number = self.0;
        for digit in text.iter_mut().rev() {
            *digit = b"0123456789abcdef"[(number & 15) as usize];
            number >>= 4;
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_written_as_std_writes_it() {
        for address in [
            "0.0.0.0:0",
            "9.10.99.100:9",
            "255.255.255.255:65535",
            "192.0.2.1:4711",
            "[2001:db8::1]:80",
        ] {
            let parsed = address.parse().expect("an address");
            let mut text = Vec::new();
            Endpoint(parsed).write(&mut text);
            assert_eq!(text, address.as_bytes());
        }
    }

    #[test]
    fn a_trace_has_all_its_digits() {
        for id in [0, 1, u128::MAX, 0x4bf9_2f35_77b3_4da6_a3ce_929d_0e0e_4736] {
            assert_eq!(Trace(id).text(), format!("{id:032x}").as_bytes());
        }
    }
}
