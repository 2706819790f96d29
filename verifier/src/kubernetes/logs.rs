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
    let mut left_out = 0;
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
            log.bytes.extend(buffer.iter().take(read));
            // The newest lines are those that are wanted. Twice the bound, so that not every read moves all of it.
            if log.bytes.len() >= wanted.bytes_max.saturating_mul(2) {
                left_out += keep_end(&mut log.bytes, wanted.bytes_max);
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
    left_out += keep_end(&mut log.bytes, wanted.bytes_max);
    if left_out > 0 {
        let why = format!("its first {left_out} bytes were left out, {} MiB are kept", wanted.bytes_max >> 20);
        log.cut = Some(log.cut.map_or(why.clone(), |cut| format!("{cut}; {why}")));
    }
    let lines = log.bytes.iter().filter(|byte| **byte == b'\n').count();
    if log.cut.is_none() && i64::try_from(lines).is_ok_and(|lines| lines >= wanted.lines) {
        log.cut = Some(format!("only its last {} lines were read", wanted.lines));
    }
    Ok(log)
}

/// Keeps at most `most` bytes of the end, from the beginning of a line on. How many went.
fn keep_end(bytes: &mut Vec<u8>, most: usize) -> usize {
    let over = bytes.len().saturating_sub(most);
    if over == 0 {
        return 0;
    }
    let rest = bytes.get(over - 1..).unwrap_or_default();
    let gone = rest.iter().position(|byte| *byte == b'\n').map_or(bytes.len(), |at| over + at);
    bytes.drain(..gone);
    gone
}

fn silent() -> String {
    format!("the API server did not answer within {} s", PATIENCE.as_secs())
}

fn words(error: &kube::Error) -> String {
    match Trouble::of(error) {
        Trouble::Forbidden => "not permitted: grant `get` on pods and pods/log".to_owned(),
        Trouble::NotFound => "there is no such pod or container".to_owned(),
        Trouble::Unauthenticated => "the API server does not accept this account (401): its token expired".to_owned(),
        Trouble::Away { why } => why,
        _ => chain(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_is_kept_by_whole_lines() {
        let keep = |text: &str, most: usize| {
            let mut bytes = text.as_bytes().to_vec();
            let gone = keep_end(&mut bytes, most);
            (String::from_utf8(bytes).unwrap(), gone)
        };
        assert_eq!(keep("one\ntwo\n", 8), ("one\ntwo\n".to_owned(), 0));
        assert_eq!(keep("one\ntwo\n", 7), ("two\n".to_owned(), 4));
        assert_eq!(keep("one\ntwo\n", 4), ("two\n".to_owned(), 4));
        assert_eq!(keep("one\ntwo\n", 3), (String::new(), 8));
        assert_eq!(keep("one", 2), (String::new(), 3));
        assert_eq!(keep("one\n", 0), (String::new(), 4));
    }
}
