//! CNI configuration, plugins, and the times in the plugin's token. The token itself is never kept.

use super::{
    gobuild,
    root::{Gaps, Root, gap},
};
use base64::Engine as _;
use serde_json::Value;
use std::collections::BTreeMap;
use verifier_core::{
    evidence::Evidence,
    host::{CniBinary, CniFacts, CniFile, CniNetwork, Kubeconfig, KubeconfigContent},
};

const CONFIG: &str = "etc/cni/net.d";
const BINARIES: &str = "opt/cni/bin";

/// Everything about CNI.
pub fn cni(root: &Root) -> Evidence<CniFacts> {
    let mut gaps = Gaps::default();
    let mut facts = CniFacts::default();
    let names = gaps.note(root.names(CONFIG));
    facts.config_dir = names.is_some();
    // The extensions that libcni's ConfFiles takes, in order of name.
    for name in names.into_iter().flatten() {
        if [".conf", ".conflist", ".json"].iter().any(|end| name.ends_with(end))
            && let Some(bytes) = gaps.note(root.bytes(&format!("{CONFIG}/{name}")))
        {
            let network = network(&bytes);
            facts.files.push(CniFile { name, network });
        }
    }
    let kubeconfig_path = facts
        .files
        .iter()
        .filter_map(|file| file.network.as_ref().ok()) // what cannot be parsed names no kubeconfig
        .find_map(|network| network.kubeconfig.clone());
    facts.kubeconfig = kubeconfig_path.map(|path| kubeconfig(root, path, &mut gaps));
    facts.binaries = binaries(root, &mut gaps);
    Evidence::partial(facts, gaps.0)
}

/// One configuration: a list of plugins, or a single one.
fn network(bytes: &[u8]) -> Result<CniNetwork, String> {
    if bytes.iter().all(u8::is_ascii_whitespace) {
        return Err("it is empty".to_owned());
    }
    let value: Value = serde_json::from_slice(bytes).map_err(|error| error.to_string())?;
    let text = |value: &Value, key: &str| value.get(key).and_then(Value::as_str).map(str::to_owned);
    let plugins: Vec<&Value> = match value.get("plugins") {
        Some(Value::Array(plugins)) => plugins.iter().collect(),
        Some(_) => return Err("`plugins` is no list".to_owned()),
        None => vec![&value],
    };
    let types: Vec<String> = plugins.iter().filter_map(|plugin| text(plugin, "type")).collect();
    if types.len() != plugins.len() || types.is_empty() {
        return Err("a plugin has no `type`".to_owned());
    }
    let calico = plugins
        .iter()
        .find(|plugin| plugin.get("type").and_then(Value::as_str) == Some("calico"));
    Ok(CniNetwork {
        name: text(&value, "name").ok_or_else(|| "it has no `name`".to_owned())?,
        version: text(&value, "cniVersion"),
        plugins: types,
        nodename: calico.and_then(|plugin| text(plugin, "nodename")),
        mtu: calico
            .and_then(|plugin| plugin.get("mtu"))
            .and_then(Value::as_u64)
            .and_then(|mtu| u32::try_from(mtu).ok()),
        kubeconfig: calico
            .and_then(|plugin| plugin.get("kubernetes"))
            .and_then(|kubernetes| text(kubernetes, "kubeconfig")),
    })
}

fn kubeconfig(root: &Root, path: String, gaps: &mut Gaps) -> Kubeconfig {
    let content = match root.text(path.trim_start_matches('/')) {
        Ok(Some(text)) => content(&text, gaps, &path),
        Ok(None) => Err("it does not exist".to_owned()),
        Err(gap) => {
            // Not to be allowed to read it says nothing about whether it is good.
            gaps.0.push(gap);
            Ok(KubeconfigContent {
                has_credential: true,
                ..KubeconfigContent::default()
            })
        }
    };
    Kubeconfig { path, content }
}

fn content(text: &str, gaps: &mut Gaps, path: &str) -> Result<KubeconfigContent, String> {
    let value: Value = serde_yaml_ng::from_str(text).map_err(|error| format!("it cannot be parsed: {error}"))?;
    let server = value
        .pointer("/clusters/0/cluster/server")
        .and_then(Value::as_str)
        .map(str::to_owned);
    let user = value.pointer("/users/0/user");
    let field = |key: &str| {
        user.and_then(|user| user.get(key))
            .and_then(Value::as_str)
            .filter(|text| !text.is_empty())
    };
    let credential = ["token", "tokenFile", "client-certificate", "client-certificate-data"]
        .iter()
        .any(|key| field(key).is_some());
    let mut content = KubeconfigContent {
        server,
        has_credential: credential,
        ..KubeconfigContent::default()
    };
    if let Some(token) = field("token") {
        match times(token) {
            Some((issued, expires)) => {
                content.issued_s = issued;
                content.expires_s = expires;
            }
            None => gaps.0.push(gap(path, "its token is no JWT: when it expires cannot be told")),
        }
    }
    Ok(content)
}

/// `iat` and `exp` of a JSON web token (RFC 7519). Nothing of it is verified: that is the API server's part.
fn times(token: &str) -> Option<(Option<u64>, Option<u64>)> {
    let payload = token.split('.').nth(1)?;
    let bytes = base64::engine::general_purpose::URL_SAFE_NO_PAD.decode(payload).ok()?; // no JWT: the caller says so
    let claims: Value = serde_json::from_slice(&bytes).ok()?; // no JWT: the caller says so
    let number = |key: &str| claims.get(key).and_then(Value::as_u64);
    Some((number("iat"), number("exp")))
}

fn binaries(root: &Root, gaps: &mut Gaps) -> BTreeMap<String, CniBinary> {
    let mut found = BTreeMap::new();
    for name in gaps.note(root.names(BINARIES)).unwrap_or_default() {
        let path = format!("{BINARIES}/{name}");
        let Some((stat, size_bytes)) = gaps.note(root.stat(&path)) else {
            continue;
        };
        let head = gaps.note(root.head(&path, 4));
        let program = head.is_none_or(|head| head == *b"\x7fELF" || head.starts_with(b"#!"));
        // Some link all plugins to one file: it is read once for each, and only its headers are.
        let version = gaps.note(root.file(&path)).and_then(|mut file| {
            let version = gobuild::version(&mut file).map_err(|error| gap(&path, &error.to_string()));
            gaps.note(version)
        });
        found.insert(
            name,
            CniBinary {
                mode: stat.mode,
                size_bytes,
                program,
                version,
            },
        );
    }
    found
}
