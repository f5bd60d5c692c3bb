//! Every documented route is there, asks for the login it should, and takes nonsense without falling over.
#![allow(clippy::unwrap_used)]

use hyper::body::Bytes;
use hyper::{Method, StatusCode};
use quarterdeck_tests::client::{Answer, Client};
use quarterdeck_tests::database::Database;
use quarterdeck_tests::dice::Dice;
use quarterdeck_tests::process::Server;
use quarterdeck_tests::wait::within;
use quarterdeck_tests::{ADMIN, KeyPair, USER, scale};
use tokio::task::JoinSet;

/// The routes of `spec/` (and our own): who may call (`-` everybody, `u` whoever signs, `a` administrators,
/// `s` superadministrators), methods, path, and the keys of parameters for those that fuzzing shall reach deep.
const ROUTES: &str = "
- GET /
u GET,POST /auth echo
u GET,POST /auth/test echo
u GET /auth/role group
- POST /auth/authorize type domain username password stoken sToken
- POST /auth/signup domain email username password full_name description
u POST /auth/signout email username password
u POST /auth/update-password old_password new_password new_password2
- POST /auth/update-password-no-auth domain username current_password new_password
u POST /auth/update-full-name email full_name
u GET,PATCH,POST /auth/ssh-keypair pubkey privkey
u POST /session name clientSessionToken image lang architecture type group domain cluster_size clusterMode config tag enqueueOnly maxWaitSeconds startsAt reuseIfExists startupCommand bootstrap_script dependencies callback_url owner_access_key priority timeout
u POST /session/_/create name image config domain group type
u POST /session/_/create-from-template template_id name image config
u POST /session/_/create-cluster clientSessionToken template_id
u GET /session/_/match id
s POST /session/_/sync-agent-registry agent
u GET /session/_/logs session_name taskId kernel_id
u GET,PATCH,DELETE,POST /session/{s} mode runId code options owner_access_key forced recursive
u GET /session/{s}/logs owner_access_key
u GET /session/{s}/status-history
u GET /session/{s}/direct-access-info
u POST /session/{s}/rename name clientSessionToken
u POST /session/{s}/interrupt
u POST /session/{s}/complete code options
u POST /session/{s}/shutdown-service service_name
u POST /session/{s}/start-service app port envs arguments login_session_token
u POST /session/{s}/upload
u GET /session/{s}/download files
u GET /session/{s}/download_single file
u GET /session/{s}/files path
u POST,GET /session/{s}/commit login_session_token filename
u GET /session/{s}/abusing-report
u GET /stream/session/{s}/pty
u GET /stream/session/{s}/execute
u GET /stream/session/{s}/apps
u GET /stream/session/{s}/httpproxy app
u GET /stream/session/{s}/tcpproxy app
u GET /events/session sessionId scope
u GET /events/background-task task_id
- GET /config/resource-slots
- GET /config/resource-slots/details
- GET /config/vfolder-types
s GET /config/docker-registries
s POST /config/get key prefix
s POST /config/set key value
s POST /config/delete key prefix
- GET /manager/status
s PUT /manager/status status force_kill
- GET /manager/announcement
s POST /manager/announcement enabled message
s POST /manager/scheduler/operation op args
u GET /acl
u GET /scaling-groups group
u GET /scaling-groups/{n}/wsproxy-version group
u GET /resource/presets
u POST /resource/check-presets scaling_group group
s POST /resource/recalculate-usage
s GET /resource/usage/month group_ids month
s GET /resource/usage/period project_id start_date end_date
u GET /resource/stats/user/month
s GET /resource/stats/admin/month
s GET /resource/watcher agent_id
s POST /resource/watcher/agent/start agent_id
s POST /resource/watcher/agent/stop agent_id
s POST /resource/watcher/agent/restart agent_id
u POST,GET /logs/error severity source message context_lang context_env
u POST /logs/error/{u}/clear
u POST,GET /template/session group domain payload
u GET,PUT,DELETE /template/session/{u} format
u POST,GET /template/cluster group domain payload
u GET,PUT,DELETE /template/cluster/{u} format
u POST,GET,PATCH,DELETE /user-config/dotfiles data path permission
u POST,GET /user-config/bootstrap-script script
a POST,PATCH,DELETE /domain-config/dotfiles domain data path permission
u GET /domain-config/dotfiles domain path
a POST,PATCH,DELETE /group-config/dotfiles group data path permission
u GET /group-config/dotfiles group path
u POST,GET /services service_name desired_session_count image
u GET,DELETE /services/{u}
u POST /services/{u}/scale to
u POST /services/{u}/sync
u PUT,DELETE /services/{u}/routings/{u} traffic_ratio
u POST /services/{u}/token duration
u POST,GET /folders name host group
s DELETE /folders id
u GET,DELETE /folders/{n}
u GET /folders/_/hosts
s GET /folders/_/all-hosts
s GET /folders/_/all_hosts
u GET /folders/_/allowed-types
u GET /folders/_/allowed_types
s GET /folders/_/perf-metric folder_host
u POST /folders/{n}/rename new_name
u POST /folders/{n}/update-options cloneable permission
u POST /folders/{n}/clone target_name
u POST /folders/{n}/mkdir path
u POST /folders/{n}/request-upload path size
u POST /folders/{n}/request-download file
u POST /folders/{n}/move-file src dst
u POST /folders/{n}/rename-file target_path new_name
u POST /folders/{n}/rename_file target_path new_name
u DELETE /folders/{n}/delete-files files
u DELETE /folders/{n}/delete_files files
u GET /folders/{n}/files path
u POST /folders/{n}/invite perm emails
u POST /folders/{n}/leave
a POST /folders/{n}/share permission emails
a DELETE /folders/{n}/unshare emails
u GET /folders/invitations/list
u GET /folders/invitations/list-sent
u GET /folders/invitations/list_sent
u POST /folders/invitations/update/{u} perm
u POST /folders/invitations/accept inv_id
u DELETE /folders/invitations/delete inv_id
u GET,POST /folders/_/shared vfolder_id
s POST /folders/_/change-ownership vfolder user_email
u GET,POST /folders/_/quota folder_host id input
s GET /folders/_/usage folder_host id
s GET /folders/_/used-bytes folder_host id
s GET /folders/_/fstab fstab_path agent_id
s GET,POST,DELETE /folders/_/mounts fs_location name
u POST /admin/gql query variables operation_name
u POST /admin/graphql query variables operation_name
s GET,POST /plugins
s POST,DELETE /plugins/bindings plugin target config order failure_policy
s POST /plugins/rollback target kind
s GET /plugins/rounds scaling_group plugin outcome since before recorded limit
s GET /plugins/rounds/export id scaling_group plugin outcome since before recorded limit pseudonymise compression
s GET /plugins/rounds/{n} decisions
s POST /plugins/rounds/{n}/replay plugin config fuel
s POST /plugins/rounds/{n}/diff left right fuel
s GET /plugins/{n}
- GET /healthz
- GET /readyz
- GET /metrics
";

