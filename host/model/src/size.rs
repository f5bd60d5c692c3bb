//! Sizes in bytes as people write them: `64m`, `1.5 GiB`, `inf`. All units are powers of 1024.

use std::str::FromStr;

use bigdecimal::num_bigint::BigInt;
use bigdecimal::{BigDecimal, RoundingMode};

use crate::quantity::{Quantity, rounded, strip_zeros};

/// A text that is no size.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SizeError {
    /// `1.5`: a number of bytes has no fraction.
    #[error("Fractional bytes are not allowed")]
    Fractional,
    /// Anything else that can't be read.
    #[error("Unconvertible value: '{0}'")]
    Unconvertible(String),
    /// Infinity where a number is needed.
    #[error("infinite values are not allowed")]
    Infinite,
}

const UNITS: [char; 8] = ['k', 'm', 'g', 't', 'p', 'e', 'z', 'y'];
const ENDINGS: [&str; 6] = ["ibytes", "ibyte", "ib", "bytes", "byte", "b"];

/// 1024 to the power `power`.
fn scale(power: usize) -> BigInt {
    BigInt::from(1) << (10 * power)
}

/// Reads a size in bytes; `inf`, `infinite` and `infinity` mean no limit.
///
/// # Errors
/// [`SizeError`].
pub fn parse(text: &str) -> Result<Quantity, SizeError> {
    if matches!(text.to_lowercase().as_str(), "inf" | "infinite" | "infinity") {
        return Ok(Quantity::Infinity);
    }
    let unconvertible = || SizeError::Unconvertible(text.to_owned());
    let trimmed: String = text.trim().chars().filter(|c| *c != '_').collect();
    if trimmed.len() > 1_000 {
        return Err(unconvertible());
    }
    let digits = trimmed.strip_prefix(['+', '-']).unwrap_or(&trimmed);
    if !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit()) {
        return BigInt::from_str(&trimmed).map(Quantity::int).map_err(|_| unconvertible());
    }
    let lower = trimmed.to_lowercase();
    let rest = match ENDINGS.iter().find_map(|ending| lower.strip_suffix(ending)) {
        Some(rest) => rest,
        None if lower.chars().last().is_some_and(|c| !c.is_numeric()) => &lower,
        None if lower.is_empty() => return Err(unconvertible()),
        None => return Err(SizeError::Fractional),
    };
    let unit = rest.chars().last().ok_or_else(unconvertible)?;
    let number = &rest[..rest.len() - unit.len_utf8()];
    let power = match UNITS.iter().position(|u| *u == unit) {
        Some(index) => index + 1,
        None if unit == ' ' => 0,
        None => return Err(unconvertible()),
    };
    match Quantity::parse(number) {
        Ok(Quantity::Finite(number)) => {
            let bytes = rounded(number * BigDecimal::from(scale(power)));
            Ok(Quantity::Finite(bytes.with_scale_round(0, RoundingMode::Down)))
        }
        _ => Err(unconvertible()),
    }
}

/// As [`parse`], without infinity.
///
/// # Errors
/// [`SizeError`].
pub fn parse_finite(text: &str) -> Result<BigInt, SizeError> {
    match parse(text)? {
        Quantity::Finite(d) => Ok(d.with_scale(0).into_bigint_and_exponent().0),
        _ => Err(SizeError::Infinite),
    }
}

/// As [`parse_finite`], for sizes that fit 64 bits and aren't negative.
///
/// # Errors
/// [`SizeError`].
pub fn parse_u64(text: &str) -> Result<u64, SizeError> {
    u64::try_from(parse_finite(text)?).map_err(|_| SizeError::Unconvertible(text.to_owned()))
}

/// The power of 1024 whose unit fits: as often as the value can be divided and stay whole.
fn fitting_power(bytes: &BigInt) -> usize {
    let mut power = 0;
    while power < UNITS.len() && *bytes >= scale(power + 1) {
        power += 1;
    }
    power
}

fn quotient(bytes: &BigInt, power: usize) -> String {
    let unit = scale(power);
    if bytes % &unit == BigInt::from(0) {
        return (bytes / unit).to_string();
    }
    let exact = rounded(BigDecimal::from(bytes.clone()) / BigDecimal::from(unit));
    strip_zeros(&exact.with_scale_round(2, RoundingMode::HalfEven)).to_plain_string()
}

/// For sentences: `1 byte`, `512 bytes`, `1.5 GiB`.
pub fn long(bytes: &BigInt) -> String {
    match fitting_power(bytes) {
        0 if *bytes == BigInt::from(1) => "1 byte".to_owned(),
        0 => format!("{bytes} bytes"),
        power => format!("{} {}iB", quotient(bytes, power), UNITS[power - 1].to_ascii_uppercase()),
    }
}

/// For lists: `512`, `1.5g`.
pub fn short(bytes: &BigInt) -> String {
    match fitting_power(bytes) {
        0 => bytes.to_string(),
        power => format!("{}{}", quotient(bytes, power), UNITS[power - 1]),
    }
}

/// In a given unit (`k` … `y`): 1.5 GiB in `m` is `1536m`. `None` for another letter.
pub fn fixed(bytes: &BigInt, unit: char) -> Option<String> {
    let power = UNITS.iter().position(|u| *u == unit)? + 1;
    Some(format!("{}{unit}", quotient(bytes, power)))
}
