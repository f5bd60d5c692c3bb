//! Dotfiles, templates and the log of errors: whose they are, and who else may have to do with them.
#![allow(clippy::unwrap_used, missing_docs)]

mod desk;

use desk::{ADMIN, DOMAIN_ADMIN, USER, controls, who};
use quarterdeck_control::dotfiles::{self, Owner};
use quarterdeck_control::error_logs::{self, Report};
use quarterdeck_control::templates::{self, Place, TemplateKind};
use quarterdeck_control::{Error, domains};
use quarterdeck_model::dotfile::{Dotfile, MAX_ENTRIES};
use serde_json::{Value, json};

fn file(path: &str, data: impl Into<String>) -> Dotfile {
    Dotfile { path: path.into(), perm: "644".into(), data: data.into() }
}

fn own() -> Owner {
    Owner::Keypair { access_key: None }
}

fn outcome<T>(result: Result<T, Error>) -> String {
    match result {
        Ok(_) => "ok".to_owned(),
        Err(Error::BadRequestTitled { title, msg }) => format!("{title} {}", msg.unwrap_or_default()),
        Err(error) => error.to_string(),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dotfiles_have_owners_and_limits() {
    for (_db, control) in controls().await {
        let (admin, dadmin, user) =
            (who(&control, ADMIN).await, who(&control, DOMAIN_ADMIN).await, who(&control, USER).await);
        dotfiles::create(&control, &user, &own(), file(".a", "1")).await.unwrap();
        dotfiles::create(&control, &user, &own(), file(".b", "2")).await.unwrap();
        dotfiles::update(&control, &user, &own(), file(".a", "3")).await.unwrap();
        let paths: Vec<_> =
            dotfiles::list(&control, &user, &own()).await.unwrap().into_iter().map(|f| f.path + &f.data).collect();
        assert_eq!(paths, [".b2", ".a3"], "what was changed moves to the end");
        let theirs = Owner::Keypair { access_key: Some(USER.into()) };
        assert_eq!(dotfiles::list(&control, &dadmin, &theirs).await.unwrap().len(), 2);
        let foreign = Owner::Keypair { access_key: Some(ADMIN.into()) };
        assert!(matches!(dotfiles::list(&control, &user, &foreign).await, Err(Error::Forbidden(_))));
        let big = dotfiles::create(&control, &user, &own(), file(".big", "x".repeat(65_500))).await;
        assert_eq!(outcome(big), "Dotfile creation has failed. No leftover space for dotfile storage");
        for n in 2..MAX_ENTRIES {
            dotfiles::create(&control, &user, &own(), file(&format!(".f{n}"), "x")).await.unwrap();
        }
        let more = dotfiles::create(&control, &user, &own(), file(".more", "x")).await;
        assert_eq!(outcome(more), "Dotfile creation has failed. Dotfile creation limit reached");

        domains::create(&control, &admin, "elsewhere", domains::DomainInput::default()).await.unwrap();
        let elsewhere = Owner::Domain { name: "elsewhere".into() };
        let refused = dotfiles::create(&control, &dadmin, &elsewhere, file(".a", "1")).await;
        assert_eq!(outcome(refused), "Domain admins cannot create dotfiles of other domains");
        let refused = dotfiles::list(&control, &user, &elsewhere).await;
        assert_eq!(outcome(refused), "Users cannot access dotfiles of other domains");
        let nowhere = Owner::Domain { name: "nowhere".into() };
        assert!(matches!(dotfiles::list(&control, &admin, &nowhere).await, Err(Error::NotFound { .. })));
        let project = |name: &str, domain: Option<&str>| Owner::Project {
            project: name.into(),
            domain: domain.map(str::to_owned),
        };
        let home = project("default", Some("default"));
        dotfiles::create(&control, &dadmin, &home, file(".p", "1")).await.unwrap();
        assert_eq!(dotfiles::get(&control, &user, &home, ".p").await.unwrap().data, "1");
        assert_eq!(
            outcome(dotfiles::delete(&control, &user, &home, ".p").await),
            "Admins cannot delete dotfiles of other domains"
        );
        let unnamed = dotfiles::list(&control, &admin, &project("default", None)).await;
        assert_eq!(outcome(unnamed), "Missing parameter 'domain'");
    }
}

fn task(name: &str) -> Value {
    json!({
        "api_version": "v1", "kind": "taskTemplate", "metadata": {"name": name},
        "spec": {"kernel": {"image": "an/image:1"}},
    })
}

fn place() -> Place {
    Place { project: "default".into(), domain: "default".into(), owner_access_key: None }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn templates_are_shared_with_the_project_and_changed_by_their_owner() {
    for (_db, control) in controls().await {
        let (admin, dadmin, user) =
            (who(&control, ADMIN).await, who(&control, DOMAIN_ADMIN).await, who(&control, USER).await);
        let of = |template: Value| move || Some(json!({"session_templates": [template.clone()]}));
        let kind = TemplateKind::Task;
        let first = of(json!({"template": task("first")}));
        let (id, owner) = templates::create(&control, &user, kind, &place(), &first).await.unwrap();
        assert_eq!(owner, user.user_id);
        let id = id.to_string();
        let seen = templates::list(&control, &user, kind, false, None).await.unwrap();
        assert_eq!(seen.iter().map(|t| (t.row.name.as_str(), t.is_owner)).collect::<Vec<_>>(), [("first", true)]);
        assert!(templates::list(&control, &admin, kind, true, None).await.unwrap().iter().any(|t| !t.is_owner));

        let grabbed = of(json!({"template": task("x"), "user_uuid": admin.user_id.to_string()}));
        let refused = templates::create(&control, &user, kind, &place(), &grabbed).await;
        assert!(matches!(refused, Err(Error::Forbidden(_))), "only administrators give templates to others");
        let foreign = Place { owner_access_key: Some(USER.into()), ..place() };
        let (given, owner) = templates::create(&control, &dadmin, kind, &foreign, &first).await.unwrap();
        assert_eq!(owner, user.user_id);
        templates::delete(&control, &user, kind, &given.to_string(), None).await.unwrap();

        let (theirs, _) = templates::create(&control, &dadmin, kind, &place(), &first).await.unwrap();
        let refused = templates::delete(&control, &user, kind, &theirs.to_string(), None).await;
        assert!(matches!(refused, Err(Error::Forbidden(_))));
        let renamed = of(json!({"template": task("second"), "name": "renamed"}));
        templates::update(&control, &user, kind, &id, Some(&place()), None, &renamed).await.unwrap();
        assert_eq!(templates::get(&control, &user, kind, &id, None).await.unwrap().name, "renamed");
        let malformed = templates::update(&control, &user, kind, &id, Some(&place()), None, &|| None).await;
        assert_eq!(outcome(malformed), "Malformed payload");
        let wrong_kind = templates::get(&control, &user, TemplateKind::Cluster, &id, None).await;
        assert!(matches!(wrong_kind, Err(Error::NotFound { .. })));
        templates::delete(&control, &user, kind, &id, None).await.unwrap();
        assert!(matches!(templates::get(&control, &admin, kind, &id, None).await, Err(Error::NotFound { .. })));
    }
}

fn report(message: &str) -> Report {
    Report {
        severity: "error".into(),
        source: "test".into(),
        message: message.into(),
        context_lang: "en".into(),
        context_env: json!({}),
        request_url: None,
        request_status: None,
        traceback: None,
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_log_of_errors_shows_everybody_their_part() {
    for (_db, control) in controls().await {
        let (admin, dadmin, user) =
            (who(&control, ADMIN).await, who(&control, DOMAIN_ADMIN).await, who(&control, USER).await);
        error_logs::append(&control, &user, report("mine")).await.unwrap();
        error_logs::append(&control, &admin, report("the superadmin's")).await.unwrap();
        error_logs::record_failure(&control, "the host's", "/x", 500).await.unwrap();
        let messages = |page: error_logs::Page| page.entries.into_iter().map(|e| e.message).collect::<Vec<_>>();
        let page = error_logs::page(&control, &user, 20, 1, false).await.unwrap();
        let id = page.entries[0].id.clone();
        assert_eq!((page.count, page.shows_cleared), (1, false));
        assert_eq!(messages(page), ["mine"]);
        let all = error_logs::page(&control, &admin, 2, 2, false).await.unwrap();
        assert_eq!((all.count, messages(all).len()), (3, 1), "the second page of two");
        let seen = messages(error_logs::page(&control, &dadmin, 20, 0, true).await.unwrap());
        assert!(seen.contains(&"mine".to_owned()) && !seen.contains(&"the host's".to_owned()), "{seen:?}");
        assert!(error_logs::page(&control, &user, 20, 1, false).await.unwrap().entries[0].is_read);
        assert!(matches!(error_logs::clear(&control, &user, "x").await, Err(Error::NotFound { .. })));
        error_logs::clear(&control, &dadmin, &id).await.unwrap();
        assert_eq!(error_logs::page(&control, &user, 20, 1, false).await.unwrap().count, 0);
        assert_eq!(error_logs::page(&control, &admin, 20, 1, false).await.unwrap().count, 3);
    }
}
