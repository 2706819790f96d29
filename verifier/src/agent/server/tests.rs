//! The server and the client over real sockets on loopback. The backend is a stand-in: what an agent answers is tested elsewhere, here only
//! who gets an answer.

use super::*;
use crate::{
    agent::{
        api::{ReportAnswer, RoundRequest, TraceAnswer, TraceRequest},
        client::{AskError, Client},
        keys::{HttpKey, Keyring},
    },
    supervisor::Supervisor,
};
use std::collections::BTreeSet;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use verifier_core::{
    evidence::Evidence,
    names::UnixNs,
    verdict::{NodeSnapshot, PeerContact, RemoteEvidence},
};

struct StandIn {
    missing: Vec<String>,
}

impl Backend for StandIn {
    fn missing(&self) -> Vec<String> {
        self.missing.clone()
    }
    fn forwarding(&self) -> Result<(), String> {
        match self.missing.first() {
            None => Ok(()),
            Some(what) => Err(format!("False: route-missing: {what}")),
        }
    }
    fn metrics(&self) -> String {
        "# EOF\n".to_owned()
    }
    fn report(&self) -> ReportAnswer {
        ReportAnswer {
            agent_started_at: UnixNs(7),
            report: Evidence::unavailable("agent/report", "none yet"),
        }
    }
    async fn evidence(&self, probes: &BTreeSet<u32>) -> RemoteEvidence {
        RemoteEvidence {
            hops: Evidence::unavailable("observed/hops", format!("{probes:?}")),
            drops: Evidence::complete(Vec::new()),
            taps: std::collections::BTreeMap::new(),
            taps_since: Default::default(),
            agent_started_at: UnixNs(7),
        }
    }
    async fn round(&self, _: RoundRequest) -> Result<NodeSnapshot, Declined> {
        Err(Declined::Busy)
    }
    async fn trace(&self, request: TraceRequest) -> Result<TraceAnswer, Declined> {
        Err(Declined::Unfit {
            why: format!("{} is not mine", request.to),
        })
    }
    fn heard_from(&self, _: &str) {}
}

struct Running {
    supervisor: Supervisor,
    address: SocketAddr,
}

fn key() -> HttpKey {
    Keyring::from_secret([1; 32]).signing()
}

fn client(key: HttpKey) -> Client {
    Client::new(key, Arc::new(Netns::current().unwrap()))
}

fn start(missing: &[&str]) -> Running {
    let listener = Arc::new(listen(&Netns::current().unwrap(), "127.0.0.1:0".parse().unwrap()).unwrap());
    let address = listener.local_addr().unwrap();
    let backend = Arc::new(StandIn {
        missing: missing.iter().map(ToString::to_string).collect(),
    });
    let gate = Arc::new(Mutex::new(Gate::new(Keyring::from_secret([1; 32]), UnixNs(0))));
    let mut supervisor = Supervisor::new();
    supervisor.spawn("http", move |shutdown| {
        let (listener, backend, gate) = (Arc::clone(&listener), Arc::clone(&backend), Arc::clone(&gate));
        async move { serve(&listener, backend, gate, shutdown).await }
    });
    Running { supervisor, address }
}

const PATIENCE: Duration = Duration::from_secs(5);

async fn raw(address: SocketAddr, request: &str) -> String {
    let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).await.unwrap();
    text
}

#[tokio::test]
async fn a_client_with_the_key_is_answered_and_learns_the_version() {
    let running = start(&[]);
    let answer = client(key())
        .get::<ReportAnswer>(running.address, api::REPORT, PATIENCE)
        .await
        .unwrap();
    assert_eq!(answer.value.agent_started_at, UnixNs(7));
    assert_eq!(answer.version, env!("CARGO_PKG_VERSION"));
    let target = format!("{}?probes=1,ff", api::EVIDENCE);
    let answer = client(key())
        .get::<RemoteEvidence>(running.address, &target, PATIENCE)
        .await
        .unwrap();
    assert!(answer.value.hops.gaps()[0].why.contains("255"));
    running.supervisor.drain(PATIENCE).await.unwrap();
}

#[tokio::test]
async fn a_client_with_another_key_is_refused_in_one_line() {
    let running = start(&[]);
    let stranger = client(Keyring::from_secret([2; 32]).signing());
    let error = stranger
        .get::<ReportAnswer>(running.address, api::REPORT, PATIENCE)
        .await
        .unwrap_err();
    assert!(matches!(error, AskError::Refused { status: 401, .. }), "{error}");
    assert!(error.to_string().contains("same key file") && !error.to_string().contains('\n'));
    assert!(matches!(error.contact(UnixNs(0)), PeerContact::Refused { .. }));
}

