//! Sizes with units.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// A size in bytes. Parsed from and shown with binary units: `1 GiB`, `512 MiB`, `1.5 GiB`, `4096 B`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Bytes(pub u64);

/// Why a text is not a size.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BytesError {
    /// No unit follows the number, or one that is not known.
    #[error("write a number and a unit, one of B, KiB, MiB, GiB, TiB: \"512 MiB\"")]
    Unit,
    /// The number cannot be read.
    #[error("the number before the unit cannot be read: write it like 512 or 1.5")]
    Number,
    /// The value does not fit 64 bits.
    #[error("the size is too large")]
    TooLarge,
}

const UNITS: [(&str, u32); 5] = [("TiB", 40), ("GiB", 30), ("MiB", 20), ("KiB", 10), ("B", 0)];

impl Bytes {
    /// `count` mebibytes.
    pub const fn mib(count: u64) -> Self {
        Self(count << 20)
    }

    /// Whole 4 KiB pages that hold this many bytes, rounded up.
    pub const fn pages(self) -> u64 {
        self.0.div_ceil(4096)
    }
}

impl FromStr for Bytes {
    type Err = BytesError;

    fn from_str(text: &str) -> Result<Self, BytesError> {
        let text = text.trim();
        let split = text.find(|c: char| c.is_ascii_alphabetic()).ok_or(BytesError::Unit)?;
        let (number, unit) = (text[..split].trim(), text[split..].trim());
        let (_, shift) = UNITS.iter().find(|(name, _)| *name == unit).ok_or(BytesError::Unit)?;
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        let digits = |part: &str| part.bytes().all(|b| b.is_ascii_digit());
        if whole.is_empty() || !digits(whole) || !digits(fraction) || fraction.len() > 6 || number.ends_with('.') {
            return Err(BytesError::Number);
        }
        let whole: u128 = whole.parse().map_err(|_| BytesError::TooLarge)?;
        let scale = 10u128.pow(u32::try_from(fraction.len()).map_err(|_| BytesError::Number)?);
        let part: u128 = if fraction.is_empty() { 0 } else { fraction.parse().map_err(|_| BytesError::Number)? };
        let bytes = whole.checked_shl(*shift).filter(|b| b >> shift == whole).ok_or(BytesError::TooLarge)?;
        let bytes = bytes + (part << shift) / scale;
        u64::try_from(bytes).map(Self).map_err(|_| BytesError::TooLarge)
    }
}

impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (unit, shift) = UNITS.iter().find(|(_, shift)| self.0 >= 1 << shift).copied().unwrap_or(("B", 0));
        let whole = self.0 >> shift;
        let rest = self.0 - (whole << shift);
        // One decimal, rounded down, so that a shown size is never more than there is.
        let tenth = (u128::from(rest) * 10) >> shift;
        let shown = if tenth == 0 { format!("{whole} {unit}") } else { format!("{whole}.{tenth} {unit}") };
        f.pad(&shown)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn sizes_with_units_are_read() {
        assert_eq!("1 GiB".parse(), Ok(Bytes(1 << 30)));
        assert_eq!("1.5GiB".parse(), Ok(Bytes(3 << 29)));
        assert_eq!("4096 B".parse(), Ok(Bytes(4096)));
    }

    #[test]
    fn a_size_without_a_known_unit_is_refused() {
        for text in ["1024", "1 GB", "1 gib", "", "GiB", "-1 GiB", "1. GiB", "0x10 B", "1 GiB x"] {
            assert!(text.parse::<Bytes>().is_err(), "{text}");
        }
        assert_eq!("99999999999 TiB".parse::<Bytes>(), Err(BytesError::TooLarge));
    }

    proptest! {
        #[test]
        fn any_text_is_a_size_or_an_error(text in ".{0,40}") {
            let _ = text.parse::<Bytes>();
        }

        #[test]
        fn whole_units_survive_showing_and_reading(count in 1u64..1023, shift in 0usize..5) {
            let size = Bytes(count << UNITS[shift].1);
            prop_assert_eq!(size.to_string().parse(), Ok(size));
        }
    }
}
