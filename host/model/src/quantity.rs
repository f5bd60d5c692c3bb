//! Exact decimal amounts, with the infinities that limits know.

use std::cmp::Ordering;
use std::num::NonZeroU64;
use std::str::FromStr;

use bigdecimal::num_bigint::BigInt;
use bigdecimal::{BigDecimal, RoundingMode, Signed as _, ToPrimitive as _, Zero as _};

/// Digits that sums and differences keep (the reference's decimal context).
const PRECISION: u64 = 28;

/// Longest literal that is read.
const MAX_TEXT: usize = 1_000;
/// Largest exponent that is read, either way.
const MAX_EXPONENT: u32 = 400;

/// An amount: a decimal of any size that keeps its digits (`1.50` stays `1.50`), or a limit's infinity.
#[derive(Clone, Debug, PartialEq)]
pub enum Quantity {
    /// A number.
    Finite(BigDecimal),
    /// More than any number: no limit.
    Infinity,
    /// Less than any number.
    NegInfinity,
    /// No number; compares with nothing. Never stored.
    NaN,
}

/// An amount that can't be used as meant.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum QuantityError {
    /// Text that is no decimal number.
    #[error("Cannot convert to decimal: '{0}'")]
    NotDecimal(String),
    /// The operation has no result (∞ − ∞).
    #[error("the difference of two infinities is undefined")]
    Undefined,
    /// The amount is below zero.
    #[error("negative amounts are not allowed: {0}")]
    Negative(String),
    /// The amount is no number.
    #[error("NaN is no amount")]
    NaN,
    /// The amount doesn't fit the books' 64 bits.
    #[error("the amount {0} is too large")]
    TooLarge(String),
}

impl Quantity {
    /// Zero.
    pub fn zero() -> Self {
        Self::Finite(BigDecimal::zero())
    }

    /// A whole number.
    pub fn int(value: impl Into<BigInt>) -> Self {
        Self::Finite(BigDecimal::from(value.into()))
    }

    /// Reads a decimal literal: sign, fraction, exponent, `_` between digits, surrounding blanks,
    /// `inf`/`infinity`/`nan` in any case.
    ///
    /// # Errors
    /// [`QuantityError::NotDecimal`].
    pub fn parse(text: &str) -> Result<Self, QuantityError> {
        let trimmed = text.trim();
        let lower = trimmed.to_ascii_lowercase();
        let (sign, word) = match lower.strip_prefix('-') {
            Some(rest) => (-1, rest),
            None => (1, lower.strip_prefix('+').unwrap_or(&lower)),
        };
        match word {
            "inf" | "infinity" => return Ok(if sign < 0 { Self::NegInfinity } else { Self::Infinity }),
            "nan" => return Ok(Self::NaN),
            _ => {}
        }
        let digits: String = lower.chars().filter(|c| *c != '_').collect();
        let plain = digits.chars().all(|c| c.is_ascii_digit() || matches!(c, '+' | '-' | '.' | 'e'))
            && digits.chars().any(|c| c.is_ascii_digit());
        // Whatever is read must be readable again once it is written without an exponent.
        let short = match digits.split_once('e') {
            Some((mantissa, exponent)) => {
                mantissa.len() <= MAX_TEXT / 2
                    && exponent.parse::<i32>().is_ok_and(|e| e.unsigned_abs() <= MAX_EXPONENT)
            }
            None => digits.len() <= MAX_TEXT,
        };
        if !plain || !short {
            return Err(QuantityError::NotDecimal(text.to_owned()));
        }
        BigDecimal::from_str(&digits).map(Self::Finite).map_err(|_| QuantityError::NotDecimal(text.to_owned()))
    }

    /// Whether it is zero.
    pub fn is_zero(&self) -> bool {
        matches!(self, Self::Finite(d) if d.is_zero())
    }

    /// Whether it is below zero.
    pub fn is_negative(&self) -> bool {
        match self {
            Self::Finite(d) => d.is_negative(),
            Self::NegInfinity => true,
            _ => false,
        }
    }

    /// Whether it is a number.
    pub fn is_finite(&self) -> bool {
        matches!(self, Self::Finite(_))
    }

    /// The sum, to 28 digits.
    ///
    /// # Errors
    /// [`QuantityError::Undefined`] for ∞ + −∞.
    pub fn add(&self, other: &Self) -> Result<Self, QuantityError> {
        use Quantity::{Finite, Infinity, NaN, NegInfinity};
        Ok(match (self, other) {
            (NaN, _) | (_, NaN) => NaN,
            (Finite(a), Finite(b)) => Finite(rounded(a + b)),
            (Infinity, NegInfinity) | (NegInfinity, Infinity) => return Err(QuantityError::Undefined),
            (Infinity, _) | (_, Infinity) => Infinity,
            (NegInfinity, _) | (_, NegInfinity) => NegInfinity,
        })
    }

