//! Sessions, agents, images, and documents that are wrong.

use super::*;

#[tokio::test]
async fn sessions_show_what_hangs_on_them() {
    for w in worlds(Settings::default()).await {
        w.work().await;
        let query = "query($i: UUID!) { compute_session(id: $i) { name type status group_name user_email image main_kernel_role \
                     status_history occupied_slots resource_opts idle_checks abusing_reports commit_status mounts \
                     containers { cluster_hostname agent last_stat } dependencies { name status } } }";
        let row = w.data(USER, query, json!({"i": SESSION})).await["compute_session"].take();
        assert_eq!(row["name"], "waiting");
        assert_eq!(
            (&row["type"], &row["status"], &row["image"]),
            (&json!("INTERACTIVE"), &json!("PENDING"), &json!("r/i:1"))
        );
        assert_eq!(row["occupied_slots"], "{\"cpu\":\"2\",\"mem\":\"2097152\"}");
        assert_eq!(row["resource_opts"], "{\"main1\":{\"shmem\":64},\"sub1\":{\"shmem\":64}}");
        assert!(row["idle_checks"].as_str().unwrap().contains("session_lifetime"));
        assert_eq!(row["abusing_reports"], json!([null, null]));
        assert_eq!(
            row["containers"][0],
            json!({"cluster_hostname": "main1", "agent": "i-one", "last_stat": "{\"mem\":{\"current\":\"77\",\"stats.max\":\"99\"}}"})
        );
        assert_eq!(row["dependencies"], json!([{"name": "ended", "status": "TERMINATED"}]));
        assert_eq!(w.data(DOMAIN_ADMIN, query, json!({"i": SESSION})).await["compute_session"]["name"], "waiting");
        assert_eq!(w.data(USER, query, json!({"i": PROJECT})).await["compute_session"], Json::Null);
        let ended = "query($i: UUID!) { compute_session(id: $i) { commit_status } }";
        let told = w.ask(USER, ended, json!({"i": EARLIER})).await;
        assert_eq!(
            told["errors"][0]["message"],
            format!("No such session. (Session (id={EARLIER}) does not exist.)"),
            "{told}"
        );

        let list = "query($s: String, $a: String, $f: String) { compute_session_list(limit: 5, offset: 0, status: $s, access_key: $a, filter: $f) { total_count items { ... on ComputeSession { name containers { id } } } } }";
        let listed =
            async |key: &str, variables: Json| w.data(key, list, variables).await["compute_session_list"].take();
        let names = |page: &Json| {
            page["items"].as_array().unwrap().iter().map(|i| i["name"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
        };
        assert_eq!(names(&listed(USER, json!({})).await), ["ended", "waiting"]);
        assert_eq!(names(&listed(USER, json!({"s": "PENDING,RUNNING"})).await), ["waiting"]);
        assert_eq!(
            names(&listed(ADMIN, json!({"f": "status == \"TERMINATED\" & type == \"INTERACTIVE\""})).await),
            ["ended"]
        );
        assert_eq!(listed(ADMIN, json!({"a": ADMIN})).await["total_count"], 0);
        assert_eq!(w.fault(USER, list, json!({"s": "DANCING"})).await, "'DANCING'");
        assert_eq!(w.fault(USER, list, json!({"a": ADMIN})).await, "Forbidden operation.");

        let kernels = "query($s: ID!, $r: String) { compute_container_list(limit: 5, offset: 0, session_id: $s, role: $r) { total_count } }";
        assert_eq!(
            w.data(USER, kernels, json!({"s": SESSION, "r": "sub"})).await["compute_container_list"]["total_count"],
            1
        );
        let kernel = "{ compute_container(id: \"9e000000-0000-4000-8000-000000000001\") { hostname } }";
        assert_eq!(w.data(USER, kernel, json!({})).await["compute_container"]["hostname"], "main1");
        assert_eq!(
            w.data(DOMAIN_ADMIN, "{ keypair { compute_sessions { id } } }", json!({})).await["keypair"]["compute_sessions"],
            json!([])
        );
        assert_eq!(
            w.data(USER, "{ keypair { compute_sessions(status: \"PENDING\") { name } } }", json!({})).await["keypair"]
                ["compute_sessions"],
            json!([{"name": "waiting"}])
        );

        let old = "query($s: String!) { legacy_compute_session(sess_id: $s) { session_name status mem_slot cpu_slot mem_max_bytes live_stat } }";
        let row = w.data(USER, old, json!({"s": "waiting"})).await["legacy_compute_session"].take();
        assert_eq!(
            row,
            json!({"session_name": "waiting", "status": "PENDING", "mem_slot": 1, "cpu_slot": 1.0, "mem_max_bytes": 99, "live_stat": null})
        );
        assert_eq!(w.data(USER, old, json!({"s": "ended"})).await["legacy_compute_session"], Json::Null);
        let old = "query($k: String) { legacy_compute_session_list(limit: 5, offset: 0, order_key: $k, order_asc: false) { items { ... on LegacyComputeSession { sess_id } } } }";
        let rows = w.data(USER, old, json!({"k": "session_name"})).await["legacy_compute_session_list"]["items"].take();
        assert_eq!(rows, json!([{"sess_id": "waiting"}, {"sess_id": "ended"}]));
    }
}

#[tokio::test]
async fn agents_and_images() {
    for w in worlds(Settings::default()).await {
        w.work().await;
        let agent = "{ agent(agent_id: \"i-one\") { status cpu_slots mem_slots used_cpu_slots used_mem_slots occupied_slots local_config live_stat hardware_metadata cpu_cur_pct compute_containers(status: \"PENDING\") { hostname } } }";
        let row = w.data(ADMIN, agent, json!({})).await["agent"].take();
        assert_eq!(row["status"], "ALIVE");
        let asked = "{ agent(agent_id: \"i-one\") { cpu_cur_pct id ...rest status } } fragment rest on Agent { occupied_slots region }";
        let agent_in_order = w.data(ADMIN, asked, json!({})).await["agent"].take();
        let names: Vec<_> = agent_in_order.as_object().unwrap().keys().collect();
        assert_eq!(names, ["cpu_cur_pct", "id", "occupied_slots", "region", "status"]);
        assert_eq!((&row["cpu_slots"], &row["mem_slots"]), (&json!(4.0), &json!(4096)));
        assert_eq!((&row["used_cpu_slots"], &row["used_mem_slots"]), (&json!(1.5), &json!(1024)));
        assert_eq!(row["occupied_slots"], "{\"cpu\":\"1.5\",\"mem\":\"1073741824\"}");
        assert_eq!((&row["live_stat"], &row["cpu_cur_pct"]), (&Json::Null, &json!(0.0)));
        assert_eq!(row["compute_containers"], json!([{"hostname": "main1"}, {"hostname": "sub1"}]));
        let hardware: Json = serde_json::from_str(row["hardware_metadata"].as_str().unwrap()).unwrap();
        assert_eq!(hardware["cpu"], json!({"status": "healthy", "status_info": null, "metadata": {"cpu": "4"}}));
        assert_eq!(w.fault(USER, agent, json!({})).await, "Forbidden operation. (superadmin privilege required)");
        let list =
            "query($s: String, $o: String) { agent_list(limit: 5, offset: 0, status: $s, order: $o) { total_count } }";
        assert_eq!(
            w.data(ADMIN, list, json!({"s": "ALIVE,LOST", "o": "-occupied_slots,available_slots"})).await["agent_list"]
                ["total_count"],
            1
        );
        assert_eq!(w.fault(ADMIN, list, json!({"s": "alive"})).await, "'alive'");
        let summary = "{ agent_summary(agent_id: \"i-one\") { id status occupied_slots } agent_summary_list(limit: 5, offset: 0) { total_count } }";
        let row = w.data(USER, summary, json!({})).await;
        assert_eq!(
            (&row["agent_summary"]["id"], &row["agent_summary_list"]["total_count"]),
            (&json!("i-one"), &json!(1))
        );

        const NAME: &str = "conf-registry/stable/python:3.9-ubuntu20.04";
        let image = "query($r: String!, $a: String) { image(reference: $r, architecture: $a) { name hash digest aliases installed supported_accelerators resource_limits { key min max } labels { key } } }";
        let row = w.data(USER, image, json!({"r": NAME, "a": null})).await["image"].take();
        assert_eq!(row["name"], "stable/python");
        assert_eq!(row["supported_accelerators"], json!([""]));
        assert_eq!(
            row["resource_limits"],
            json!([{"key": "cpu", "min": "1", "max": null}, {"key": "mem", "min": "64m", "max": null}])
        );
        assert!(
            w.fault(USER, image, json!({"r": "cr.example.com/none:1"})).await.starts_with("No such environment image.")
        );
        let alias = format!("mutation {{ alias_image(alias: \"nick\", target: \"{NAME}\") {{ ok msg }} }}");
        assert_eq!(w.data(ADMIN, &alias, json!({})).await["alias_image"], json!({"ok": true, "msg": ""}));
        assert!(
            w.data(USER, image, json!({"r": "nick"})).await["image"]["aliases"]
                .as_array()
                .unwrap()
                .contains(&json!("nick"))
        );
        let twice = w.data(ADMIN, &alias, json!({})).await["alias_image"].take();
        assert_eq!(twice["ok"], false);
        assert!(
            w.fault(ADMIN, "mutation { forget_image(reference: \"cr.x/none:1\") { ok } }", json!({}))
                .await
                .starts_with("No such environment image.")
        );
        let split = w
            .data(
                ADMIN,
                "{ a: images(is_installed: true) { id } b: images(is_installed: false) { id } c: images { id } }",
                json!({}),
            )
            .await;
        assert_eq!((split["a"].as_array().unwrap().len(), &split["b"]), (0, &split["c"]));
    }
}

#[tokio::test]
async fn hidden_agents_stay_hidden() {
    for w in worlds(Settings { hide_agents: true, ..Settings::default() }).await {
        w.work().await;
        let query =
            format!("{{ compute_session(id: \"{SESSION}\") {{ containers {{ agent agent_addr container_id }} }} }}");
        let hidden = json!({"agent": null, "agent_addr": null, "container_id": null});
        assert_eq!(w.data(USER, &query, json!({})).await["compute_session"]["containers"][0], hidden);
        assert_eq!(w.data(ADMIN, &query, json!({})).await["compute_session"]["containers"][0]["agent"], "i-one");
        let summary = "{ agent_summary_list(limit: 5, offset: 0) { total_count } }";
        assert_eq!(w.fault(USER, summary, json!({})).await, "No such agent.");
    }
}

#[tokio::test]
async fn documents_that_are_wrong_have_no_data() {
    let worlds = worlds(Settings::default()).await;
    let w = &worlds[0];
    let refused = async |query: &str, variables: Json| {
        let answer = w.ask(USER, query, variables).await;
        assert!(answer.get("data").is_none(), "{query}: {answer}");
        assert_eq!(answer["errors"].as_array().unwrap().len(), 1, "{query}: {answer}");
        answer["errors"][0]["message"].as_str().unwrap().to_owned()
    };
    assert!(refused("query { domain {", json!({})).await.starts_with("Syntax Error"));
    assert!(refused("{ group { id } }", json!({})).await.contains("id"));
    assert!(refused("{ shoes }", json!({})).await.contains("shoes"));
    assert!(refused("{ group(id: \"x\") { id } }", json!({})).await.contains("id"));
    assert!(refused("query($i: UUID!) { group(id: $i) { id } }", json!({"i": "x"})).await.contains("id"));
    let json_text = "mutation($p: DomainInput!) { create_domain(name: \"d\", props: $p) { ok } }";
    refused(json_text, json!({"p": {"total_resource_slots": "{"}})).await;
    refused(json_text, json!({"p": {"total_resource_slots": {}}})).await;
    assert!(refused(json_text, json!({"p": {"bogus": 1}})).await.contains("bogus"));
    let ambiguous = "Must provide operation name if query contains multiple operations.";
    assert_eq!(refused("query a { domain { name } } query b { domain { name } }", json!({})).await, ambiguous);
    let deep = format!("{}name{}", "{ keypair { compute_sessions ".repeat(8), "} }".repeat(8));
    refused(&deep, json!({})).await;

    let failed = w.ask(USER, "query { domain { name } domains { name } }", json!({})).await;
    assert_eq!(failed["errors"][0]["locations"][0]["line"], 1);
    assert_eq!(failed["errors"][0]["path"], json!(["domains"]));
    assert_eq!(failed["data"], json!({"domain": {"name": "default"}, "domains": null}));
    assert_eq!(failed.as_object().unwrap().keys().collect::<Vec<_>>(), ["errors", "data"]);

    let types = w.data(USER, "{ __schema { queryType { name } mutationType { name } } __type(name: \"Item\") { kind possibleTypes { name } } }", json!({})).await;
    assert_eq!(types["__schema"], json!({"queryType": {"name": "Queries"}, "mutationType": {"name": "Mutations"}}));
    assert_eq!(types["__type"]["kind"], "INTERFACE");
    assert!(types["__type"]["possibleTypes"].as_array().unwrap().contains(&json!({"name": "ComputeSession"})));
    let skipped = w
        .data(
            USER,
            "query($x: Boolean!) { domain { name @include(if: $x) is_active @skip(if: $x) } }",
            json!({"x": true}),
        )
        .await;
    assert_eq!(skipped["domain"], json!({"name": "default"}));
}
