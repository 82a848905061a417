//! memcpy, memmove and memcmp of the static binaries. musl's begin with `rep movs` and compare byte by byte, whatever the
//! length; what a proxy copies is short, and often. These hold what the C standard says of them, and nothing else is here.
//!
//! Lengths up to 128 bytes are loaded whole before anything is stored: there memcpy is memmove. Elsewhere the tests call
//! them by other names.
//!
//! `unsafe` is here for the assembly, and for the calls of the tests: each names memory that is there.
#![allow(unsafe_code)]

/// The functions, by these names.
#[cfg(all(target_arch = "x86_64", any(test, target_env = "musl")))]
macro_rules! functions {
    ($copy:literal, $move:literal, $compare:literal, $equal:literal) => {
        std::arch::global_asm!(
            concat!(".globl ", $copy),
            concat!(".type ", $copy, ", @function"),
            ".p2align 5",
            concat!($copy, ":"),
            "mov rax, rdi",
            "cmp rdx, 16",
            "jb 22f",
            "cmp rdx, 32",
            "ja 23f",
            "movups xmm0, [rsi]",
            "movups xmm1, [rsi + rdx - 16]",
            "movups [rdi], xmm0",
            "movups [rdi + rdx - 16], xmm1",
            "ret",
            "22:", // below 16
            "cmp edx, 8",
            "jb 24f",
            "mov rcx, [rsi]",
            "mov r8, [rsi + rdx - 8]",
            "mov [rdi], rcx",
            "mov [rdi + rdx - 8], r8",
            "ret",
            "24:", // below 8
            "cmp edx, 4",
            "jb 25f",
            "mov ecx, [rsi]",
            "mov r8d, [rsi + rdx - 4]",
            "mov [rdi], ecx",
            "mov [rdi + rdx - 4], r8d",
            "ret",
            "25:", // below 4: the first, the middle, the last
            "test edx, edx",
            "je 26f",
            "mov r9, rdx",
            "shr r9",
            "movzx ecx, byte ptr [rsi]",
            "movzx r8d, byte ptr [rsi + rdx - 1]",
            "movzx r10d, byte ptr [rsi + r9]",
            "mov [rdi], cl",
            "mov [rdi + r9], r10b",
            "mov [rdi + rdx - 1], r8b",
            "26:",
            "ret",
            "23:", // above 32
            "cmp rdx, 64",
            "ja 27f",
            "movups xmm0, [rsi]",
            "movups xmm1, [rsi + 16]",
            "movups xmm2, [rsi + rdx - 32]",
            "movups xmm3, [rsi + rdx - 16]",
            "movups [rdi], xmm0",
            "movups [rdi + 16], xmm1",
            "movups [rdi + rdx - 32], xmm2",
            "movups [rdi + rdx - 16], xmm3",
            "ret",
            "27:", // above 64
            "movups xmm4, [rsi + rdx - 64]",
            "movups xmm5, [rsi + rdx - 48]",
            "movups xmm6, [rsi + rdx - 32]",
            "movups xmm7, [rsi + rdx - 16]",
            "lea r8, [rdi + rdx - 64]",
            "cmp rdx, 2048",
            "ja 29f",
            "28:", // forward, up to the last 64
            "movups xmm0, [rsi]",
            "movups xmm1, [rsi + 16]",
            "movups xmm2, [rsi + 32]",
            "movups xmm3, [rsi + 48]",
            "movups [rdi], xmm0",
            "movups [rdi + 16], xmm1",
            "movups [rdi + 32], xmm2",
            "movups [rdi + 48], xmm3",
            "add rsi, 64",
            "add rdi, 64",
            "cmp rdi, r8",
            "jb 28b",
            "32:",
            "movups [r8], xmm4",
            "movups [r8 + 16], xmm5",
            "movups [r8 + 32], xmm6",
            "movups [r8 + 48], xmm7",
            "ret",
            "29:", // above 2048
            "mov rcx, rdx",
            "shr rcx, 3",
            "rep movsq",
            "jmp 32b",
            concat!(".size ", $copy, ", . - ", $copy),
            concat!(".globl ", $move),
            concat!(".type ", $move, ", @function"),
            ".p2align 4",
            concat!($move, ":"),
            "cmp rdx, 128",
            concat!("jbe ", $copy),
            "mov rcx, rdi",
            "sub rcx, rsi",
            "cmp rcx, rdx",
            // No overlap, or to a lower address: forward is right.
            concat!("jae ", $copy),
            "33:", // backward, down to the first 32
            "movups xmm0, [rsi + rdx - 16]",
            "movups xmm1, [rsi + rdx - 32]",
            "movups [rdi + rdx - 16], xmm0",
            "movups [rdi + rdx - 32], xmm1",
            "sub rdx, 32",
            "cmp rdx, 32",
            "ja 33b",
            concat!("jmp ", $copy),
            concat!(".size ", $move, ", . - ", $move),
            concat!(".globl ", $compare),
            concat!(".type ", $compare, ", @function"),
            concat!(".globl ", $equal),
            concat!(".set ", $equal, ", ", $compare),
            ".p2align 4",
            concat!($compare, ":"),
            "cmp rdx, 8",
            "jb 35f",
            "34:",
            "mov rax, [rdi]",
            "mov rcx, [rsi]",
            "cmp rax, rcx",
            "jne 36f",
            "add rdi, 8",
            "add rsi, 8",
            "sub rdx, 8",
            "cmp rdx, 8",
            "jae 34b",
            // The rest, with bytes before it that are equal.
            "mov rax, [rdi + rdx - 8]",
            "mov rcx, [rsi + rdx - 8]",
            "cmp rax, rcx",
            "jne 36f",
            "xor eax, eax",
            "ret",
            "36:", // the first byte that differs decides
            "bswap rax",
            "bswap rcx",
            "cmp rax, rcx",
            "sbb eax, eax",
            "or eax, 1",
            "ret",
            "35:", // below 8
            "cmp edx, 4",
            "jb 37f",
            "mov eax, [rdi]",
            "mov ecx, [rsi]",
            "mov r8d, [rdi + rdx - 4]",
            "mov r9d, [rsi + rdx - 4]",
            "bswap eax",
            "bswap ecx",
            "shl rax, 32",
            "shl rcx, 32",
            "bswap r8d",
            "bswap r9d",
            "or rax, r8",
            "or rcx, r9",
            "cmp rax, rcx",
            "je 38f",
            "sbb eax, eax",
            "or eax, 1",
            "ret",
            "37:", // below 4
            "test edx, edx",
            "je 38f",
            "movzx eax, byte ptr [rdi]",
            "movzx ecx, byte ptr [rsi]",
            "sub eax, ecx",
            "jne 39f",
            "inc rdi",
            "inc rsi",
            "dec edx",
            "jmp 37b",
            "38:",
            "xor eax, eax",
            "39:",
            "ret",
            concat!(".size ", $compare, ", . - ", $compare),
        );
    };
}

