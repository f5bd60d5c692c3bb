//! Spans of time as configurations write them: seconds, or a text such as `90`, `10m`, `1.5h`, `2d`, `1w`, `3mo` (of 30
//! days) and `1yr` (of 365 days).

use serde_json::Value;

/// About 3,000 years, the longest span that the host takes in too.
const LONGEST_S: f64 = 1e11;

/// A span in milliseconds; none when the value makes no sense as one, is negative or is too long.
pub fn millis(value: &Value) -> Option<u64> {
    let seconds = match value {
        Value::Number(number) => number.as_f64()?,
        Value::String(text) => seconds(text)?,
        _ => return None,
    };
    (0.0..=LONGEST_S).contains(&seconds).then(|| (seconds * 1000.0).round() as u64)
}

/// Reads a number with an optional unit.
fn seconds(text: &str) -> Option<f64> {
    const DAY: f64 = 86_400.0;
    for (unit, days) in [("mo", 30.0), ("yr", 365.0)] {
        if let Some(count) = text.strip_suffix(unit).and_then(|count| count.trim().parse::<u32>().ok()) {
            return Some(f64::from(count) * days * DAY);
        }
    }
    let units = [("s", 1.0), ("m", 60.0), ("h", 3600.0), ("d", DAY), ("w", 7.0 * DAY)];
    let (number, factor) =
        units.into_iter().find_map(|(unit, factor)| Some((text.strip_suffix(unit)?, factor))).unwrap_or((text, 1.0));
    let number = number.trim();
    let plain = number.len() <= 40 && number.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.');
    if plain { number.parse::<f64>().ok().map(|number| number * factor) } else { None }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::millis;

    #[test]
    fn spans_have_units() {
        for (text, seconds) in [("90", 90.0), ("10 m", 600.0), ("1.5h", 5400.0), ("3mo", 7_776_000.0), ("0", 0.0)] {
            assert_eq!(millis(&json!(text)), Some((seconds * 1000.0) as u64), "{text}");
        }
        for wrong in
            [json!(""), json!("m"), json!("-5m"), json!("1h30m"), json!("5x"), json!(null), json!(true), json!(-1)]
        {
            assert_eq!(millis(&wrong), None, "{wrong}");
        }
    }
}
