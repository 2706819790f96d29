//! The agent's HTTP server, bound to the node's address inside the node's network namespace.
//!
//! Health, readiness and metrics answer anyone; everything else goes through [`Gate`]. Connections, their heads and their bodies are
//! bounded, so that a stranger on the underlay can at worst make the agent refuse.

use super::{
    api::{self, Backend, Declined},
    auth::{self, Asker, Gate, Message, Refusal},
};
use crate::{
    clock,
    programmed::netns::{Netns, NetnsError},
    supervisor::{Shutdown, TaskResult},
};
use anyhow::Context as _;
use axum::{
    Router,
    body::{Body, Bytes, to_bytes},
    extract::{Request, State},
    http::{HeaderMap, HeaderValue, StatusCode, header},
    middleware::{self, Next},
    response::Response,
    routing::{get, post},
};
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use serde::Serialize;
use std::{
    net::SocketAddr,
    os::fd::AsFd as _,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};
use tokio::{net::TcpListener, sync::Semaphore, task::JoinSet};

/// Connections at one time.
const CONNECTIONS_MAX: usize = 128;
/// Longest body of a request.
const BODY_BYTES_MAX: usize = 1 << 20;
/// How long a client may take over the head of a request.
const HEAD_TIMEOUT: Duration = Duration::from_secs(5);
/// How long one connection may stand, whatever happens on it. Longer than the longest round.
const CONNECTION_TIMEOUT: Duration = Duration::from_secs(150);

/// What the handlers share.
struct Shared<B> {
    backend: Arc<B>,
    gate: Arc<Mutex<Gate>>,
}

impl<B> Clone for Shared<B> {
    fn clone(&self) -> Self {
        Self {
            backend: Arc::clone(&self.backend),
            gate: Arc::clone(&self.gate),
        }
    }
}

/// Opens the listening socket inside the namespace. It stays there whoever uses it.
///
/// # Errors
/// The namespace cannot be entered, or the address is not the node's or taken.
pub fn listen(netns: &Netns, address: SocketAddr) -> Result<std::net::TcpListener, NetnsError> {
    netns.open_in("the agent's listening socket", || {
        let domain = if address.is_ipv4() {
            socket2::Domain::IPV4
        } else {
            socket2::Domain::IPV6
        };
        let socket = socket2::Socket::new(domain, socket2::Type::STREAM, None)?;
        // An agent that was just replaced leaves connections in TIME_WAIT.
        socket.set_reuse_address(true)?;
        // Connections inherit it.
        socket.set_tcp_mss(api::SEGMENT_BYTES)?;
        socket.bind(&address.into())?;
        socket.listen(128)?;
        socket.set_nonblocking(true)?;
        Ok(socket.into())
    })
}

/// Serves until asked to stop, then lets requests under way finish.
///
/// # Errors
/// The listening socket fails.
pub async fn serve<B: Backend>(
    listener: &std::net::TcpListener,
    backend: Arc<B>,
    gate: Arc<Mutex<Gate>>,
    mut shutdown: Shutdown,
) -> TaskResult {
    // A duplicate, so that a restarted task finds the socket still open and no request meets a closed door.
    let listener = std::net::TcpListener::from(listener.as_fd().try_clone_to_owned()?);
    let listener = TcpListener::from_std(listener).context("cannot register the listening socket")?;
    let router = router(backend, gate);
    let room = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let mut connections = JoinSet::new();
    loop {
        let place = tokio::select! {
            place = Arc::clone(&room).acquire_owned() => place?,
            () = shutdown.requested() => break,
        };
        let stream = tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => stream,
                // The peer went away between SYN and accept; the socket itself is well.
                Err(error) if error.kind() == std::io::ErrorKind::ConnectionAborted => continue,
                Err(error) => return Err(error).context("cannot accept connections"),
            },
            () = shutdown.requested() => break,
        };
        while connections.try_join_next().is_some() {}
        let service = TowerToHyperService::new(router.clone());
        let mut stopping = shutdown.clone();
        connections.spawn(async move {
            let _place = place;
            let connection = hyper::server::conn::http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(HEAD_TIMEOUT)
                .serve_connection(TokioIo::new(stream), service);
            let mut connection = std::pin::pin!(connection);
            let ended = tokio::select! {
                ended = connection.as_mut() => ended,
                () = stopping.requested() => {
                    connection.as_mut().graceful_shutdown();
                    connection.await
                }
                () = tokio::time::sleep(CONNECTION_TIMEOUT) => return,
            };
            if let Err(error) = ended {
                tracing::debug!(%error, "a connection broke");
            }
        });
    }
    while connections.join_next().await.is_some() {}
    Ok(())
}

fn router<B: Backend>(backend: Arc<B>, gate: Arc<Mutex<Gate>>) -> Router {
    let shared = Shared { backend, gate };
    let guarded = Router::new()
        .route(api::REPORT, get(report::<B>))
        .route(api::EVIDENCE, get(evidence::<B>))
        .route(api::ROUND, post(round::<B>))
        .route(api::TRACE, post(trace::<B>))
        .route_layer(middleware::from_fn_with_state(shared.clone(), authenticate::<B>));
    Router::new()
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/readyz", get(ready::<B>))
        .route("/readiness", get(forwarding::<B>))
        .route("/metrics", get(metrics::<B>))
        .merge(guarded)
        .with_state(shared)
}

async fn ready<B: Backend>(State(shared): State<Shared<B>>) -> (StatusCode, String) {
    let missing = shared.backend.missing();
    if missing.is_empty() {
        (StatusCode::OK, "ready\n".to_owned())
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, format!("not ready: {}\n", missing.join("; ")))
    }
}

