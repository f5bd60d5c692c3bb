//! What is implemented where a vector shows a defect: the text after `Do:` of its note, spelled out.

use serde_json::{Value as Json, json};

/// Matches any text.
pub const ANY: &str = "<any>";

fn passed() -> Json {
    json!([
        {"name": "reserved_time"},
        {"name": "dependencies"},
        {"name": "concurrency"},
        {"name": "keypair_resource_limit"},
        {"name": "user_group_resource_limit"},
        {"name": "domain_resource_limit"},
    ])
}

/// Status data of a session that passed the predicates and found no place for the `retries`th time.
fn no_instance(msg: &str, retries: u32) -> Json {
    let scheduler = json!({
        "failed_predicates": [], "passed_predicates": passed(), "last_try": "<time>", "msg": msg, "retries": retries,
    });
    json!({"scheduler": scheduler})
}

fn only_passed() -> Json {
    json!({"scheduler": {"failed_predicates": [], "passed_predicates": passed(), "last_try": "<time>"}})
}

fn untouched(agent: Option<&str>) -> Json {
    json!({
        "status": "PENDING", "status_info": null, "status_data": null, "scaling_group": "sg", "terminated": false,
        "kernels": [kernel(agent, None, Json::Null)],
    })
}

fn kernel(agent: Option<&str>, info: Option<&str>, data: Json) -> Json {
    json!({
        "agent": agent, "agent_addr": null, "status": "PENDING", "status_info": info, "status_data": data,
        "status_changed": false, "terminated": false,
    })
}

fn waiting(msg: &str, retries: u32, kernels: Json) -> Json {
    json!({
        "status": "PENDING", "status_info": "no-available-instances", "status_data": no_instance(msg, retries),
        "scaling_group": "sg", "terminated": false, "kernels": kernels,
    })
}

fn scheduled(agents: &[&str]) -> Json {
    let kernels: Vec<Json> = agents
        .iter()
        .map(|agent| {
            json!({
                "agent": agent, "agent_addr": format!("tcp://{agent}:6001"), "status": "SCHEDULED",
                "status_info": "scheduled", "status_data": {}, "status_changed": true, "terminated": false,
            })
        })
        .collect();
    json!({
        "status": "SCHEDULED", "status_info": "scheduled", "status_data": {}, "scaling_group": "sg",
        "terminated": false, "kernels": kernels,
    })
}

/// The states that a vector's ticks lead to.
pub fn expected(vector: &Json) -> Vec<Json> {
    let out = vector.get("expect").unwrap_or_else(|| &vector["out"]);
    let mut ticks = out["ticks"].as_array().unwrap().clone();
    let id = vector["id"].as_str().unwrap();
    for (i, tick) in ticks.iter_mut().enumerate() {
        let retries = i as u32 + 1;
        match id {
            // Any text will do for a limit that makes no sense.
            "dispatch-015" => {
                tick["sessions"]["s1"]["status_data"]["scheduler"]["failed_predicates"][0]["msg"] = json!(ANY);
            }
            // Mixed architectures on a single node are a normal placement failure.
            "dispatch-025" => {
                let kernels = json!([kernel(None, None, only_passed()), kernel(None, None, only_passed())]);
                let msg = "Kernels of different architectures (aarch64, x86_64) can't share a single node.";
                tick["sessions"]["s1"] = waiting(msg, retries, kernels);
                tick["redis"] = json!({});
            }
            // Each kernel keeps its own agent.
            "dispatch-026" | "dispatch-028" => tick["sessions"]["s1"] = scheduled(&["i-1", "i-2"]),
            // The session shows the failure of its kernel.
            "dispatch-027" | "dispatch-029" => {
                let failing = tick["sessions"]["s1"]["kernels"][1].clone();
                let msg = failing["status_data"]["scheduler"]["msg"].as_str().unwrap();
                tick["sessions"]["s1"] = waiting(msg, retries, json!([kernel(None, None, only_passed()), failing]));
            }
            // A designated agent must have the capacity left.
            "dispatch-031" => {
                let msg = "The designated agent (i-1) does not have the enough remaining capacity \
                           (cpu, requested: 3, available: 0).";
                tick["sessions"]["s1"] = waiting(msg, 1, json!([kernel(Some("i-1"), None, only_passed())]));
                tick["sessions"]["s2"] = untouched(Some("i-1"));
                tick["agents"]["i-1"] = json!({"cpu": "4"});
                tick["events"] = json!([]);
                tick["redis"] = json!({});
            }
            // A designated agent must live; the first session without a place blocks the others.
            "dispatch-032" => {
                let msg = "The designated agent (i-2) is not available.";
                tick["sessions"]["s2"] = waiting(msg, 1, json!([kernel(Some("i-2"), None, only_passed())]));
                for (session, agent) in [("s3", "i-3"), ("s4", "i-4"), ("s5", "i-5")] {
                    tick["sessions"][session] = untouched(Some(agent));
                }
                for agent in ["i-2", "i-3", "i-4", "i-5"] {
                    tick["agents"][agent] = json!({});
                }
                tick["events"] = json!([]);
                tick["redis"] = json!({});
            }
            // The message tells the kernel's request, and the session shows it.
            "dispatch-033" => {
                let msg = "The designated agent (i-1) does not have the enough remaining capacity \
                           (cpu, requested: 4, available: 3).";
                let kernels = json!([
                    kernel(Some("i-1"), Some("no-available-instances"), no_instance(msg, 1)),
                    kernel(Some("i-2"), None, only_passed()),
                ]);
                tick["sessions"]["s1"] = waiting(msg, 1, kernels);
            }
            // A slot that the request lacks counts as 0.
            "dispatch-037" => {
                tick["sessions"]["s1"] = scheduled(&["i-1"]);
                tick["sessions"]["s2"] = scheduled(&["i-1"]);
                tick["agents"]["i-1"] = json!({"cpu": "2", "mem": "2"});
                tick["redis"] = json!({"keypair.concurrency_used.A": "2"});
                let news = json!([["session_scheduled", "s1"], ["session_scheduled", "s2"]]);
                tick["events"] = if i == 0 { news } else { json!([]) };
            }
            _ => {}
        }
    }
    ticks
}
