//! How sessions come about that aren't the ordinary ones.

use quarterdeck_control::enqueue::{CreateCluster, create_cluster};
use quarterdeck_control::templates::{self, Place, TemplateKind};
use quarterdeck_control::{Principal, retention};
use quarterdeck_model::ClusterMode;
use quarterdeck_store::clusters;
use serde_json::Value;

use super::*;

async fn template(lab: &Lab, user: &Principal, kind: TemplateKind, document: Value) -> uuid::Uuid {
    let place = Place { project: "default".to_owned(), domain: "default".to_owned(), owner_access_key: None };
    let payload = match kind {
        TemplateKind::Task => json!({"session_templates": [{"template": document}]}),
        TemplateKind::Cluster => document,
    };
    templates::create(&lab.control, user, kind, &place, &|| Some(payload.clone())).await.unwrap().0
}

fn cluster(name: &str, template: uuid::Uuid) -> CreateCluster {
    CreateCluster {
        name: name.to_owned(),
        template: Some(template),
        kind: None,
        project: "default".to_owned(),
        domain: "default".to_owned(),
        scaling_group: None,
        tag: None,
        enqueue_only: false,
        max_wait_s: 60,
        owner_access_key: None,
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn agents_with_an_engine_are_told_how_to_log_in_to_the_registry_of_an_image() {
    for db in databases().await {
        let lab = Lab::new(&db).await;
        let key = |child: &str| format!("config/docker/registry/conf-registry{child}");
        let set = async |child: &str, value: &str| {
            lab.control.config_tree().set(&[(key(child), value.to_owned())]).await.unwrap();
        };
        let engine = lab.contained_agent("i-1", 1).await;
        let registry = async |name: &str, agent: &FakeAgent| {
            let made = lab.create(request(name)).await;
            assert_eq!(made.status, "RUNNING");
            let told = agent.internal(&kernel_of(&lab, made.session_id).await.id.to_string())["registry"].clone();
            let written = format!("{:?}", session(&lab, made.session_id).await);
            assert!(!written.contains("pssst"), "{written}");
            told
        };
        assert_eq!(registry("open", &engine).await, json!(null), "the registry is open to everybody");
        let user = lab.who(USER).await;
        sessions::destroy(&lab.control, &user, "open", None, false, false).await.unwrap();

        set("/username", "somebody").await;
        set("/password", "pssst").await;
        let login = json!({"url": "http://127.0.0.1:55000/", "username": "somebody", "password": "pssst"});
        assert_eq!(registry("closed", &engine).await, login);
        let other = lab.agent("i-2", 1).await;
        assert_eq!(registry("elsewhere", &other).await, json!(null), "it fetches nothing");
        lab.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_template_makes_kernels_that_differ_and_know_each_other() {
    for db in databases().await {
        let lab = Lab::new(&db).await;
        let agents = [lab.agent("i-1", 4).await, lab.agent("i-2", 4).await];
        let user = lab.who(USER).await;
        let task = |cpus: u32, environ: Value| {
            json!({"api_version": "v1", "kind": "taskTemplate", "metadata": {"name": "t"}, "spec": {
                "kernel": {"image": "python", "architecture": "x86_64", "environ": environ},
                "resources": {"cpu": cpus, "mem": "512m"},
            }})
        };
        let main = template(&lab, &user, TemplateKind::Task, task(1, json!({"WHO": "main"}))).await;
        let worker = template(&lab, &user, TemplateKind::Task, task(3, json!({"WHO": "worker"}))).await;
        let document = json!({
            "api_version": "v1", "kind": "clusterTemplate", "mode": "multi-node", "metadata": {"name": "c"},
            "spec": {"environ": {"ALL": "1"}, "nodes": [
                {"role": "worker", "session_template": worker, "replicas": 2},
                {"role": "main", "session_template": main, "replicas": 1},
            ]},
        });
        let id = template(&lab, &user, TemplateKind::Cluster, document).await;

        let made = create_cluster(&lab.control, &user, cluster("together", id)).await.unwrap();
        assert_eq!((made.status.as_str(), made.created), ("RUNNING", true));
        let row = session(&lab, made.session_id).await;
        assert_eq!((row.cluster_size, row.cluster_mode), (3, ClusterMode::MultiNode));
        let mut reader = lab.control.store().reader();
        let rows = kernels::of_sessions(&mut reader, &[made.session_id]).await.unwrap();
        let names: Vec<_> = rows.iter().map(|k| (k.cluster_hostname.as_str(), k.cluster_idx, k.local_rank)).collect();
        assert_eq!(names, [("main1", 1, 0), ("worker1", 1, 1), ("worker2", 2, 2)]);
        assert_ne!(rows[1].agent_id, rows[2].agent_id, "no agent has room for both");
        for row in &rows {
            let agent = agents.iter().find(|a| a.kernels().contains(&row.id.to_string())).unwrap();
            let environ = agent.environ(&row.id.to_string());
            let of = |name: &str| environ.get(name).map(String::as_str).unwrap_or_default();
            assert_eq!((of("ALL"), of("WHO")), ("1", row.cluster_role.as_str()));
            assert_eq!(of("BACKENDAI_CLUSTER_REPLICAS"), "main:1,worker:2");
            assert_eq!(of("BACKENDAI_CLUSTER_HOSTS"), "main1,worker1,worker2");
            assert_eq!(of("QUARTERDECK_CLUSTER_ADDRESSES"), "main1=127.0.0.1,worker1=127.0.0.1,worker2=127.0.0.1");
        }
        let keys = clusters::keys(&mut reader, &[made.session_id]).await.unwrap();
        assert!(keys[&made.session_id].0.starts_with("ssh-rsa "), "{keys:?}");

        let again = create_cluster(&lab.control, &user, cluster("together", id)).await;
        assert!(matches!(again, Err(Error::SessionAlreadyExists(_))), "{again:?}");
        let nowhere = create_cluster(&lab.control, &user, cluster("another", uuid::Uuid::new_v4())).await;
        assert!(matches!(nowhere, Err(Error::NotFound { .. })), "{nowhere:?}");

        sessions::destroy(&lab.control, &user, "together", None, false, false).await.unwrap();
        retention::pass(&lab.control).await.unwrap();
        assert!(clusters::keys(&mut reader, &[made.session_id]).await.unwrap().is_empty());
        lab.check_books().await;
        lab.stop().await;
    }
}
