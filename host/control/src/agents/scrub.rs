//! What agents say, cut down to what may be stored and shown. They run what users give them: a node that was taken over
//! may say anything, and must harm nobody but its own kernels.

use std::collections::BTreeMap;

use quarterdeck_rpc::pb;
use quarterdeck_rpc::pb::report::Event;

/// Slots that one agent may offer, or one kernel hold.
const SLOTS: usize = 256;
/// The largest amount of a slot, in contract units: a pebibyte, or a billion thousandfold. The sums of many stay in range.
pub(super) const LARGEST: u64 = 1 << 50;
/// Reports taken from one call; the agent repeats those behind them.
pub(super) const REPORTS: usize = 1024;
/// Characters of a name or reason.
const WORD: usize = 512;
/// Characters of a message for people.
const MESSAGE: usize = 16 * 1024;
/// Bytes of a JSON document about a kernel.
const DOCUMENT: usize = 64 * 1024;
/// Bytes of a JSON document about a node.
const NODE_DOCUMENT: usize = 1024 * 1024;

/// Takes out what no terminal and not every database bears, and cuts what is too long.
fn text(text: &mut String, most: usize, keep: &[char]) {
    let bad = |c: char| c.is_control() && !keep.contains(&c);
    if text.contains(bad) || text.len() > most {
        *text = text.chars().filter(|c| !bad(*c)).take(most).collect();
    }
}

fn word(word: &mut String) {
    text(word, WORD, &[]);
}

/// A document that is too large is none.
fn document(document: &mut String, most: usize) {
    if document.len() > most {
        *document = String::new();
    }
}

/// Drops slots without a proper name, and bounds amounts and numbers.
pub(super) fn slots(list: &mut Vec<pb::Slot>) {
    let proper = |name: &str| {
        (1..=64).contains(&name.len()) && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-:".contains(&b))
    };
    list.retain(|slot| proper(&slot.name));
    list.truncate(SLOTS);
    for slot in list {
        slot.amount = slot.amount.min(LARGEST);
        word(&mut slot.kind);
    }
}

/// Cuts down what a kernel is said to have got to what was reserved for it.
pub(super) fn within(got: &[pb::Slot], reserved: &BTreeMap<String, i64>) -> Vec<pb::Slot> {
    let mut within: BTreeMap<&str, pb::Slot> = BTreeMap::new();
    for slot in got {
        let most = reserved.get(&slot.name).and_then(|amount| u64::try_from(*amount).ok()).unwrap_or_default();
        let cut = pb::Slot { amount: slot.amount.min(most), ..slot.clone() };
        within.insert(&slot.name, cut);
    }
    within.into_values().filter(|slot| slot.amount > 0).collect()
}

/// Scrubs a report.
pub(super) fn report(report: &mut pb::Report) {
    let Some(event) = &mut report.event else { return };
    match event {
        Event::Preparing(_) | Event::Creating(_) | Event::Execution(_) => {}
        Event::Pulling(pulling) => word(&mut pulling.image),
        Event::Started(started) => {
            word(&mut started.container_id);
            word(&mut started.kernel_host);
            slots(&mut started.allocated);
            for json in [&mut started.service_ports, &mut started.runtime_info, &mut started.attached_devices] {
                document(json, DOCUMENT);
            }
        }
        Event::StartFailed(failed) => {
            word(&mut failed.name);
            text(&mut failed.message, MESSAGE, &['\n', '\t']);
        }
        Event::Terminated(ended) => {
            word(&mut ended.reason);
            document(&mut ended.last_stat, DOCUMENT);
        }
        Event::BatchFinished(finished) => word(&mut finished.reason),
    }
}

/// Scrubs a heartbeat.
pub(super) fn heartbeat(beat: &mut pb::HeartbeatRequest) {
    slots(&mut beat.slots);
    document(&mut beat.node_stat, NODE_DOCUMENT);
    beat.kernel_stats.retain(|stat| stat.stat.len() <= DOCUMENT);
}

/// What is wrong with a registration's texts, if anything.
pub(super) fn registration(agent: &pb::RegisterRequest) -> Option<&'static str> {
    let fits = |text: &str| text.len() <= 1024 && !text.contains(char::is_control);
    let required = [
        ("agent_id", &agent.agent_id),
        ("addr", &agent.addr),
        ("scaling_group", &agent.scaling_group),
        ("architecture", &agent.architecture),
        ("runtime", &agent.runtime),
        ("boot_id", &agent.boot_id),
        ("host_secret", &agent.host_secret),
    ];
    let optional = [("region", &agent.region), ("version", &agent.version), ("public_host", &agent.public_host)];
    let bad = required.into_iter().find(|(_, text)| text.is_empty() || !fits(text));
    let bad = bad.or_else(|| optional.into_iter().find(|(_, text)| !fits(text)));
    if let Some((name, _)) = bad {
        return Some(name);
    }
    if agent.runtime_types.len() > 256 || !agent.runtime_types.iter().all(|kind| fits(kind)) {
        return Some("runtime_types");
    }
    (agent.compute_plugins.len() > DOCUMENT || agent.compute_plugins.contains("\\u0000")).then_some("compute_plugins")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn slot(name: &str, amount: u64) -> pb::Slot {
        pb::Slot { name: name.to_owned(), kind: "count".to_owned(), amount }
    }

    #[test]
    fn texts_are_cut_and_cleaned() {
        let mut reason = format!("a\0b\u{1b}[31m\n{}", "é".repeat(WORD));
        word(&mut reason);
        assert!(reason.starts_with("ab[31mé") && reason.chars().count() == WORD);
        let mut message = "line\n\tline\r\0".to_owned();
        text(&mut message, MESSAGE, &['\n', '\t']);
        assert_eq!(message, "line\n\tline");
        let mut stat = "x".repeat(DOCUMENT + 1);
        document(&mut stat, DOCUMENT);
        assert_eq!(stat, "");
    }

    #[test]
    fn slots_have_names_and_bounds() {
        let mut list = vec![slot("cpu", u64::MAX), slot("", 1), slot("a\0b", 1), slot("cuda.device:mig-1", 7)];
        slots(&mut list);
        assert_eq!(list, [slot("cpu", LARGEST), slot("cuda.device:mig-1", 7)]);
        let mut many: Vec<_> = (0..1000).map(|i| slot(&format!("s{i}"), 1)).collect();
        slots(&mut many);
        assert_eq!(many.len(), SLOTS);
    }

    #[test]
    fn nobody_gets_more_than_was_reserved() {
        let reserved = BTreeMap::from([("cpu".to_owned(), 2000), ("mem".to_owned(), 1 << 30)]);
        let got = [slot("cpu", 64_000), slot("mem", 1 << 20), slot("cuda.device", 8), slot("cpu", 1000)];
        assert_eq!(within(&got, &reserved), [slot("cpu", 1000), slot("mem", 1 << 20)]);
        assert_eq!(within(&[slot("cpu", u64::MAX)], &reserved), [slot("cpu", 2000)]);
    }
}
