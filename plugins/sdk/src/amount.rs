//! Amounts of resource slots, exact to the thousandth.

use std::fmt;

use serde_json::Value;

/// In thousandths; the largest value stands for "without limit".
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Amount(u128);

impl Amount {
    /// Nothing.
    pub const ZERO: Amount = Amount(0);
    const INFINITE: Amount = Amount(u128::MAX);

    /// A number, or a text with an optional binary suffix: `8`, `"0.5"`, `"32g"`, `"Infinity"`.
    pub fn from_json(value: &Value) -> Result<Amount, String> {
        match value {
            Value::Number(number) => Amount::parse(&number.to_string()),
            Value::String(text) => Amount::parse(text.trim()),
            other => Err(format!("{other} is not an amount")),
        }
    }

    fn parse(text: &str) -> Result<Amount, String> {
        let wrong = || format!("`{text}` is not an amount");
        if text.eq_ignore_ascii_case("infinity") {
            return Ok(Amount::INFINITE);
        }
        let (digits, shift) = match text.char_indices().last() {
            Some((at, unit)) if unit.is_ascii_alphabetic() => {
                let shift = match unit.to_ascii_lowercase() {
                    'k' => 10,
                    'm' => 20,
                    'g' => 30,
                    't' => 40,
                    'p' => 50,
                    'e' => 60,
                    _ => return Err(wrong()),
                };
                (&text[..at], shift)
            }
            _ => (text, 0),
        };
        let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
        let all_digits = |part: &str| part.bytes().all(|byte| byte.is_ascii_digit());
        if whole.is_empty() && fraction.is_empty() || !all_digits(whole) || !all_digits(fraction) || whole.len() > 18 {
            return Err(wrong());
        }
        // Three digits are exact for a plain number; with a suffix more of them matter.
        let kept = &fraction[..fraction.len().min(12)];
        let scale = 10_u128.pow(kept.len() as u32);
        let number = |part: &str| if part.is_empty() { Ok(0) } else { part.parse::<u128>().map_err(|_| wrong()) };
        let scaled = number(whole)? * scale + number(kept)?;
        let scaled = (scaled << shift).checked_mul(1000).ok_or_else(wrong)?;
        Ok(Amount(scaled / scale))
    }

    /// The sum.
    pub fn plus(self, other: Amount) -> Amount {
        Amount(self.0.saturating_add(other.0))
    }
}

impl fmt::Display for Amount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if *self == Amount::INFINITE {
            return write!(f, "Infinity");
        }
        let (whole, thousandths) = (self.0 / 1000, self.0 % 1000);
        for (shift, unit) in [(40, 't'), (30, 'g'), (20, 'm')] {
            if thousandths == 0 && whole > 0 && whole % (1 << shift) == 0 {
                return write!(f, "{}{unit}", whole >> shift);
            }
        }
        if thousandths == 0 {
            write!(f, "{whole}")
        } else {
            write!(f, "{}", format!("{whole}.{thousandths:03}").trim_end_matches('0'))
        }
    }
}
