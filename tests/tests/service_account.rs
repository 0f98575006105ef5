//! Agents that enrol by their pods' tokens: the collector asks a stand-in for an API server (it is none, and says what it is
//! told to) whose a token is.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a failed step is a failed test, also in the helpers")]

use std::time::{Duration, Instant};

use dogwatch::record::NodeName;
use dogwatch_collector::admit::accounts::{AccountError, Accounts};
use dogwatch_collector::cluster::Cluster;
use dogwatch_e2e::api_server::{Answer, ApiServer, review_of};
use dogwatch_e2e::programs;
use dogwatch_e2e::stage::Stage;
use dogwatch_e2e::wait::until;
use serde_json::json;

const TOKEN: &str = "aGVhZA.Ym9keQ.c2ln";
/// For an agent that is turned away: it comes back after up to a minute.
const PATIENCE: Duration = Duration::from_secs(150);

async fn accounts(kubeconfig: std::path::PathBuf) -> Accounts {
    let cluster = Cluster::open(Some(&kubeconfig)).await.unwrap();
    let account = "dogwatch/dogwatch-agent".parse().unwrap();
    Accounts::new(Box::new(cluster), "dogwatch".to_owned(), account)
}

fn worker() -> NodeName {
    "worker-1".parse().unwrap()
}

fn unavailable(outcome: Result<String, AccountError>, says: &str) {
    match outcome {
        Err(AccountError::Unavailable(e)) => assert!(e.to_string().contains(says), "{says}: {e}"),
        other => panic!("{says}: {other:?}"),
    }
}

fn refused(outcome: Result<String, AccountError>, says: &str) {
    match outcome {
        Err(AccountError::Refused(e)) => assert!(e.to_string().contains(says), "{says}: {e}"),
        other => panic!("{says}: {other:?}"),
    }
}

#[tokio::test]
async fn the_api_is_asked_as_it_documents_and_its_answer_is_judged() {
    let folder = tempfile::tempdir().unwrap();
    let api = ApiServer::start(review_of(Some("worker-1")));
    let accounts = accounts(api.kubeconfig(folder.path(), None)).await;
    let by = accounts.admit(TOKEN, &worker()).await.unwrap();
    assert_eq!(by, "service account dogwatch/dogwatch-agent, pod dogwatch-agent-7x2");
    let asked = api.asked();
    assert_eq!(asked.len(), 1);
    assert!(asked[0].line.starts_with("POST /apis/authentication.k8s.io/v1/tokenreviews"), "{asked:?}");
    assert_eq!(asked[0].bearer, "collectors-own");
    assert_eq!(asked[0].body["kind"], "TokenReview");
    assert_eq!(asked[0].body["spec"], json!({ "audiences": ["dogwatch"], "token": TOKEN }));

    api.answer(review_of(Some("worker-2")));
    refused(accounts.admit(TOKEN, &worker()).await, "bound to node worker-2");
    api.answer(review_of(None));
    refused(accounts.admit(TOKEN, &worker()).await, "since Kubernetes 1.32");
    let status = json!({ "authenticated": false, "error": "[invalid bearer token, token lookup failed]" });
    api.answer(Answer::Says(201, json!({ "metadata": {}, "spec": {}, "status": status }).to_string()));
    refused(accounts.admit(TOKEN, &worker()).await, "token lookup failed");
    let status = json!({
        "authenticated": true, "audiences": ["https://kubernetes.default.svc"],
        "user": { "username": "system:serviceaccount:dogwatch:dogwatch-agent" }
    });
    api.answer(Answer::Says(201, json!({ "metadata": {}, "spec": {}, "status": status }).to_string()));
    refused(accounts.admit(TOKEN, &worker()).await, "not for the audience dogwatch");
}

