//! Where a shard key must lead, worked out from the ShardSet's manifest alone. It shares no code with the
//! product, so that the two can disagree.

use anyhow::{Context as _, Result};
use serde_json::Value;

use crate::manifests::{Manifests, list, text};

/// The slot of a key without a hash tag: CRC16 (XMODEM) modulo 16384, as Redis Cluster has it.
pub(crate) fn slot(key: &str) -> u16 {
    let crc = key.bytes().fold(0_u16, |crc, byte| {
        (0..8).fold(crc ^ (u16::from(byte) << 8), |crc, _| {
            let shifted = crc << 1;
            if crc & 0x8000 == 0 {
                shifted
            } else {
                shifted ^ 0x1021
            }
        })
    });
    crc % 16384
}

/// The Service that must answer for `key`: the primary for writes, the replica for reads.
pub(crate) fn member(base: &Manifests, set: &str, key: &str, write: bool) -> Result<String> {
    let spec = &base.named("ShardSet", set)?["spec"];
    let pinned = list(&spec["pins"]).find(|pin| pin["key"] == key);
    let shard = match pinned {
        Some(pin) => text(&pin["shard"])?,
        None => placed(spec, slot(key))?,
    };
    let role = if write { "Primary" } else { "Replica" };
    list(&spec["shards"])
        .filter(|candidate| candidate["name"] == shard.as_str())
        .flat_map(|candidate| list(&candidate["members"]))
        .find(|member| member["role"] == role)
        .map(|member| text(&member["backendRef"]["name"]))
        .with_context(|| format!("the shard {shard} has no {role}"))?
}

fn placed(spec: &Value, slot: u16) -> Result<String> {
    for range in list(&spec["placement"]) {
        let slots = text(&range["slots"])?;
        let (first, last) = slots.split_once('-').unwrap_or((&slots, &slots));
        if (first.parse::<u16>()?..=last.parse()?).contains(&slot) {
            return text(&range["shard"]);
        }
    }
    anyhow::bail!("no placement covers slot {slot}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::manifests::tests::quickstart;

    /// The values are those of Redis: `CLUSTER KEYSLOT foo`, and CRC16/XMODEM's check value.
    #[test]
    fn slots_are_those_of_redis() {
        assert_eq!(slot("foo"), 12182);
        assert_eq!(slot("123456789"), 0x31c3);
    }

    #[test]
    fn a_key_leads_to_its_shard_and_a_pin_wins() {
        let base = quickstart("base");
        let member = |key, write| member(&base, "orders", key, write).expect("placed");
        assert!(slot("umbrella") < 8192 && slot("acme") >= 8192);
        assert_eq!(member("umbrella", false), "orders-s0-read");
        assert_eq!(member("umbrella", true), "orders-s0");
        assert_eq!(member("acme", false), "orders-s1-read");
        assert!(slot("hooli") < 8192, "only the pin leads it to s1");
        assert_eq!(member("hooli", true), "orders-s1");
    }
}