    /// The difference, to 28 digits.
    ///
    /// # Errors
    /// [`QuantityError::Undefined`] for ∞ − ∞.
    pub fn sub(&self, other: &Self) -> Result<Self, QuantityError> {
        use Quantity::{Finite, Infinity, NaN, NegInfinity};
        self.add(&match other {
            Finite(d) => Finite(-d.clone()),
            Infinity => NegInfinity,
            NegInfinity => Infinity,
            NaN => NaN,
        })
    }

    /// Rounded half-even to three decimals, trailing zeros dropped: how counts are kept.
    #[must_use]
    pub fn quantized(&self) -> Self {
        match self {
            Self::Finite(d) => Self::Finite(strip_zeros(&d.with_scale_round(3, RoundingMode::HalfEven))),
            other => other.clone(),
        }
    }

    /// Without its fraction.
    #[must_use]
    pub fn truncated(&self) -> Self {
        match self {
            Self::Finite(d) => Self::Finite(d.with_scale_round(0, RoundingMode::Down)),
            other => other.clone(),
        }
    }

    /// The amount in whole `1/scale`s, rounded down; infinity is `u64::MAX`.
    ///
    /// # Errors
    /// For amounts below zero, beyond 64 bits, or that are no number.
    pub fn to_units(&self, scale: u32) -> Result<u64, QuantityError> {
        match self {
            Self::Infinity => Ok(u64::MAX),
            Self::NaN => Err(QuantityError::NaN),
            Self::NegInfinity => Err(QuantityError::Negative(self.to_string())),
            Self::Finite(d) if d.is_negative() => Err(QuantityError::Negative(self.to_string())),
            Self::Finite(d) => (d * BigDecimal::from(scale))
                .with_scale_round(0, RoundingMode::Down)
                .to_u64()
                .filter(|v| *v < u64::MAX)
                .ok_or_else(|| QuantityError::TooLarge(self.to_string())),
        }
    }

    /// As a float, for legacy fields.
    pub fn to_f64(&self) -> f64 {
        match self {
            Self::Finite(d) => d.to_f64().unwrap_or(f64::NAN),
            Self::Infinity => f64::INFINITY,
            Self::NegInfinity => f64::NEG_INFINITY,
            Self::NaN => f64::NAN,
        }
    }
}

/// `NaN` compares with nothing.
impl PartialOrd for Quantity {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        use Quantity::{Finite, Infinity, NaN, NegInfinity};
        match (self, other) {
            (NaN, _) | (_, NaN) => None,
            (Finite(a), Finite(b)) => Some(a.cmp(b)),
            (Infinity, Infinity) | (NegInfinity, NegInfinity) => Some(Ordering::Equal),
            (Infinity, _) | (_, NegInfinity) => Some(Ordering::Greater),
            (_, Infinity) | (NegInfinity, _) => Some(Ordering::Less),
        }
    }
}

/// Plain notation, never an exponent; all digits kept.
impl std::fmt::Display for Quantity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Finite(d) if d.is_zero() && d.fractional_digit_count() < 0 => f.write_str("0"),
            Self::Finite(d) => f.write_str(&d.to_plain_string()),
            Self::Infinity => f.write_str("Infinity"),
            Self::NegInfinity => f.write_str("-Infinity"),
            Self::NaN => f.write_str("NaN"),
        }
    }
}

impl FromStr for Quantity {
    type Err = QuantityError;
    fn from_str(s: &str) -> Result<Self, QuantityError> {
        Self::parse(s)
    }
}

/// To 28 significant digits, half-even.
pub(crate) fn rounded(d: BigDecimal) -> BigDecimal {
    if d.digits() <= PRECISION {
        return d;
    }
    let precision = NonZeroU64::new(PRECISION).expect("a positive constant");
    d.with_precision_round(precision, RoundingMode::HalfEven)
}

/// Without zeros behind the last digit of the fraction.
pub(crate) fn strip_zeros(d: &BigDecimal) -> BigDecimal {
    if d.is_zero() {
        return BigDecimal::zero();
    }
    let n = d.normalized();
    // `normalized` may move zeros of whole numbers into the exponent: take them back.
    if n.fractional_digit_count() < 0 { n.with_scale(0) } else { n }
}