#[tokio::test]
async fn an_api_that_cannot_say_is_no_refusal() {
    let folder = tempfile::tempdir().unwrap();
    let api = ApiServer::start(review_of(Some("worker-1")));
    let kubeconfig = api.kubeconfig(folder.path(), None);
    let hurried = accounts(kubeconfig.clone()).await.with_wait(Duration::from_secs(2));
    let accounts = accounts(kubeconfig).await.with_wait(Duration::from_secs(60));
    let status = |code: u16, message: &str| {
        let body = json!({ "kind": "Status", "apiVersion": "v1", "status": "Failure", "message": message, "code": code });
        Answer::Says(code, body.to_string())
    };
    for (answer, says) in [
        (status(403, "tokenreviews.authentication.k8s.io is forbidden"), "ClusterRole dogwatch-collector"),
        (status(401, "Unauthorized"), "own token"),
        (status(500, "etcdserver: request timed out"), "request timed out"),
        (status(429, "too many requests"), "answers 429"),
        (Answer::Says(502, "<html>bad gateway</html>".to_owned()), "502"),
        (Answer::Says(201, "{\"spec\":".to_owned()), "cannot be understood"),
        (
            Answer::Says(
                201,
                "{\"metadata\":{},\"spec\":{},\"status\":{\"authenticated\":\"yes\"}}".to_owned(),
            ),
            "cannot be understood",
        ),
        (Answer::Says(201, "{\"metadata\":{},\"spec\":{}}".to_owned()), "no status"),
        (Answer::Says(200, String::new()), "cannot be understood"),
    ] {
        api.answer(answer);
        unavailable(accounts.admit(TOKEN, &worker()).await, says);
    }
    api.answer(Answer::Silence);
    let began = Instant::now();
    unavailable(hurried.admit(TOKEN, &worker()).await, "did not answer within 2 s");
    assert!(began.elapsed() < Duration::from_secs(60), "{:?}", began.elapsed());
    api.answer(review_of(Some("worker-1")));
    accounts.admit(TOKEN, &worker()).await.unwrap();
}

#[tokio::test]
async fn an_api_that_is_away_or_somebody_else_gets_no_token() {
    let folder = tempfile::tempdir().unwrap();
    let (api, stranger) = (ApiServer::start(review_of(Some("worker-1"))), ApiServer::start(Answer::Silence));
    let accounts_of_stranger = accounts(api.kubeconfig(folder.path(), Some(&stranger))).await;
    unavailable(accounts_of_stranger.admit(TOKEN, &worker()).await, "cannot be asked");
    assert!(api.asked().is_empty(), "it was believed by another's certificate");
    let gone = api.kubeconfig(folder.path(), None);
    drop(api);
    unavailable(accounts(gone).await.admit(TOKEN, &worker()).await, "cannot be asked");
    let missing = folder.path().join("missing");
    let error = Cluster::open(Some(&missing)).await.unwrap_err().to_string();
    assert!(error.contains("missing") && error.contains("cluster.kubeconfig"), "{error}");
}

#[test]
fn an_agent_is_let_in_by_its_pods_token_once_the_api_answers() {
    let stage = Stage::new(programs!());
    let api = ApiServer::start(Answer::Says(500, "{}".to_owned()));
    let kubeconfig = api.kubeconfig(stage.path(), None);
    let more = format!("cluster: {{ token_review: true, kubeconfig: \"{}\" }}", kubeconfig.display());
    let mut house = stage.house(&stage.path().join("collector"), &more);
    house.start();
    let ca = house.verb(&["ca"]);
    assert!(ca.status.success(), "{ca:?}");
    let (ca_file, token_file) = (stage.path().join("ca.crt"), stage.path().join("token"));
    std::fs::write(&ca_file, &ca.stdout).unwrap();
    std::fs::write(&token_file, format!("{TOKEN}\n")).unwrap();
    let uplink = format!(
        "uplink: {{ collector: \"{}\", service_account_token_file: \"{}\", collector_ca_file: \"{}\" }}\n\
         tail: {{ enabled: false }}\ncleanup: {{ mode: off, roots: [] }}\n",
        house.address(),
        token_file.display(),
        ca_file.display()
    );
    let mut post = stage.post("worker-1", &stage.path().join("agent"), None, &uplink);
    post.start();
    until("the API was asked", PATIENCE, || (!api.asked().is_empty()).then_some(()));
    assert!(
        !stage.path().join("agent/identity/credentials.json").exists(),
        "let in without a word of the API"
    );
    // Bound to another node: refused, and that is a finding.
    api.answer(review_of(Some("worker-2")));
    let person = house.person("alice", "viewer");
    until("the refusal is a finding", PATIENCE, || {
        let told = person.json(&["get", "findings"]).to_string();
        told.contains("refused-service-account").then_some(())
    });
    api.answer(review_of(Some("worker-1")));
    until("the node is in", PATIENCE, || {
        let nodes = person.json(&["get", "nodes", "--cached"]);
        nodes.as_array()?.iter().any(|n| n["name"] == "worker-1").then_some(())
    });
    assert!(stage.path().join("agent/identity/credentials.json").exists());
    let asked = api.asked();
    assert!(asked.iter().all(|a| a.body["spec"]["token"] == TOKEN), "{asked:?}");
}
