//! Durations as Go writes and reads them ("1m30s", "1.5h", "300ms"), since Consul's API speaks Go. Pure.

use std::time::Duration;

/// Longer than any duration that is meant; it keeps the arithmetic far from its limits.
const TEXT_BYTES_MAX: usize = 64;

/// Reads what Go's `time.ParseDuration` reads, without a sign. `None` if it is no duration.
pub(super) fn parse(text: &str) -> Option<Duration> {
    if text == "0" {
        return Some(Duration::ZERO);
    }
    if text.is_empty() || text.len() > TEXT_BYTES_MAX {
        return None;
    }
    let mut total = Duration::ZERO;
    let mut rest = text;
    while !rest.is_empty() {
        let number_end = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let (number, after) = rest.split_at(number_end);
        let unit_end = after.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(after.len());
        let (unit, tail) = after.split_at(unit_end);
        let unit_seconds = match unit {
            "ns" => 1e-9,
            "us" | "µs" | "μs" => 1e-6,
            "ms" => 1e-3,
            "s" => 1.0,
            "m" => 60.0,
            "h" => 3600.0,
            _ => return None,
        };
        let number: f64 = number.parse().ok()?;
        total = total.checked_add(Duration::try_from_secs_f64(number * unit_seconds).ok()?)?;
        rest = tail;
    }
    Some(total)
}

/// Writes as Go's `Duration.String` does: `1m30s`, `1h0m0s`, `1.5s`, `300ms`, `0s`.
pub(super) fn text(duration: Duration) -> String {
    let whole = duration.as_secs();
    let nanos = duration.subsec_nanos();
    if whole == 0 && nanos > 0 {
        let (number, unit) = match nanos {
            0..1_000 => return format!("{nanos}ns"),
            1_000..1_000_000 => (decimal(nanos / 1_000, nanos % 1_000, 3), "µs"),
            _ => (decimal(nanos / 1_000_000, nanos % 1_000_000, 6), "ms"),
        };
        return format!("{number}{unit}");
    }
    let (hours, minutes) = (whole / 3600, whole / 60 % 60);
    let seconds = decimal(whole % 60, nanos, 9);
    match (hours, minutes) {
        (0, 0) => format!("{seconds}s"),
        (0, _) => format!("{minutes}m{seconds}s"),
        _ => format!("{hours}h{minutes}m{seconds}s"),
    }
}

/// `whole.fraction` without trailing zeros.
fn decimal(whole: impl std::fmt::Display, fraction: u32, digits: usize) -> String {
    if fraction == 0 {
        return whole.to_string();
    }
    let fraction = format!("{fraction:0digits$}");
    format!("{whole}.{}", fraction.trim_end_matches('0'))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn gos_durations_are_read() {
        let ms = Duration::from_millis;
        for (text, duration) in
            [("10s", ms(10_000)), ("1m30s", ms(90_000)), ("1.5h", ms(5_400_000)), ("300ms", ms(300)), ("0", ms(0))]
        {
            assert_eq!(parse(text), Some(duration), "{text}");
        }
        for wrong in ["", "10", "s", "1d", "1 s", "-1s", "1.2.3s", "99999999999999999999h"] {
            assert_eq!(parse(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn durations_are_written_as_go_writes_them() {
        for text_of in ["10s", "1m0s", "1m30s", "1h0m0s", "300ms", "1.5s", "0s", "250µs", "7ns"] {
            assert_eq!(text(parse(text_of).unwrap()), text_of);
        }
    }

    proptest! {
        #[test]
        fn no_text_panics(text in "[0-9a-zµ. -]{0,80}") {
            let _ = parse(&text);
        }

        #[test]
        fn what_is_written_reads_back(micros in 0u64..10_000_000_000) {
            let duration = Duration::from_micros(micros);
            let back = parse(&text(duration)).unwrap();
            prop_assert!(back.abs_diff(duration) < Duration::from_micros(1));
        }
    }
}
