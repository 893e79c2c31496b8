//! Lengths of time as Consul has them: Go's texts ("10s", "1m30s", "1.5h") and bare nanoseconds, which Go's JSON writes.

use std::time::Duration;

use super::document::Value;

/// "2562047h47m16.854775807s" is the longest that Go itself prints.
const TEXT_BYTES_MAX: usize = 64;
/// Digits behind the point below a nanosecond of an hour add nothing.
const FRACTION_DIGITS_MAX: usize = 12;

/// Reads Go's text. `None` if it is none, is negative or is too long to be counted.
pub(super) fn from_go(text: &str) -> Option<Duration> {
    if text == "0" {
        return Some(Duration::ZERO);
    }
    if text.is_empty() || text.len() > TEXT_BYTES_MAX {
        return None;
    }
    let mut rest = text.strip_prefix('+').unwrap_or(text);
    let mut nanoseconds: u128 = 0;
    while !rest.is_empty() {
        let (whole, after) = digits(rest);
        let (fraction, after) = match after.strip_prefix('.') {
            Some(after) => digits(after),
            None => ("", after),
        };
        if whole.is_empty() && fraction.is_empty() {
            return None;
        }
        let (unit, after) = unit(after)?;
        nanoseconds = nanoseconds.checked_add(part(whole, fraction, unit)?)?;
        rest = after;
    }
    from_nanoseconds(i128::try_from(nanoseconds).ok()?)
}

/// Reads bare nanoseconds. `None` if negative or too long to be counted.
pub(super) fn from_nanoseconds(nanoseconds: i128) -> Option<Duration> {
    u64::try_from(nanoseconds).ok().map(Duration::from_nanos)
}

/// True of "0s" and 0, which Consul's clients write for no length at all.
pub(super) fn is_zero(value: &Value) -> bool {
    match value {
        Value::Integer(number) => *number == 0,
        Value::Text(text) => from_go(text).is_some_and(|duration| duration.is_zero()),
        _ => false,
    }
}

fn digits(text: &str) -> (&str, &str) {
    text.split_at(text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len()))
}

/// Longer units first: "ms" begins with "m".
fn unit(text: &str) -> Option<(u128, &str)> {
    const UNITS: [(&str, u128); 8] = [
        ("ns", 1),
        ("us", 1_000),
        ("µs", 1_000), // U+00B5
        ("μs", 1_000), // U+03BC
        ("ms", 1_000_000),
        ("s", 1_000_000_000),
        ("m", 60_000_000_000),
        ("h", 3_600_000_000_000),
    ];
    UNITS.iter().find_map(|(name, size)| text.strip_prefix(name).map(|rest| (*size, rest)))
}

fn part(whole: &str, fraction: &str, unit: u128) -> Option<u128> {
    let whole: u128 = if whole.is_empty() { 0 } else { whole.parse().ok()? };
    let fraction = fraction.get(..FRACTION_DIGITS_MAX).unwrap_or(fraction);
    let scale = 10_u128.pow(u32::try_from(fraction.len()).ok()?);
    let fraction: u128 = if fraction.is_empty() { 0 } else { fraction.parse().ok()? };
    whole.checked_mul(unit)?.checked_add(fraction.checked_mul(unit)? / scale)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_go_reads_is_read() {
        for (text, milliseconds) in [
            ("10s", 10_000),
            ("1m30s", 90_000),
            ("500ms", 500),
            ("1.5h", 5_400_000),
            (".5s", 500),
            ("1h0m0s", 3_600_000),
            ("2000us", 2),
            ("2000µs", 2),
            ("0", 0),
            ("+1s", 1000),
        ] {
            assert_eq!(from_go(text), Some(Duration::from_millis(milliseconds)), "{text}");
        }
        for text in ["", "s", "10", "-5s", "10 s", "1d", "1.s.", "99999999999h", ".", "1e3s", "10sx"] {
            assert_eq!(from_go(text), None, "{text}");
        }
        assert_eq!(from_nanoseconds(10_000_000_000), Some(Duration::from_secs(10)));
        assert_eq!((from_nanoseconds(-1), from_nanoseconds(i128::MAX)), (None, None));
    }

    proptest::proptest! {
        #[test]
        fn no_text_panics(text in "[0-9.+smhnuµ-]{0,70}") {
            let _ = from_go(&text);
        }
    }
}
