//! Laws of slot arithmetic, sizes and contract units.
#![allow(clippy::unwrap_used)]

use proptest::prelude::*;
use quarterdeck_model::quantity::{Quantity, QuantityError};
use quarterdeck_model::size;
use quarterdeck_model::slots::{SlotKind, SlotMap, SlotTypes, from_units, intrinsic, units};

/// What the books can hold: up to 2^62 units, in the scale of the kind.
const LARGEST: u64 = 1 << 62;

fn kind() -> impl Strategy<Value = SlotKind> {
    prop::sample::select(SlotKind::ALL)
}

/// Amounts as requests and agents have them: three decimals, of both signs.
fn amount() -> impl Strategy<Value = Quantity> {
    (-1_000_000_000_000_i64..1_000_000_000_000).prop_map(|thousandths| {
        let sign = if thousandths < 0 { "-" } else { "" };
        let n = thousandths.unsigned_abs();
        format!("{sign}{}.{:03}", n / 1000, n % 1000).parse().unwrap()
    })
}

fn map() -> impl Strategy<Value = SlotMap> {
    prop::collection::vec((prop::sample::select(vec!["cpu", "mem", "cuda.device", "cuda.shares"]), amount()), 0..5)
        .prop_map(|pairs| pairs.into_iter().collect())
}

proptest! {
    #[test]
    fn sums_and_differences_undo_each_other(a in map(), b in map()) {
        prop_assert_eq!(a.add(&b).unwrap(), b.add(&a).unwrap());
        prop_assert_eq!(a.add(&b).unwrap().sub(&b).unwrap(), a.clone());
        prop_assert_eq!(a.sub(&a).unwrap(), SlotMap::new());
        prop_assert_eq!(a.add(&SlotMap::new()).unwrap(), a);
    }

    #[test]
    fn sums_are_associative(a in map(), b in map(), c in map()) {
        let left = a.add(&b).unwrap().add(&c).unwrap();
        prop_assert_eq!(left, a.add(&b.add(&c).unwrap()).unwrap());
    }

    #[test]
    fn the_order_is_partial(a in map(), b in map(), c in map()) {
        prop_assert!(a.le(&a) && a.ge(&a) && !a.lt(&a) && !a.gt(&a));
        prop_assert_eq!(a.le(&b) && b.le(&a), a == b);
        prop_assert_eq!(a.lt(&b), a.le(&b) && a != b);
        prop_assert_eq!(a.le(&b), b.ge(&a));
        if a.le(&b) && b.le(&c) {
            prop_assert!(a.le(&c));
        }
        // Adding the same to both sides changes nothing.
        prop_assert_eq!(a.le(&b), a.add(&c).unwrap().le(&b.add(&c).unwrap()));
    }

    #[test]
    fn caps_hold(a in map(), b in map()) {
        let capped = a.capped_by(&b);
        prop_assert!(capped.le(&a) || a.iter().any(|(k, v)| b.get(k) < *v));
        for (slot, amount) in capped.iter() {
            prop_assert!(*amount <= b.get(slot) && *amount <= a.get(slot));
        }
    }

    #[test]
    fn maps_survive_the_database(a in map()) {
        let back = SlotMap::from_json(&a.to_json()).unwrap();
        prop_assert_eq!(back.to_json(), a.to_json());
    }

    #[test]
    fn units_go_there_and_back(kind in kind(), amount in 0..LARGEST) {
        let quantity = from_units(kind, amount);
        prop_assert_eq!(quantity.to_units(kind.scale()), Ok(amount));
        // Also through the text that the database keeps.
        prop_assert_eq!(quantity.to_string().parse::<Quantity>().unwrap().to_units(kind.scale()), Ok(amount));
        let types = SlotTypes::from([("x".to_owned(), kind)]);
        let map: SlotMap = [("x", quantity)].into_iter().collect();
        prop_assert_eq!(map.to_book(&types).unwrap(), vec![("x".to_owned(), i64::try_from(amount).unwrap())]);
        prop_assert_eq!(units(&map, &[("x".to_owned(), kind), ("y".to_owned(), kind)]).unwrap(), vec![amount, 0]);
    }

    #[test]
    fn units_keep_the_order(kind in kind(), a in 0..LARGEST, b in 0..LARGEST) {
        prop_assert_eq!(from_units(kind, a) <= from_units(kind, b), a <= b);
    }

    #[test]
    fn whatever_is_typed_is_read_or_refused(text in "\\PC{0,24}") {
        // No panic; and what is read can be shown and read again.
        if let Ok(quantity) = Quantity::parse(&text) {
            let again: Quantity = quantity.to_string().parse().unwrap();
            prop_assert!(again == quantity || matches!(quantity, Quantity::NaN));
        }
        if let Ok(Quantity::Finite(bytes)) = size::parse(&text) {
            prop_assert!(bytes.is_integer());
        }
        let json = serde_json::json!({"cpu": text, "mem": text});
        let _ = SlotMap::from_user_input(&json, Some(&intrinsic()));
        let _ = SlotMap::from_allocations(&serde_json::json!({"d": {"s": {"0": text}}}));
        let _ = quarterdeck_model::duration::Duration::parse_text(&text);
        let _ = quarterdeck_model::session::parse_starts_at(&text, quarterdeck_model::Timestamp(0));
        let _ = quarterdeck_model::image::ImageRef::parse(&text);
        let _ = quarterdeck_model::image::service_ports(&text);
    }

    #[test]
    fn number_like_texts_too(text in "[ +-]{0,2}[0-9._]{0,6}(e|E|inf|nan|k|m|g|ib|bytes| )?[+-]?[0-9]{0,5}[kmgb]{0,2}") {
        if let Ok(quantity) = Quantity::parse(&text) {
            let again: Quantity = quantity.to_string().parse().unwrap();
            prop_assert!(again == quantity || matches!(quantity, Quantity::NaN));
        }
        let _ = size::parse(&text).map(|q| q.to_string());
        let _ = SlotKind::Count.read(&serde_json::json!(text));
    }

    #[test]
    fn sizes_are_read_as_they_are_shown(bytes in 0_u64..1 << 50) {
        // Exact sizes: what people see can be typed in again.
        let shown = size::short(&bytes.into());
        let read = size::parse_u64(&shown).unwrap();
        prop_assert!(read.abs_diff(bytes) <= bytes / 100, "{} shows as {}", bytes, shown);
        prop_assert_eq!(size::parse_u64(&bytes.to_string()).unwrap(), bytes);
    }
}

