//! What one kernel asks for: the user's request against the image's minimum and maximum.
//!
//! Rules: `spec/session.md` §3.8, `spec/resource-slots.md` §5 and §7.

use serde_json::Value as Json;

use crate::quantity::Quantity;
use crate::size;
use crate::slots::{SlotError, SlotKind, SlotMap, SlotTypes};

/// Shared memory where neither the request nor the image says otherwise.
pub const DEFAULT_SHMEM: &str = "64m";

/// What a kernel asks for.
#[derive(Clone, Debug, PartialEq)]
pub struct KernelRequest {
    /// Every known slot.
    pub requested: SlotMap,
    /// Shared memory in bytes; part of `mem`.
    pub shmem: u64,
}

/// Why a request is refused; the text is the user's.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RequestError {
    /// The sentence for the user.
    #[error("{0}")]
    Refused(String),
    /// The image's record is broken: an administrator's matter.
    #[error("the image's resource limits can't be read: {0}")]
    Image(SlotError),
}

/// The old way to ask, of API versions before v4.20190315.
#[derive(Clone, Debug, Default)]
pub struct LegacyRequest {
    /// `instanceCores`
    pub cores: Option<Json>,
    /// `instanceMemory`, in GiB unless it has a unit.
    pub memory: Option<Json>,
    /// `instanceGPUs`
    pub gpus: Option<Json>,
    /// `instanceTPUs`
    pub tpus: Option<Json>,
}

/// An image's least and most of every known slot: missing minima are zero, missing maxima infinite.
///
/// # Errors
/// [`SlotError::Value`].
pub fn image_ranges(resources: &Json, known: &SlotTypes) -> Result<(SlotMap, SlotMap), SlotError> {
    let (mut least, mut most) = (SlotMap::new(), SlotMap::new());
    for (slot, range) in resources.as_object().into_iter().flatten() {
        let Some(kind) = known.get(slot) else { continue };
        let read = |key: &str, missing: Quantity| -> Result<Quantity, SlotError> {
            let value = range.get(key).filter(|v| !v.is_null());
            let Some(value) = value else { return Ok(missing) };
            let error = |source| SlotError::Value { slot: slot.clone(), source };
            match (kind, value) {
                (SlotKind::Bytes, value) => kind.read(value).map_err(error),
                (_, Json::String(text)) => Quantity::parse(text).map_err(|e| error(e.into())),
                (_, value) => Quantity::parse(&value.to_string()).map_err(|e| error(e.into())),
            }
        };
        least.insert(slot.clone(), read("min", Quantity::zero())?);
        most.insert(slot.clone(), read("max", Quantity::Infinity)?);
    }
    for slot in known.keys() {
        if least.find(slot).is_none() {
            least.insert(slot.clone(), Quantity::zero());
            most.insert(slot.clone(), Quantity::Infinity);
        }
    }
    Ok((least, most))
}

/// Puts a request together: defaults from the image, then the checks in their order.
///
/// # Errors
/// [`RequestError::Refused`] with the sentence for the user.
pub fn kernel_request(
    resources: Option<&Json>,
    legacy: &LegacyRequest,
    image: &Json,
    known: &SlotTypes,
    shmem: &str,
) -> Result<KernelRequest, RequestError> {
    let (mut least, most) = image_ranges(image, known).map_err(RequestError::Image)?;
    let refused = |text: String| RequestError::Refused(text);
    let shmem_bytes = size::parse_u64(shmem).map_err(|e| refused(format!("Invalid shared memory size: {e}")))?;
    let with_shmem = least.get("mem").add(&Quantity::int(shmem_bytes)).map_err(|e| refused(e.to_string()))?;
    least.insert("mem", with_shmem);

    let requested = match resources {
        Some(resources) => explicit(resources, known, &least)?,
        None => implicit(legacy, known, &least)?,
    };
    for (slot, amount) in requested.iter() {
        if amount.is_negative() || !amount.is_finite() {
            return Err(refused(format!("The requested amount of {slot} is invalid: {amount}")));
        }
    }
    if requested.lt(&least) {
        return Err(refused(format!(
            "Your resource request is smaller than the minimum required by the image. ({})",
            least.humanized(known)
        )));
    }
    if !requested.le(&most) {
        return Err(refused(format!(
            "Your resource request is larger than the maximum allowed by the image. ({})",
            most.humanized(known)
        )));
    }
    let mem = requested.get("mem");
    if Quantity::int(shmem_bytes) >= mem {
        let mem_text = match &mem {
            Quantity::Finite(d) => size::long(&d.with_scale(0).into_bigint_and_exponent().0),
            other => other.to_string(),
        };
        return Err(refused(format!(
            "Shared memory should be less than the main memory. (s:{}, m:{mem_text})",
            size::long(&shmem_bytes.into())
        )));
    }
    Ok(KernelRequest { requested, shmem: shmem_bytes })
}

fn explicit(resources: &Json, known: &SlotTypes, least: &SlotMap) -> Result<SlotMap, RequestError> {
    let map = resources.as_object().ok_or_else(|| RequestError::Refused("value is not a dict".to_owned()))?;
    if let Some(slot) = map.keys().find(|k| !known.contains_key(*k)) {
        return Err(RequestError::Refused(format!("Unknown requested resource slot: {slot}")));
    }
    let mut requested = SlotMap::from_user_input(resources, Some(known)).map_err(|e| {
        RequestError::Refused(format!("Your resource request has resource type(s) not supported by the image. ({e})"))
    })?;
    for slot in ["cpu", "mem"] {
        if requested.get(slot).is_zero() {
            requested.insert(slot, least.get(slot));
        }
    }
    Ok(requested)
}