struct Route {
    access: char,
    method: Method,
    path: String,
    keys: Vec<&'static str>,
}

fn routes() -> Vec<Route> {
    let mut all = Vec::new();
    for line in ROUTES.trim().lines() {
        let words: Vec<&'static str> = line.split(' ').collect();
        let path = words[2]
            .replace("{s}", "no-such-session")
            .replace("{u}", "9d000000-0000-4000-8000-000000000001")
            .replace("{n}", "no-such-name");
        for method in words[1].split(',') {
            all.push(Route {
                access: words[0].chars().next().unwrap(),
                method: method.parse().unwrap(),
                path: path.clone(),
                keys: words[3..].to_vec(),
            });
        }
    }
    all
}

fn problem(answer: &Answer) -> &str {
    answer.body["type"].as_str().unwrap_or_default().rsplit('/').next().unwrap_or_default()
}

/// What no request may be answered.
fn assert_sane(what: &str, answer: &Answer) {
    let server_error = answer.status.is_server_error();
    let honest = answer.status == StatusCode::SERVICE_UNAVAILABLE && problem(answer) == "not-implemented";
    assert!(!server_error || honest, "{what}: {} {}", answer.status, String::from_utf8_lossy(&answer.bytes));
    if !answer.status.is_success() {
        assert!(answer.body["title"].is_string(), "{what}: not a problem document: {answer:?}");
    }
}

