//! The values of D-Bus replies as plain ones. What has another type than it should have is empty.

use zbus::OwnedVariant;

use crate::text::{clean, truncate};

/// A word from the node, cleaned, and no longer than a unit's name may be (systemd.unit(5)).
pub(super) fn word(said: &str) -> String {
    let mut word = clean(said, false);
    truncate(&mut word, 255);
    word
}

pub(super) fn text(value: &OwnedVariant) -> String {
    <&str>::try_from(value).map_or_else(|_| String::new(), str::to_owned)
}

pub(super) fn number(value: &OwnedVariant) -> Option<u64> {
    u64::try_from(value).ok()
}

pub(super) fn pid(value: &OwnedVariant) -> u32 {
    u32::try_from(value).unwrap_or(0)
}

/// Formats an `ay`, such as an invocation id, as systemctl prints it.
pub(super) fn hex(value: &OwnedVariant) -> String {
    let bytes = value
        .try_clone()
        .ok()
        .and_then(|value| Vec::<u8>::try_from(value).ok());
    let digits = |byte: &u8| format!("{byte:02x}");
    bytes.iter().flatten().map(digits).collect()
}