fn implicit(legacy: &LegacyRequest, known: &SlotTypes, least: &SlotMap) -> Result<SlotMap, RequestError> {
    let given = |value: &Option<Json>| value.clone().filter(|v| !v.is_null());
    if given(&legacy.gpus).is_some() {
        return Err(RequestError::Refused("Client upgrade required to use GPUs (v19.03+).".to_owned()));
    }
    if given(&legacy.tpus).is_some() {
        return Err(RequestError::Refused("Client upgrade required to use TPUs (v19.03+).".to_owned()));
    }
    let bad = |e: &dyn std::fmt::Display| RequestError::Refused(format!("The requested resources can't be read: {e}"));
    let mut requested =
        SlotMap::from_user_input(&Json::Object(serde_json::Map::new()), Some(known)).map_err(|e| bad(&e))?;
    let cpu = match given(&legacy.cores) {
        Some(cores) => SlotKind::Count.read(&cores).map_err(|e| bad(&e))?,
        None => least.get("cpu"),
    };
    let mem = match given(&legacy.memory) {
        Some(Json::String(text)) if text.ends_with(|c: char| c.is_ascii_alphabetic()) => {
            size::parse(&text).map_err(|e| bad(&e))?
        }
        Some(Json::String(text)) => size::parse(&format!("{text}g")).map_err(|e| bad(&e))?,
        Some(other) => size::parse(&format!("{other}g")).map_err(|e| bad(&e))?,
        None => least.get("mem"),
    };
    requested.insert("cpu", cpu);
    requested.insert("mem", mem);
    Ok(requested)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use serde_json::json;

    use super::*;
    use crate::slots::intrinsic;

    fn ask(resources: Option<Json>, legacy: &LegacyRequest, image: &Json, shmem: &str) -> Result<String, String> {
        let mut known = intrinsic();
        known.insert("cuda.shares".to_owned(), SlotKind::Count);
        kernel_request(resources.as_ref(), legacy, image, &known, shmem)
            .map(|r| r.requested.humanized(&known))
            .map_err(|e| e.to_string())
    }

    #[test]
    fn requests_are_completed_and_checked() {
        let none = LegacyRequest::default();
        let image = json!({"cpu": {"min": "1", "max": "4"}, "mem": {"min": "256m"}});
        let new = |resources: Json| ask(Some(resources), &none, &image, "64m");
        assert_eq!(new(json!({})).unwrap(), "cpu=1 mem=320m cuda.shares=0");
        assert_eq!(new(json!({"cuda.shares": 0.25, "mem": "1g"})).unwrap(), "cuda.shares=0.25 mem=1g cpu=1");
        // Whole numbers of bytes may be written with a point; fractions may not.
        assert_eq!(new(json!({"mem": 1073741824.0})).unwrap(), "mem=1g cpu=1 cuda.shares=0");
        for (bad, part) in [
            (json!({"mem": 1073741824.5}), "mem: Fractional"),
            (json!({"cpu": "nan"}), "cpu: NaN"),
            (json!({"cpu": "inf"}), "cpu is invalid: Infinity"),
            (json!({"cuda.shares": -1}), "cuda.shares is invalid: -1"),
            (json!({"cpu": [1]}), "cpu: value"),
            (json!({"gold": null}), "Unknown requested resource slot: gold"),
            (json!({"cpu": 5, "mem": "1g"}), "larger than the maximum allowed by the image. (cpu=4 mem=Infinity"),
            (json!({"cpu": 1, "mem": "300m"}), "smaller than the minimum required by the image. (cpu=1 mem=320m"),
            (json!([]), "not a dict"),
        ] {
            let error = new(bad.clone()).unwrap_err();
            assert!(error.contains(part), "{bad}: {error}");
        }
        for shmem in ["x", "-1", "inf", "", "1.5"] {
            assert!(ask(Some(json!({})), &none, &image, shmem).unwrap_err().contains("shared memory"), "{shmem}");
        }
        assert!(matches!(
            kernel_request(Some(&json!({})), &none, &json!({"cpu": {"min": "x"}}), &intrinsic(), "0"),
            Err(RequestError::Image(_))
        ));
    }

    #[test]
    fn the_old_way_to_ask_still_works() {
        let image = json!({"cpu": {"min": "1"}, "mem": {"min": "64m"}});
        let old = |legacy: LegacyRequest| ask(None, &legacy, &image, "64m");
        assert_eq!(old(LegacyRequest::default()).unwrap(), "cpu=1 mem=128m cuda.shares=0");
        let asked = LegacyRequest { cores: Some(json!(2)), memory: Some(json!(3)), ..LegacyRequest::default() };
        assert_eq!(old(asked).unwrap(), "cpu=2 mem=3g cuda.shares=0");
        let asked = LegacyRequest { gpus: Some(json!(1)), ..LegacyRequest::default() };
        assert_eq!(old(asked).unwrap_err(), "Client upgrade required to use GPUs (v19.03+).");
        let asked = LegacyRequest { tpus: Some(json!(1)), gpus: Some(json!(null)), ..LegacyRequest::default() };
        assert_eq!(old(asked).unwrap_err(), "Client upgrade required to use TPUs (v19.03+).");
    }
}
