//! Asking an agent, from inside a node's network namespace, with a deadline.
//!
//! How it fails is evidence: a refused connection shows that the underlay reaches the host, silence shows nothing, and a refusal names its
//! reason. One connection per request: requests are rare, and a connection that outlived a fault would prove nothing about now.

use super::{
    api::SEGMENT_BYTES,
    auth::{self, Message, Refusal},
    keys::{HttpKey, random},
};
use crate::{clock, programmed::netns::Netns};
use bytes::Bytes;
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::{Method, Request, header, http};
use hyper_util::rt::TokioIo;
use serde::{Serialize, de::DeserializeOwned};
use std::{io, net::SocketAddr, sync::Arc, time::Duration};
use tokio::net::{TcpSocket, TcpStream};
use verifier_core::{names::UnixNs, verdict::PeerContact};

/// Longest answer that is read: a snapshot of a large node.
const ANSWER_BYTES_MAX: usize = 256 << 20;
/// How long a connection may take. Longer than one lost SYN (1 s), shorter than any deadline.
const CONNECT_TIMEOUT: Duration = Duration::from_millis(2500);

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum AskError {
    /// Connection refused.
    #[error("nobody listens at {address}: is the agent running there?")]
    NoAgent {
        /// Where.
        address: SocketAddr,
    },
    /// The agent refused the request, or it refused to do it.
    #[error("the agent at {address} refused ({status}): {why}")]
    Refused {
        /// Where.
        address: SocketAddr,
        /// HTTP status.
        status: u16,
        /// Its words.
        why: String,
    },
    /// What answered cannot be trusted or understood.
    #[error("what answers at {address} is not an agent of this version with our key: {refusal}")]
    NotOurs {
        /// Where.
        address: SocketAddr,
        /// Why.
        refusal: Refusal,
    },
    /// Nothing came.
    #[error("no answer from {address} within {} ms", waited.as_millis())]
    Silent {
        /// Where.
        address: SocketAddr,
        /// How long it was waited.
        waited: Duration,
    },
    /// The way there failed.
    #[error("cannot reach {address}")]
    Unreachable {
        /// Where.
        address: SocketAddr,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The connection broke.
    #[error("the connection to {address} broke")]
    Broken {
        /// Where.
        address: SocketAddr,
        /// Why.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The request or its answer is not what it should be: a fault of one of the programs.
    #[error("cannot understand what {address} said: {why}")]
    Malformed {
        /// Where.
        address: SocketAddr,
        /// What is wrong.
        why: String,
    },
    /// A fault on this side.
    #[error("cannot ask {address}")]
    Own {
        /// Whom.
        address: SocketAddr,
        /// Why.
        #[source]
        source: io::Error,
    },
}

impl AskError {
    /// What it says about contact with the peer. `since` is when the silence began, as far as known.
    pub fn contact(&self, since: UnixNs) -> PeerContact {
        match self {
            Self::NoAgent { .. } => PeerContact::NoAgent,
            Self::Refused { why, .. } => PeerContact::Refused { why: why.clone() },
            Self::NotOurs { refusal, .. } => PeerContact::Refused { why: refusal.to_string() },
            Self::Malformed { why, .. } => PeerContact::Refused { why: why.clone() },
            Self::Silent { .. } | Self::Unreachable { .. } | Self::Broken { .. } => PeerContact::Silent { since },
            Self::Own { .. } => PeerContact::NotAsked,
        }
    }
}

/// An answer with who gave it.
#[derive(Debug)]
pub struct Answer<T> {
    /// The answer.
    pub value: T,
    /// Program version of the agent.
    pub version: String,
}

/// Asks agents.
#[derive(Clone, Debug)]
pub struct Client {
    key: HttpKey,
    netns: Arc<Netns>,
}

impl Client {
    /// A client with this key that connects from this namespace.
    pub const fn new(key: HttpKey, netns: Arc<Netns>) -> Self {
        Self { key, netns }
    }

    /// Signs with this key from now on.
    pub fn set_key(&mut self, key: HttpKey) {
        self.key = key;
    }

    /// `GET target`.
    ///
    /// # Errors
    /// There is no answer that can be trusted and understood within `patience`.
    pub async fn get<T: DeserializeOwned>(&self, address: SocketAddr, target: &str, patience: Duration) -> Result<Answer<T>, AskError> {
        self.ask(address, Method::GET, target, Bytes::new(), patience).await
    }

    /// `POST target`.
    ///
    /// # Errors
    /// There is no answer that can be trusted and understood within `patience`.
    pub async fn post<T: DeserializeOwned>(
        &self,
        address: SocketAddr,
        target: &str,
        body: &(impl Serialize + Sync),
        patience: Duration,
    ) -> Result<Answer<T>, AskError> {
        let body = serde_json::to_vec(body).map_err(|error| AskError::Malformed {
            address,
            why: error.to_string(),
        })?;
        self.ask(address, Method::POST, target, body.into(), patience).await
    }

    async fn ask<T: DeserializeOwned>(
        &self,
        address: SocketAddr,
        method: Method,
        target: &str,
        body: Bytes,
        patience: Duration,
    ) -> Result<Answer<T>, AskError> {
        let silent = |waited| AskError::Silent { address, waited };
        let exchange = async {
            let stream = match tokio::time::timeout(CONNECT_TIMEOUT.min(patience), self.connect(address)).await {
                Ok(connected) => connected?,
                Err(_) => return Err(silent(CONNECT_TIMEOUT.min(patience))),
            };
            self.exchange(stream, address, method, target, body).await
        };
        match tokio::time::timeout(patience, exchange).await {
            Ok(result) => result,
            Err(_) => Err(silent(patience)),
        }
    }

    async fn connect(&self, address: SocketAddr) -> Result<TcpStream, AskError> {
        let own = |source| AskError::Own { address, source };
        let netns = Arc::clone(&self.netns);
        let domain = if address.is_ipv4() {
            socket2::Domain::IPV4
        } else {
            socket2::Domain::IPV6
        };
        // The visit to the namespace waits for a thread: not on a thread of the runtime.
        let made = tokio::task::spawn_blocking(move || netns.socket_in(domain, socket2::Type::STREAM, None)).await;
        let socket = made
            .map_err(|error| own(io::Error::other(error)))?
            .map_err(|error| own(io::Error::other(error)))?;
        socket.set_nonblocking(true).map_err(own)?;
        socket.set_tcp_mss(SEGMENT_BYTES).map_err(own)?;
        let stream = TcpSocket::from_std_stream(socket.into())
            .connect(address)
            .await
            .map_err(|source| match source.kind() {
                io::ErrorKind::ConnectionRefused => AskError::NoAgent { address },
                _ => AskError::Unreachable { address, source },
            })?;
        stream.set_nodelay(true).map_err(own)?;
        Ok(stream)
    }

    async fn exchange<T: DeserializeOwned>(
        &self,
        stream: TcpStream,
        address: SocketAddr,
        method: Method,
        target: &str,
        body: Bytes,
    ) -> Result<Answer<T>, AskError> {
        let broken = |source: hyper::Error| AskError::Broken {
            address,
            source: source.into(),
        };
        let malformed = |why: String| AskError::Malformed { address, why };
        let nonce = random().map_err(|source| AskError::Own { address, source })?;
        let message = Message {
            method: method.as_str(),
            target,
            body: &body,
        };
        let credentials = auth::sign(&self.key, env!("CARGO_PKG_VERSION"), message, clock::unix_now(), &nonce);
        let request = Request::builder()
            .method(method)
            .uri(target)
            .header(header::HOST, address.to_string())
            .header(header::CONTENT_TYPE, "application/json")
            .header(auth::HEADER_PROTOCOL, credentials.protocol)
            .header(auth::HEADER_AUTH, credentials.auth)
            .body(Full::new(body))
            .map_err(|error| malformed(error.to_string()))?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(broken)?;
        // Both halves are driven together, so that nothing is left running when this future is dropped.
        let answer = async {
            let answer = sender.send_request(request).await.map_err(broken)?;
            let (head, body) = answer.into_parts();
            let body = Limited::new(body, ANSWER_BYTES_MAX)
                .collect()
                .await
                .map_err(|source| AskError::Broken { address, source })?;
            Ok::<_, AskError>((head, body.to_bytes()))
        };
        let mut answer = std::pin::pin!(answer);
        let (head, body) = tokio::select! {
            biased;
            answer = answer.as_mut() => answer?,
            ended = connection => {
                ended.map_err(broken)?;
                // Closed by the peer in good order: what it sent before is still to be read.
                answer.await?
            }
        };
        self.read(address, &nonce, &head, &body)
    }

    fn read<T: DeserializeOwned>(
        &self,
        address: SocketAddr,
        nonce: &auth::Nonce,
        head: &http::response::Parts,
        body: &[u8],
    ) -> Result<Answer<T>, AskError> {
        let not_ours = |refusal| AskError::NotOurs { address, refusal };
        let text = |name: &str| head.headers.get(name).and_then(|value| value.to_str().ok());
        let status = head.status.as_u16();
        let refused = || AskError::Refused {
            address,
            status,
            why: String::from_utf8_lossy(&body[..body.len().min(500)]).trim().to_owned(),
        };
        let version = match auth::check_protocol(text(auth::HEADER_PROTOCOL)) {
            Ok(version) => version,
            Err(refusal) => return Err(not_ours(refusal)),
        };
        // A refusal for want of a common key cannot be signed with one. It can only make the peer unknown, never failed.
        if status == 401 && text(auth::HEADER_AUTH).is_none() {
            return Err(refused());
        }
        auth::check_answer(&self.key, nonce, status, body, text(auth::HEADER_AUTH)).map_err(not_ours)?;
        if !head.status.is_success() {
            return Err(refused());
        }
        let value = serde_json::from_slice(body).map_err(|error| AskError::Malformed {
            address,
            why: error.to_string(),
        })?;
        Ok(Answer { value, version })
    }
}
