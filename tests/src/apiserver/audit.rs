//! What the server says was asked of it: its audit log, one line of JSON for each request of a ServiceAccount.

use std::{collections::BTreeSet, fmt, fs, path::Path};

use anyhow::{Context, Result};
use serde::Deserialize;

/// A kind of request: what a rule of RBAC grants or not.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Use {
    /// API group; empty for the core.
    pub group: String,
    /// Plural, with the subresource behind a slash.
    pub resource: String,
    /// `get`, `list`, …
    pub verb: String,
}

impl fmt::Display for Use {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.group.as_str() {
            "" => write!(f, "{} {}", self.verb, self.resource),
            group => write!(f, "{} {} of {group}", self.verb, self.resource),
        }
    }
}

/// One request of a ServiceAccount.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// `NAMESPACE/NAME`.
    pub account: String,
    /// What was asked; none for what is no resource (`/api`, `/apis/…`).
    pub used: Option<Use>,
    /// Name of the object, where one was named.
    pub name: String,
    /// Namespace, where one was named.
    pub namespace: String,
    /// Path and query.
    pub uri: String,
    /// HTTP status.
    pub code: u16,
    /// Whether RBAC allowed it.
    pub allowed: bool,
    /// Whether it is the beginning of an answer that goes on (a watch), whose end is another line.
    pub begins: bool,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Line {
    stage: String,
    verb: String,
    user: User,
    #[serde(rename = "requestURI")]
    request_uri: String,
    object_ref: Option<ObjectRef>,
    response_status: Option<Status>,
    #[serde(default)]
    annotations: std::collections::BTreeMap<String, String>,
}

#[derive(Deserialize)]
struct User {
    username: String,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct ObjectRef {
    resource: String,
    subresource: String,
    api_group: String,
    name: String,
    namespace: String,
}

#[derive(Deserialize)]
struct Status {
    #[serde(default)]
    code: u16,
}

/// Reads the log of a server.
///
/// # Errors
/// It cannot be read, or a whole line is not understood.
pub fn read(directory: &Path) -> Result<Vec<Request>> {
    let path = directory.join("audit.log");
    let text = fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))?;
    // The last line may be half written.
    let whole = text.rfind('\n').map_or("", |end| &text[..end]);
    whole.lines().map(parse).filter_map(Result::transpose).collect()
}

fn parse(line: &str) -> Result<Option<Request>> {
    let line: Line = serde_json::from_str(line).with_context(|| format!("reading a line of the audit log: {line}"))?;
    let Some(account) = line.user.username.strip_prefix("system:serviceaccount:") else {
        return Ok(None);
    };
    let object = line.object_ref.as_ref();
    let used = object.map(|object| Use {
        group: object.api_group.clone(),
        resource: match object.subresource.as_str() {
            "" => object.resource.clone(),
            sub => format!("{}/{sub}", object.resource),
        },
        verb: line.verb.clone(),
    });
    Ok(Some(Request {
        account: account.replacen(':', "/", 1),
        used,
        name: object.map_or_else(String::new, |object| object.name.clone()),
        namespace: object.map_or_else(String::new, |object| object.namespace.clone()),
        uri: line.request_uri,
        code: line.response_status.map_or(0, |status| status.code),
        allowed: line
            .annotations
            .get("authorization.k8s.io/decision")
            .is_none_or(|decision| decision == "allow"),
        begins: line.stage == "ResponseStarted",
    }))
}

impl Request {
    /// What of it RBAC was asked about: what it says, and that it creates, where server-side apply found nothing to patch. Of the latter
    /// the log has no line of its own.
    pub fn uses(&self) -> impl Iterator<Item = Use> {
        let creates = self.code == 201;
        let created = self.used.as_ref().filter(|used| creates && used.verb == "patch").map(|used| Use {
            verb: "create".to_owned(),
            ..used.clone()
        });
        self.used.clone().into_iter().chain(created)
    }
}

/// What an account was refused.
#[must_use]
pub fn refused(requests: &[Request], account: &str) -> BTreeSet<Use> {
    let of = requests.iter().filter(|request| request.account == account && !request.allowed);
    of.filter_map(|request| request.used.clone()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_a_request() {
        let line = r#"{"kind":"Event","level":"Metadata","stage":"ResponseComplete","verb":"patch","requestURI":"/api/v1/nodes/a/status",
            "user":{"username":"system:serviceaccount:ns:agent"},"objectRef":{"resource":"nodes","name":"a","apiVersion":"v1","subresource":"status"},
            "responseStatus":{"code":403},"annotations":{"authorization.k8s.io/decision":"forbid"}}"#;
        let request = parse(&line.replace('\n', " ")).unwrap().unwrap();
        assert_eq!(request.account, "ns/agent");
        assert_eq!(request.used.as_ref().unwrap().to_string(), "patch nodes/status");
        assert!(!request.allowed);
        assert_eq!(request.code, 403);
    }
}
