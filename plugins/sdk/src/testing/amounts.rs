//! Amounts as people write them: `cpu=4 mem=8g cuda.device=1`.

use crate::scheduler::SlotKind;

/// Names and amounts in the contract's units.
///
/// # Panics
/// When it is no such text.
pub(super) fn parse(text: &str, kind: impl Fn(&str) -> SlotKind) -> Vec<(String, u64)> {
    text.split([' ', ','])
        .filter(|part| !part.is_empty())
        .map(|part| {
            let (name, amount) = part.split_once('=').unwrap_or_else(|| panic!("`{part}` is not NAME=AMOUNT"));
            let units = units(amount, kind(name)).unwrap_or_else(|| panic!("`{amount}` of `{part}` is no amount"));
            (name.to_owned(), units)
        })
        .collect()
}

/// What a slot of that name usually is.
pub(super) fn usual_kind(name: &str) -> SlotKind {
    match name {
        "mem" => SlotKind::Bytes,
        name if name.ends_with(".mem") => SlotKind::Bytes,
        name if name.ends_with(".device") => SlotKind::Unique,
        _ => SlotKind::Count,
    }
}

fn units(text: &str, kind: SlotKind) -> Option<u64> {
    if text == "inf" {
        return Some(u64::MAX);
    }
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let scale = match text[digits.len()..].to_ascii_lowercase().as_str() {
        "" | "b" => 1_u64,
        "k" => 1 << 10,
        "m" => 1 << 20,
        "g" => 1 << 30,
        "t" => 1 << 40,
        _ => return None,
    };
    let number: f64 = digits.parse().ok().filter(|number: &f64| *number >= 0.0)?;
    let unit = if kind == SlotKind::Bytes { scale as f64 } else { scale as f64 * 1000.0 };
    Some((number * unit).round() as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_have_the_units_of_their_kind() {
        let amounts = parse("cpu=1.5 mem=2g, cuda.device=1", usual_kind);
        let named: Vec<(&str, u64)> = amounts.iter().map(|(name, amount)| (name.as_str(), *amount)).collect();
        assert_eq!(named, [("cpu", 1500), ("mem", 2 << 30), ("cuda.device", 1000)]);
    }

    #[test]
    #[should_panic(expected = "no amount")]
    fn nonsense_is_told() {
        parse("cpu=many", usual_kind);
    }
}