#[tokio::test]
async fn a_client_without_a_key_learns_only_health_readiness_and_metrics() {
    let running = start(&["the first dump of links"]);
    for path in [api::REPORT, api::EVIDENCE] {
        let answer = raw(
            running.address,
            &format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n"),
        )
        .await;
        assert!(answer.starts_with("HTTP/1.1 401"), "{answer}");
        assert!(answer.contains("--key-file"), "{answer}");
    }
    for (path, status) in [("/healthz", 200), ("/readyz", 503), ("/metrics", 200), ("/v1/nothing", 404)] {
        let answer = raw(
            running.address,
            &format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n"),
        )
        .await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {status}")), "{path}: {answer}");
    }
    let ready = raw(running.address, "GET /readyz HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").await;
    assert!(ready.contains("the first dump of links"), "{ready}");
}

#[tokio::test]
async fn another_version_is_named() {
    let running = start(&[]);
    let request = format!(
        "GET {} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n{}: 9 4.0.0\r\n{}: new=1\r\n\r\n",
        api::REPORT,
        auth::HEADER_PROTOCOL,
        auth::HEADER_AUTH
    );
    let answer = raw(running.address, &request).await;
    assert!(answer.contains("speaks protocol 9 (program version 4.0.0)"), "{answer}");
}

#[tokio::test]
async fn a_server_of_another_version_is_named_too() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let other = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut head = [0; 4096];
        let _ = stream.read(&mut head).await.unwrap();
        let answer = format!(
            "HTTP/1.1 401 Unauthorized\r\n{}: 3 2.0.0\r\ncontent-length: 0\r\n\r\n",
            auth::HEADER_PROTOCOL
        );
        stream.write_all(answer.as_bytes()).await.unwrap();
    });
    let error = client(key()).get::<ReportAnswer>(address, api::REPORT, PATIENCE).await.unwrap_err();
    assert!(error.to_string().contains("protocol 3 (program version 2.0.0)"), "{error}");
    other.await.unwrap();
}

#[tokio::test]
async fn what_an_agent_declines_arrives_with_its_reason() {
    let running = start(&[]);
    let busy = client(key())
        .post::<NodeSnapshot>(running.address, api::ROUND, &RoundRequest::default(), PATIENCE)
        .await
        .unwrap_err();
    assert!(matches!(busy, AskError::Refused { status: 409, .. }), "{busy}");
    let nonsense = client(key())
        .post::<NodeSnapshot>(running.address, api::ROUND, &"x", PATIENCE)
        .await
        .unwrap_err();
    assert!(matches!(nonsense, AskError::Refused { status: 422, .. }), "{nonsense}");
}

#[tokio::test]
async fn nobody_there_is_told_from_silence() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let free = listener.local_addr().unwrap();
    drop(listener);
    let error = client(key()).get::<ReportAnswer>(free, api::REPORT, PATIENCE).await.unwrap_err();
    assert_eq!(error.contact(UnixNs(3)), PeerContact::NoAgent);
    let mute = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let error = client(key())
        .get::<ReportAnswer>(mute.local_addr().unwrap(), api::REPORT, Duration::from_millis(200))
        .await
        .unwrap_err();
    assert_eq!(error.contact(UnixNs(3)), PeerContact::Silent { since: UnixNs(3) });
}

#[tokio::test]
async fn a_stopping_server_finishes_what_it_began_and_ends() {
    let running = start(&[]);
    // A client that connects and says nothing must not hold the server up.
    let _idle = tokio::net::TcpStream::connect(running.address).await.unwrap();
    client(key())
        .get::<ReportAnswer>(running.address, api::REPORT, PATIENCE)
        .await
        .unwrap();
    running.supervisor.drain(Duration::from_secs(7)).await.unwrap();
}

#[tokio::test]
async fn readiness_is_whether_the_node_forwards() {
    let get = |path: &str| format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
    let running = start(&[]);
    let well = raw(running.address, &get("/readiness")).await;
    assert!(well.starts_with("HTTP/1.1 200") && well.contains("forwarding"), "{well}");
    running.supervisor.drain(PATIENCE).await.unwrap();
    let running = start(&["no routes"]);
    let bad = raw(running.address, &get("/readiness")).await;
    assert!(bad.starts_with("HTTP/1.1 503") && bad.contains("route-missing"), "{bad}");
    running.supervisor.drain(PATIENCE).await.unwrap();
}
