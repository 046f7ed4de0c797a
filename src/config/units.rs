//! Sizes as people write them: `64 KiB`.

/// Why a text is not a size.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ParseSizeError {
    /// There is no number at the start.
    #[error("a size starts with a whole number")]
    Number,
    /// The unit is none of those known.
    #[error("the unit is B, KiB, MiB or GiB (KB and MB are ambiguous)")]
    Unit,
    /// The size does not fit into 64 bits.
    #[error("the size is too large")]
    Overflow,
}

/// Reads a size in bytes: a whole number and a unit, a blank between them allowed, case ignored.
pub fn parse_size(text: &str) -> Result<u64, ParseSizeError> {
    let text = text.trim();
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    if number.is_empty() {
        return Err(ParseSizeError::Number);
    }
    let number: u64 = number.parse().map_err(|_| ParseSizeError::Overflow)?;
    let unit = unit.trim_start();
    let factor = UNITS
        .iter()
        .find(|(name, _)| unit.eq_ignore_ascii_case(name))
        .map(|(_, factor)| *factor)
        .or(unit.is_empty().then_some(1))
        .ok_or(ParseSizeError::Unit)?;
    number.checked_mul(factor).ok_or(ParseSizeError::Overflow)
}

/// Writes a size in the largest unit that keeps it whole: `65536` is `64 KiB`.
pub fn format_size(bytes: u64) -> String {
    let (unit, factor) = UNITS
        .iter()
        .find(|(_, factor)| bytes != 0 && bytes.is_multiple_of(*factor))
        .unwrap_or(&UNITS[UNITS.len() - 1]);
    format!("{} {unit}", bytes / factor)
}

/// Largest first, so that the first divisor found is the best one.
const UNITS: [(&str, u64); 4] = [("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10), ("B", 1)];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_read_back() {
        for (text, bytes) in
            [("0 B", 0), ("1 B", 1), ("64 KiB", 65_536), ("10 MiB", 10 << 20), ("3 GiB", 3 << 30)]
        {
            assert_eq!(parse_size(text), Ok(bytes));
            assert_eq!(format_size(bytes), text);
        }
        assert_eq!(parse_size("64kib"), Ok(65_536));
        assert_eq!(parse_size("4096"), Ok(4096));
    }

    #[test]
    fn what_is_not_a_size_says_why() {
        for (text, error) in [
            ("", ParseSizeError::Number),
            ("-1 KiB", ParseSizeError::Number),
            ("1.5 MiB", ParseSizeError::Unit),
            ("64 KB", ParseSizeError::Unit),
            ("99999999999999999999", ParseSizeError::Overflow),
            ("99999999999999999 GiB", ParseSizeError::Overflow),
        ] {
            assert_eq!(parse_size(text), Err(error), "{text}");
        }
    }
}