#[tokio::test]
async fn every_route_is_there_for_those_who_may() {
    let dir = tempfile::tempdir().unwrap();
    let database = Database::sqlite().unwrap();
    let server = Server::start(&database, &dir.path().join("server")).unwrap();
    let (admin, user) = (server.client(ADMIN), server.client(USER));
    // An unknown key pair is nobody.
    let nobody = server.client(KeyPair { access: "AKIANOBODYATALL00000", secret: "none" });
    for route in routes() {
        let what = format!("{} {}", route.method, route.path);
        let content_type = "application/json";

        let answer = within(&what, nobody.send(route.method.clone(), &route.path, content_type, Bytes::new())).await;
        assert_eq!(
            answer.status == StatusCode::UNAUTHORIZED && problem(&answer) == "auth-failed",
            route.access != '-',
            "{what} by nobody: {answer:?}"
        );

        let answer = within(&what, user.send(route.method.clone(), &route.path, content_type, Bytes::new())).await;
        let refused = answer.status == StatusCode::UNAUTHORIZED;
        assert_eq!(refused, matches!(route.access, 'a' | 's'), "{what} by a user: {answer:?}");
        assert_sane(&what, &answer);

        let answer = within(&what, admin.send(route.method.clone(), &route.path, content_type, Bytes::new())).await;
        assert_sane(&what, &answer);
        assert_ne!(problem(&answer), "url-not-found", "{what} is not there");
        assert_ne!(answer.status, StatusCode::METHOD_NOT_ALLOWED, "{what}");
        assert_ne!(answer.status, StatusCode::UNAUTHORIZED, "{what}: {answer:?}");
    }
    // What isn't documented isn't there.
    for (method, path, status) in [
        (Method::GET, "/auth/", StatusCode::NOT_FOUND),
        (Method::GET, "/v6/auth", StatusCode::NOT_FOUND),
        (Method::GET, "/folders/a/b/c", StatusCode::NOT_FOUND),
        (Method::DELETE, "/auth", StatusCode::METHOD_NOT_ALLOWED),
        (Method::PUT, "/session", StatusCode::METHOD_NOT_ALLOWED),
    ] {
        let answer = within(path, admin.send(method, path, "application/json", Bytes::new())).await;
        assert_eq!(answer.status, status, "{path}: {answer:?}");
        assert_sane(path, &answer);
    }
}

/// Sends nonsense to every POST route, from several clients at once.
async fn nonsense(database: Database, seed: u64) {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(&database, &dir.path().join("server")).unwrap();
    let mut clients = JoinSet::new();
    for client in 0..4_u64 {
        let caller: Client = server.client(if client == 0 { USER } else { ADMIN });
        clients.spawn(async move {
            let posts: Vec<_> = routes().into_iter().filter(|r| r.method == Method::POST).collect();
            let mut dice = Dice::new(seed.wrapping_mul(31).wrapping_add(client));
            for turn in 0..scale(150, 5_000) {
                let route = dice.pick(&posts);
                let body = dice.body(&route.keys);
                let what = format!("seed {seed}, client {client}, turn {turn}: POST {} {}", route.path, shown(&body));
                let answer = within(&what, caller.send(Method::POST, &route.path, "application/json", body)).await;
                assert_sane(&what, &answer);
            }
        });
    }
    while let Some(done) = clients.join_next().await {
        done.unwrap();
    }
    server.assert_well().await.unwrap();
}

fn shown(body: &Bytes) -> String {
    String::from_utf8_lossy(body).chars().take(2_000).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn nonsense_is_refused_on_sqlite() {
    nonsense(Database::sqlite().unwrap(), 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nonsense_is_refused_on_postgresql() {
    if let Some(database) = Database::postgres().unwrap() {
        nonsense(database, 2).await;
    }
}
