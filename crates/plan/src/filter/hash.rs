//! The hash that stands for an address in keys ([`super::Field::SaddrHash`]): the kernel's `jhash`, as nft's expression of that
//! name computes it.
//!
//! What is absent: any promise that two addresses never have the same one. What makes a key of it says what then happens.

use std::net::IpAddr;

/// What the hash is below: the most that nft can say.
pub const HASH_MODULUS: u32 = u32::MAX;
/// The hash's seed. It stands in the rules, so that all that read and write a map agree.
pub const HASH_SEED: u32 = 0x7765_6674;

/// What the kernel finds for an address (`nft_jhash_eval` on the bytes of the header's field).
pub fn address_hash(address: IpAddr) -> u32 {
    let hash = match address {
        IpAddr::V4(address) => jhash(&address.octets(), HASH_SEED),
        IpAddr::V6(address) => jhash(&address.octets(), HASH_SEED),
    };
    // `reciprocal_scale`.
    ((u64::from(hash) * u64::from(HASH_MODULUS)) >> 32) as u32
}

/// Bob Jenkins' lookup3 (`linux/jhash.h`), words in the machine's order.
fn jhash(bytes: &[u8], seed: u32) -> u32 {
    let start = 0xdead_beef_u32.wrapping_add(bytes.len() as u32).wrapping_add(seed);
    let mut state = [start; 3];
    let mut rest = bytes;
    while rest.len() > 12 {
        for (word, chunk) in state.iter_mut().zip(rest.chunks_exact(4)) {
            *word = word.wrapping_add(u32::from_ne_bytes([chunk[0], chunk[1], chunk[2], chunk[3]]));
        }
        mix(&mut state);
        rest = &rest[12..];
    }
    for (at, byte) in rest.iter().enumerate() {
        state[at / 4] = state[at / 4].wrapping_add(u32::from(*byte) << (8 * (at % 4)));
    }
    finish(&mut state);
    state[2]
}

fn mix([a, b, c]: &mut [u32; 3]) {
    fn step(x: &mut u32, y: &u32, z: &mut u32, turn: u32) {
        *x = x.wrapping_sub(*z) ^ z.rotate_left(turn);
        *z = z.wrapping_add(*y);
    }
    step(a, b, c, 4);
    step(b, c, a, 6);
    step(c, a, b, 8);
    step(a, b, c, 16);
    step(b, c, a, 19);
    step(c, a, b, 4);
}

fn finish([a, b, c]: &mut [u32; 3]) {
    fn step(x: &mut u32, y: u32, turn: u32) {
        *x = (*x ^ y).wrapping_sub(y.rotate_left(turn));
    }
    step(c, *b, 14);
    step(a, *c, 11);
    step(b, *a, 25);
    step(c, *b, 16);
    step(a, *c, 4);
    step(b, *a, 14);
    step(c, *b, 24);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hashes_are_those_of_the_kernel() {
        let check = |address: &str, expected: u32| {
            assert_eq!(address_hash(address.parse().unwrap()), expected, "{address}");
        };
        check("10.96.0.1", 0x19a8_8ce7);
        check("fd00:96::1", 0x83b8_5244);
    }
}
