//! The kubelet of every node, as far as reading logs asks for one: the API server fetches a container's log from its node over TLS, by
//! `/containerLogs/NAMESPACE/POD/CONTAINER`, with what `kubectl logs` was given as the query.
//!
//! It plays the kubelet's part as Kubernetes documents it: the log of now or, with `previous=true`, of the container before; the last
//! `tailLines` lines; a time before each line only where `timestamps=true`; 400 where there is no container of that kind.

use std::{
    collections::BTreeMap,
    net::Ipv4Addr,
    sync::{Arc, Mutex, PoisonError},
};

use anyhow::{Context, Result};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
};
use tokio_rustls::{
    TlsAcceptor,
    rustls::{ServerConfig, crypto::ring, pki_types::PrivateKeyDer},
};

use super::ApiServer;

/// More than any request of the API server has.
const REQUEST_BYTES_MAX: usize = 64 << 10;

/// What it serves, and what it was asked.
#[derive(Debug, Default)]
struct Shared {
    logs: BTreeMap<String, String>,
    asked: Vec<String>,
}

/// A kubelet on loopback, gone with the API server's runtime.
#[derive(Debug)]
pub struct Kubelet {
    port: u16,
    shared: Arc<Mutex<Shared>>,
}

impl Kubelet {
    /// Starts it beside an API server.
    ///
    /// # Errors
    /// No certificate can be made, or no port is free.
    pub fn start(server: &ApiServer) -> Result<Self> {
        // The API server was given no authority for kubelets, so it takes any certificate, as kubeadm's does.
        let made = rcgen::generate_simple_self_signed(vec!["127.0.0.1".to_owned()]).context("the kubelet's certificate")?;
        let key = PrivateKeyDer::try_from(made.signing_key.serialize_der()).map_err(|why| anyhow::anyhow!("the kubelet's key: {why}"))?;
        let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .context("TLS versions")?
            .with_no_client_auth()
            .with_single_cert(vec![made.cert.der().clone()], key)
            .context("the kubelet's TLS")?;
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let listener = server
            .block_on(TcpListener::bind((Ipv4Addr::LOCALHOST, 0)))
            .context("the kubelet's port")?;
        let port = listener.local_addr().context("the kubelet's address")?.port();
        let shared = Arc::new(Mutex::new(Shared::default()));
        let of_task = Arc::clone(&shared);
        server.handle().spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (acceptor, shared) = (acceptor.clone(), Arc::clone(&of_task));
                // One that breaks off is the API server's to report.
                tokio::spawn(async move { drop(serve(acceptor, stream, &shared).await) });
            }
        });
        Ok(Self { port, shared })
    }

    /// Makes a Node one whose kubelet this is.
    pub fn adopt(&self, node: &mut Value) {
        let status = &mut node["status"];
        if let Some(addresses) = status["addresses"].as_array_mut() {
            // The API server prefers a host name; the address of the node stays what Calico and triage go by.
            addresses.insert(0, json!({ "type": "Hostname", "address": "127.0.0.1" }));
        }
        status["daemonEndpoints"] = json!({ "kubeletEndpoint": { "Port": self.port } });
    }

    /// Lets a container have a log: lines that begin with the time at which they were taken. `previous`: that of the container before.
    pub fn put(&self, pod: &str, container: &str, previous: bool, lines: &str) {
        self.locked()
            .logs
            .insert(key(&format!("{pod}/{container}"), previous), lines.to_owned());
    }

    /// What was asked, path and query, in order.
    #[must_use]
    pub fn asked(&self) -> Vec<String> {
        self.locked().asked.clone()
    }

    fn locked(&self) -> std::sync::MutexGuard<'_, Shared> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn key(path: &str, previous: bool) -> String {
    format!("{path}{}", if previous { "?previous" } else { "" })
}

async fn serve(acceptor: TlsAcceptor, stream: TcpStream, shared: &Mutex<Shared>) -> Result<()> {
    let mut stream = acceptor.accept(stream).await.context("TLS")?;
    let mut request = Vec::new();
    let mut buffer = [0; 4096];
    while !request.windows(4).any(|end| end == b"\r\n\r\n") && request.len() < REQUEST_BYTES_MAX {
        match stream.read(&mut buffer).await.context("reading")? {
            0 => return Ok(()),
            read => request.extend_from_slice(&buffer[..read]),
        }
    }
    let text = String::from_utf8_lossy(&request);
    let target = text.split(' ').nth(1).unwrap_or_default().to_owned();
    let (status, body) = answer(&target, shared);
    let head = format!(
        "HTTP/1.1 {status}\r\nContent-Type: text/plain\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes()).await.context("writing")?;
    stream.write_all(body.as_bytes()).await.context("writing")?;
    stream.shutdown().await.context("closing")
}

fn answer(target: &str, shared: &Mutex<Shared>) -> (&'static str, String) {
    let mut shared = shared.lock().unwrap_or_else(PoisonError::into_inner);
    shared.asked.push(target.to_owned());
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let value = |name: &str| query.split('&').filter_map(|pair| pair.split_once('=')).find(|(n, _)| *n == name);
    let is = |name: &str| value(name).is_some_and(|(_, v)| v == "true");
    let Some(path) = path.strip_prefix("/containerLogs/") else {
        return ("404 Not Found", "no such page\n".to_owned());
    };
    let Some(lines) = shared.logs.get(&key(path, is("previous"))) else {
        let which = if is("previous") {
            "previous terminated container"
        } else {
            "container"
        };
        return ("400 Bad Request", format!("{which} of {path} not found\n"));
    };
    let all: Vec<&str> = lines.lines().collect();
    let tail = value("tailLines").and_then(|(_, n)| n.parse().ok()).unwrap_or(all.len());
    let some = all.get(all.len().saturating_sub(tail)..).unwrap_or_default();
    let bare = |line: &&str| line.split_once(' ').map_or("", |(_, rest)| rest).to_owned();
    let said: Vec<String> = match is("timestamps") {
        true => some.iter().map(|line| (*line).to_owned()).collect(),
        false => some.iter().map(bare).collect(),
    };
    ("200 OK", said.iter().map(|line| format!("{line}\n")).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_answers_as_a_kubelet_does() {
        let shared = Mutex::new(Shared::default());
        let put = |key: &str, lines: &str| shared.lock().unwrap().logs.insert(key.to_owned(), lines.to_owned());
        put("ns/pod/c", "2026-01-01T00:00:00Z one\n2026-01-01T00:00:01Z two\n");
        put("ns/pod/c?previous", "2026-01-01T00:00:00Z before\n");
        let ask = |query: &str| answer(&format!("/containerLogs/ns/pod/c?{query}"), &shared);
        assert_eq!(ask("tailLines=1&timestamps=true").1, "2026-01-01T00:00:01Z two\n");
        assert_eq!(ask("").1, "one\ntwo\n");
        assert_eq!(ask("previous=true").1, "before\n");
        assert_eq!(answer("/containerLogs/ns/pod/d", &shared).0, "400 Bad Request");
        assert_eq!(answer("/pods", &shared).0, "404 Not Found");
        assert_eq!(shared.lock().unwrap().asked.len(), 5);
    }
}