#[test]
fn the_ends_of_the_scale() {
    assert_eq!(Quantity::Infinity.to_units(1), Ok(u64::MAX));
    assert_eq!(from_units(SlotKind::Count, u64::MAX).to_string(), "Infinity");
    assert_eq!(from_units(SlotKind::Count, 1_500).to_string(), "1.5");
    assert_eq!(from_units(SlotKind::Count, 1_000_000).to_string(), "1000");
    assert_eq!(from_units(SlotKind::Bytes, 1 << 40).to_string(), "1099511627776");
    assert_eq!(Quantity::int(u64::MAX).to_units(1), Err(QuantityError::TooLarge(u64::MAX.to_string())));
    assert!(matches!(Quantity::int(-1).to_units(1000), Err(QuantityError::Negative(_))));
    assert!(matches!(Quantity::NegInfinity.to_units(1), Err(QuantityError::Negative(_))));
    assert_eq!(Quantity::NaN.to_units(1), Err(QuantityError::NaN));
    // The books are 64 bits, with a sign, and know no infinity.
    let limit: SlotMap = [("cpu", Quantity::Infinity)].into_iter().collect();
    assert!(limit.to_book(&intrinsic()).is_err());
}

#[test]
fn literals() {
    let read = |text: &str| Quantity::parse(text).map(|q| q.to_string()).ok();
    for (text, shown) in [
        ("1.50", "1.50"),
        ("1E+3", "1000"),
        (" 7 ", "7"),
        ("1_000", "1000"),
        ("+.5", "0.5"),
        ("5.", "5"),
        ("-INF", "-Infinity"),
        ("0e3", "0"),
        ("0e-3", "0.000"),
    ] {
        assert_eq!(read(text).as_deref(), Some(shown), "{text}");
    }
    for bad in ["", "e5", "+-1", "--1", "1e", "1e+", ".", "1.2.3", "0x10", "1 0", "1e99999999999", "1e401", "infin"] {
        assert_eq!(read(bad), None, "{bad}");
    }
}
