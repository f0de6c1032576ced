//! Every route of CompreFace's API with every kind of key.

use std::collections::BTreeSet;

use chrono::Utc;
use faceid::http::compreface::ROUTES;
use reqwest::{Client, Method, StatusCode};
use serde_json::json;
use uuid::Uuid;

use crate::compreface::{Caller, failure};
use crate::permissions::{ROLES, may, start};
use crate::support::TestApp;
use crate::support::process::data_dir;

#[tokio::test]
async fn every_route_asks_for_a_key_that_may() {
    let folder = data_dir();
    let (server, keys) = start(folder.path()).await;
    keys.admin(Method::POST, "/galleries", Some(json!({"name": "own"}))).await.expect(StatusCode::CREATED);
    let caller = |key: String| Caller {
        app: TestApp { client: Client::new(), url: server.url.clone(), gallery: String::new() },
        key,
    };
    let (_, expiring) =
        keys.make("enrol", Some(&["own"]), json!({"expires_at": Utc::now() + chrono::Duration::seconds(2)})).await;
    let (revoked_id, revoked) = keys.make("enrol", Some(&["own"]), json!({})).await;
    keys.admin(Method::DELETE, &format!("/admin/keys/{revoked_id}"), None).await.expect(StatusCode::OK);
    let mut by_role = Vec::new();
    for role in ROLES {
        let galleries: Option<&[&str]> = if role == "owner" { None } else { Some(&["own"]) };
        by_role.push((role, caller(keys.make(role, galleries, json!({})).await.1)));
    }
    tokio::time::sleep(std::time::Duration::from_secs(2)).await;
    let mut asked = BTreeSet::new();
    for (needed, method, path) in ROUTES {
        let path = path.replace("{face}", &Uuid::now_v7().to_string()).replace("{subject}", "nobody");
        let method = Method::from_bytes(method.to_uppercase().as_bytes()).unwrap();
        let send = async |caller: &Caller| {
            let path = path.replace("{key}", &caller.key);
            caller.send(method.clone(), &path, None).await
        };
        for (role, caller) in &by_role {
            let answer = send(caller).await;
            let refused = answer.status == 404 && failure(&answer) == (404, 10);
            assert_eq!(
                refused,
                !may(role, role == &"owner", needed.as_str()),
                "{method} {path} {role}: {}",
                answer.text()
            );
        }
        for key in [&expiring, &revoked, &Uuid::new_v4().to_string()] {
            assert_eq!(failure(&send(&caller(key.clone())).await), (404, 10), "{method} {path}");
        }
        if !path.contains("{key}") {
            assert_eq!(failure(&send(&caller(String::new())).await), (400, 26), "{method} {path}");
            assert_eq!(failure(&send(&caller("short".to_owned())).await), (400, 26), "{method} {path}");
            let nothing = by_role[0].1.app.request(method.clone(), &format!("/api/v1{path}"));
            assert_eq!(failure(&by_role[0].1.app.send(nothing).await), (400, 20), "{method} {path}");
        }
        asked.insert(format!("{method} {path}"));
    }
    assert!(asked.len() >= 19, "{}", asked.len());
}