async fn forwarding<B: Backend>(State(shared): State<Shared<B>>) -> (StatusCode, String) {
    match shared.backend.forwarding() {
        Ok(()) => (StatusCode::OK, "forwarding\n".to_owned()),
        Err(why) => (StatusCode::SERVICE_UNAVAILABLE, format!("{why}\n")),
    }
}

async fn metrics<B: Backend>(State(shared): State<Shared<B>>) -> ([(header::HeaderName, &'static str); 1], String) {
    let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    ([(header::CONTENT_TYPE, kind)], shared.backend.metrics())
}

async fn report<B: Backend>(State(shared): State<Shared<B>>) -> Response {
    json(&shared.backend.report())
}

async fn evidence<B: Backend>(State(shared): State<Shared<B>>, request: Request) -> Response {
    let query = request.uri().query().unwrap_or("");
    let ids = query.split('&').find_map(|pair| pair.strip_prefix("probes=")).unwrap_or("");
    match api::read_ids(ids) {
        Ok(ids) => json(&shared.backend.evidence(&ids).await),
        Err(declined) => decline(&declined),
    }
}

async fn round<B: Backend>(State(shared): State<Shared<B>>, body: Bytes) -> Response {
    match serde_json::from_slice(&body) {
        Ok(request) => answer(shared.backend.round(request).await),
        Err(error) => unreadable(&error),
    }
}

async fn trace<B: Backend>(State(shared): State<Shared<B>>, body: Bytes) -> Response {
    match serde_json::from_slice(&body) {
        Ok(request) => answer(shared.backend.trace(request).await),
        Err(error) => unreadable(&error),
    }
}

/// Lets a request pass the gate and signs its answer.
async fn authenticate<B: Backend>(State(shared): State<Shared<B>>, request: Request, next: Next) -> Response {
    let (head, body) = request.into_parts();
    let Ok(body) = to_bytes(body, BODY_BYTES_MAX).await else {
        return plain(StatusCode::PAYLOAD_TOO_LARGE, "the request's body is too long or broke off");
    };
    let header = |name: &str| head.headers.get(name).and_then(|value| value.to_str().ok());
    let message = Message {
        method: head.method.as_str(),
        target: head.uri.path_and_query().map_or("", |target| target.as_str()),
        body: &body,
    };
    let passed = {
        let mut gate = shared.gate.lock().unwrap_or_else(PoisonError::into_inner);
        gate.check(message, header(auth::HEADER_PROTOCOL), header(auth::HEADER_AUTH), clock::unix_now())
    };
    let asker = match passed {
        Ok(asker) => asker,
        Err(refusal) => {
            tracing::debug!(%refusal, path = head.uri.path(), "refused a request");
            return refuse(&refusal);
        }
    };
    shared.backend.heard_from(&asker.version);
    let answer = next.run(Request::from_parts(head, Body::from(body))).await;
    sign(&asker, answer).await
}

async fn sign(asker: &Asker, answer: Response) -> Response {
    let (mut head, body) = answer.into_parts();
    // The body was made in memory by the handlers above.
    let Ok(body) = to_bytes(body, usize::MAX).await else {
        return plain(StatusCode::INTERNAL_SERVER_ERROR, "the answer broke off");
    };
    let mac = auth::sign_answer(&asker.key, &asker.nonce, head.status.as_u16(), &body);
    if let Ok(mac) = HeaderValue::try_from(mac) {
        head.headers.insert(auth::HEADER_AUTH, mac);
    }
    name_ourselves(&mut head.headers);
    Response::from_parts(head, Body::from(body))
}

fn refuse(refusal: &Refusal) -> Response {
    let status = match refusal {
        Refusal::TooMany => StatusCode::TOO_MANY_REQUESTS,
        _ => StatusCode::UNAUTHORIZED,
    };
    plain(status, &format!("refused: {refusal}"))
}

fn plain(status: StatusCode, text: &str) -> Response {
    let mut response = Response::new(Body::from(format!("{text}\n")));
    *response.status_mut() = status;
    name_ourselves(response.headers_mut());
    response
}

fn name_ourselves(headers: &mut HeaderMap) {
    if let Ok(value) = HeaderValue::try_from(auth::protocol_value(env!("CARGO_PKG_VERSION"))) {
        headers.insert(auth::HEADER_PROTOCOL, value);
    }
}

fn answer<T: Serialize>(result: Result<T, Declined>) -> Response {
    match result {
        Ok(value) => json(&value),
        Err(declined) => decline(&declined),
    }
}

fn json(value: &impl Serialize) -> Response {
    match serde_json::to_vec(value) {
        Ok(bytes) => {
            let mut response = Response::new(Body::from(bytes));
            let kind = HeaderValue::from_static("application/json");
            response.headers_mut().insert(header::CONTENT_TYPE, kind);
            response
        }
        Err(error) => decline(&Declined::Failed {
            why: format!("cannot write the answer: {error}"),
        }),
    }
}

fn unreadable(error: &serde_json::Error) -> Response {
    decline(&Declined::Unfit {
        why: format!("the request's body cannot be read: {error}"),
    })
}

fn decline(declined: &Declined) -> Response {
    let status = match declined {
        Declined::NotReady { .. } => StatusCode::SERVICE_UNAVAILABLE,
        Declined::Busy => StatusCode::CONFLICT,
        Declined::Unfit { .. } => StatusCode::UNPROCESSABLE_ENTITY,
        Declined::Failed { .. } => StatusCode::INTERNAL_SERVER_ERROR,
    };
    plain(status, &declined.to_string())
}

#[cfg(test)]
mod tests;
