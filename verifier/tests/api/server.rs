//! As much of an API server as reading logs and gathering asks for: fixed answers by path, over plain HTTP on loopback. A fake: it proves
//! what the commands make of answers, not that a server gives them. It needs no server, so these tests run everywhere, and it can answer
//! what a real one answers rarely (403 for one container, times in the future).
//!
//! What it answers is anchored against a real API server by `tests/tests/apiserver/triage.rs`: the lists
//! (`every_case_of_the_runbook`), logs of now and before by `pods/log` (`logs_come_through_the_api_server_from_the_kubelet`), refusals
//! (`what_an_account_may_not_read_is_named`).

use std::{
    collections::BTreeMap,
    io::{BufRead as _, BufReader, Write as _},
    net::{TcpListener, TcpStream},
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
    thread,
};

/// Status, content type, body.
pub type Answer = (u16, &'static str, Vec<u8>);

/// A server that answers until the test ends.
pub struct Server {
    address: std::net::SocketAddr,
    asked: Arc<Mutex<Vec<String>>>,
}

impl Server {
    /// Answers by what a request's target begins with, the longest first; anything else is not found.
    pub fn start(answers: BTreeMap<String, Answer>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let asked = Arc::new(Mutex::new(Vec::new()));
        let (answers, log) = (Arc::new(answers), Arc::clone(&asked));
        thread::spawn(move || {
            for stream in listener.incoming() {
                let (answers, log) = (Arc::clone(&answers), Arc::clone(&log));
                thread::spawn(move || serve(stream.unwrap(), &answers, &log));
            }
        });
        Self { address, asked }
    }

    /// What was asked for, in order.
    pub fn asked(&self) -> Vec<String> {
        self.asked.lock().unwrap().clone()
    }

    /// A kubeconfig for it.
    pub fn kubeconfig(&self, directory: &Path) -> PathBuf {
        let path = directory.join("kubeconfig");
        let text = format!(
            "apiVersion: v1\nkind: Config\nclusters: [{{name: c, cluster: {{server: \"http://{}\"}}}}]\ncontexts: [{{name: c, context: {{cluster: c, user: u}}}}]\ncurrent-context: c\nusers: [{{name: u, user: {{}}}}]\n",
            self.address
        );
        std::fs::write(&path, text).unwrap();
        path
    }
}

fn serve(stream: TcpStream, answers: &BTreeMap<String, Answer>, log: &Mutex<Vec<String>>) {
    let mut reader = BufReader::new(stream.try_clone().unwrap());
    let mut stream = stream;
    loop {
        let mut first = String::new();
        if reader.read_line(&mut first).unwrap_or(0) == 0 {
            return;
        }
        loop {
            let mut header = String::new();
            if reader.read_line(&mut header).unwrap_or(0) == 0 || header.trim().is_empty() {
                break;
            }
        }
        let target = first.split(' ').nth(1).unwrap_or_default().to_owned();
        log.lock().unwrap().push(target.clone());
        let found = answers
            .iter()
            .rev()
            .find(|(start, _)| target.starts_with(start.as_str()))
            .map(|(_, answer)| answer);
        let missing = (
            404,
            "application/json",
            br#"{"kind":"Status","apiVersion":"v1","status":"Failure","message":"not found","reason":"NotFound","code":404}"#.to_vec(),
        );
        let (status, kind, body) = found.unwrap_or(&missing);
        let head = format!(
            "HTTP/1.1 {status} x\r\nContent-Type: {kind}\r\nContent-Length: {}\r\n\r\n",
            body.len()
        );
        if stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(body)).is_err() {
            return;
        }
    }
}