#[cfg(all(target_arch = "x86_64", target_env = "musl"))]
functions!("memcpy", "memmove", "memcmp", "bcmp");

#[cfg(all(test, target_arch = "x86_64", not(target_env = "musl")))]
functions!(
    "sluice_memcpy",
    "sluice_memmove",
    "sluice_memcmp",
    "sluice_bcmp"
);

#[cfg(all(test, target_arch = "x86_64", not(target_env = "musl")))]
mod tests {
    use std::cmp::Ordering;

    unsafe extern "C" {
        fn sluice_memcpy(to: *mut u8, from: *const u8, bytes: usize) -> *mut u8;
        fn sluice_memmove(to: *mut u8, from: *const u8, bytes: usize) -> *mut u8;
        fn sluice_memcmp(left: *const u8, right: *const u8, bytes: usize) -> i32;
        fn sluice_bcmp(left: *const u8, right: *const u8, bytes: usize) -> i32;
    }

    /// Every way through the functions, and both sides of each of their bounds.
    fn lengths() -> impl Iterator<Item = usize> {
        (0..300).chain([511, 512, 513, 2047, 2048, 2049, 2055, 2056, 2113, 5000])
    }

    fn pattern(bytes: usize) -> Vec<u8> {
        (0..bytes).map(|at| (at * 31 % 251) as u8).collect()
    }

    #[test]
    fn so_many_bytes_are_copied_and_none_beside_them() {
        for length in lengths() {
            for shift in 0..3 {
                let from = pattern(length + shift);
                let mut to = vec![0xee; length + 8];
                // SAFETY: `from` has `length` bytes behind `shift`, `to` more behind 4.
                let returned = unsafe {
                    sluice_memcpy(to.as_mut_ptr().add(4), from.as_ptr().add(shift), length)
                };
                assert_eq!(returned, to[4..].as_mut_ptr());
                assert_eq!(to[4..4 + length], from[shift..]);
                assert!(
                    to[..4]
                        .iter()
                        .chain(&to[4 + length..])
                        .all(|byte| *byte == 0xee)
                );
            }
        }
    }

    #[test]
    fn what_overlaps_is_moved_as_it_was() {
        for length in lengths() {
            for distance in [0, 1, 3, 7, 8, 15, 16, 31, 33, 64, 100, 1000] {
                for (from, to) in [(0, distance), (distance, 0)] {
                    let mut bytes = pattern(length + distance);
                    let mut expected = bytes.clone();
                    expected.copy_within(from..from + length, to);
                    let start = bytes.as_mut_ptr();
                    // SAFETY: both ranges are within `bytes`.
                    unsafe { sluice_memmove(start.add(to), start.add(from), length) };
                    assert!(bytes == expected, "{length} from {from} to {to}");
                }
            }
        }
    }

    #[test]
    fn the_first_byte_that_differs_decides() {
        for length in (0..70).chain([511, 512, 513]) {
            let left = pattern(length);
            let compare = |right: &[u8]| {
                // SAFETY: both have `length` bytes.
                let (order, equal) = unsafe {
                    (
                        sluice_memcmp(left.as_ptr(), right.as_ptr(), length),
                        sluice_bcmp(left.as_ptr(), right.as_ptr(), length),
                    )
                };
                assert_eq!(order == 0, equal == 0);
                order.cmp(&0)
            };
            assert_eq!(compare(&left.clone()), Ordering::Equal);
            for at in 0..length {
                for other in [0, 1, 0x7f, 0x80, 0xff] {
                    let mut right = left.clone();
                    right[at] = other;
                    if let Some(last) = right[at + 1..].last_mut() {
                        *last ^= 0x55;
                    }
                    assert_eq!(compare(&right), left.cmp(&right), "{length} at {at}");
                }
            }
        }
    }
}
