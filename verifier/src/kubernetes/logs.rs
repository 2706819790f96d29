//! Logs of containers through the API: of the running one and of the one before it, bounded.

use super::client::{Trouble, chain};
use futures_util::AsyncReadExt as _;
use k8s_openapi::api::core::v1::Pod;
use kube::{Api, Client, api::LogParams};
use std::time::Duration;
use verifier_core::{names::PodRef, triage::PodFacts};

/// More than this is not read of one container.
const BYTES_MAX: usize = 64 << 20;
/// How long one log may take.
const PATIENCE: Duration = Duration::from_secs(60);
/// Lines from the end, unless told otherwise.
pub const LINES_DEFAULT: i64 = 200_000;

/// One log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// The container.
    pub container: String,
    /// The one that ended before the one of now.
    pub previous: bool,
    /// So many lines from its end.
    pub lines: i64,
    /// At most so many bytes.
    pub bytes_max: usize,
}

impl Default for Wanted {
    fn default() -> Self {
        Self {
            container: String::new(),
            previous: false,
            lines: LINES_DEFAULT,
            bytes_max: BYTES_MAX,
        }
    }
}

impl Wanted {
    /// For texts: `kube-system/calico-node-x, calico-node before its restart`.
    pub fn name(&self, pod: &PodRef) -> String {
        let which = if self.previous { " before its restart" } else { "" };
        format!("{pod}, {}{which}", self.container)
    }
}

/// What was had of a log.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Log {
    /// Its lines, each with the time at which the node wrote it.
    pub bytes: Vec<u8>,
    /// Why it is not whole, if it is not.
    pub cut: Option<String>,
}

/// A pod.
///
/// # Errors
/// It cannot be had, in one line.
pub async fn pod(client: &Client, pod: &PodRef) -> Result<PodFacts, String> {
    let api: Api<Pod> = Api::namespaced(client.clone(), &pod.namespace);
    match tokio::time::timeout(PATIENCE, api.get_opt(&pod.name)).await {
        Ok(Ok(Some(found))) => crate::triage::read::pod(found).ok_or_else(|| format!("pod {pod} has no name")),
        Ok(Ok(None)) => Err(format!("there is no pod {pod}")),
        Ok(Err(error)) => Err(words(&error)),
        Err(_) => Err(silent()),
    }
}

/// The logs that a pod can have: every container that started, and the one before it if that ended.
pub fn all_of(pod: &PodFacts) -> Vec<Wanted> {
    let mut out = Vec::new();
    for container in pod.containers.iter().filter(|c| c.state != "not started") {
        let of = |previous: bool| Wanted {
            container: container.name.clone(),
            previous,
            ..Wanted::default()
        };
        // One that waits to be started again has its last run as its log of now.
        out.push(of(false));
        if container.restarts > 0 {
            out.push(of(true));
        }
    }
    out
}

/// Reads one.
///
/// # Errors
/// It cannot be had at all, in one line.
pub async fn read(client: &Client, pod: &PodRef, wanted: &Wanted) -> Result<Log, String> {
    let api: Api<Pod> = Api::namespaced(client.clone(), &pod.namespace);
    let params = LogParams {
        container: Some(wanted.container.clone()),
        previous: wanted.previous,
        tail_lines: Some(wanted.lines),
        timestamps: true,
        ..LogParams::default()
    };
    let mut log = Log::default();
    let whole = async {
        let mut stream = Box::pin(api.log_stream(&pod.name, &params).await.map_err(|error| words(&error))?);
        let mut buffer = vec![0; 64 << 10];
        loop {
            let read = match stream.read(&mut buffer).await {
                Ok(0) => return Ok(()),
                Ok(read) => read,
                Err(error) => {
                    log.cut = Some(format!("it broke off after {} bytes ({error})", log.bytes.len()));
                    return Ok(());
                }
            };
            let room = wanted.bytes_max.saturating_sub(log.bytes.len());
            log.bytes.extend(buffer.iter().take(read.min(room)));
            if read > room {
                log.cut = Some(format!("it was read up to {} MiB only", wanted.bytes_max >> 20));
                return Ok(());
            }
        }
    };
    let outcome: Result<(), String> = match tokio::time::timeout(PATIENCE, whole).await {
        Ok(outcome) => outcome,
        Err(_) => {
            log.cut = Some(format!("it was read for {} s only", PATIENCE.as_secs()));
            Ok(())
        }
    };
    outcome?;
    let lines = log.bytes.iter().filter(|byte| **byte == b'\n').count();
    if log.cut.is_none() && i64::try_from(lines).is_ok_and(|lines| lines >= wanted.lines) {
        log.cut = Some(format!("only its last {} lines were read", wanted.lines));
    }
    Ok(log)
}

fn silent() -> String {
    format!("the API server did not answer within {} s", PATIENCE.as_secs())
}

fn words(error: &kube::Error) -> String {
    match Trouble::of(error) {
        Trouble::Forbidden => "not permitted: grant `get` on pods and pods/log".to_owned(),
        Trouble::NotFound => "there is no such pod or container".to_owned(),
        Trouble::Unauthenticated => "the API server does not accept this account (401): its token expired".to_owned(),
        _ => chain(error),
    }
}
