//! Who asks: ServiceAccounts with tokens from the TokenRequest API, and kubeconfigs for them.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};
use k8s_openapi::api::{
    authentication::v1::{TokenRequest, TokenRequestSpec},
    core::v1::ServiceAccount,
};
use kube::api::{Api, PostParams};

use super::{ApiServer, address, pki};
use crate::manifests::write_atomically;

/// How long a token is good for, s. The least that the API server gives.
const TOKEN_SECONDS: i64 = 3600;

/// How somebody shows who he is.
#[derive(Clone, Copy, Debug)]
pub enum Identity<'a> {
    /// `NAME.crt` and `NAME.key` of the server's directory.
    Certificate {
        /// Their name.
        name: &'a str,
    },
    /// A token in a file, which may be replaced while it is used, as the kubelet does.
    TokenFile(&'a Path),
}

/// A kubeconfig with one context.
#[must_use]
pub fn kubeconfig(server: &str, directory: &Path, identity: &Identity<'_>) -> String {
    let file = |name: &str| directory.join(name).display().to_string();
    let user = match identity {
        Identity::Certificate { name } => format!(
            "client-certificate: {}\n    client-key: {}",
            file(&format!("{name}.crt")),
            file(&format!("{name}.key"))
        ),
        Identity::TokenFile(path) => format!("tokenFile: {}", path.display()),
    };
    format!(
        "\
apiVersion: v1
kind: Config
current-context: test
contexts:
- name: test
  context: {{ cluster: test, user: test }}
clusters:
- name: test
  cluster:
    server: {server}
    certificate-authority: {}
users:
- name: test
  user:
    {user}
",
        file(pki::CA_CERTIFICATE)
    )
}

impl ApiServer {
    /// A kubeconfig for a ServiceAccount, which must exist, by way of this port: the server's own, or a relay's.
    ///
    /// # Errors
    /// There is no such account, or the files cannot be written.
    pub fn kubeconfig_of(&self, namespace: &str, account: &str, port: u16) -> Result<PathBuf> {
        let token = self.directory().join(format!("{namespace}-{account}.token"));
        self.renew_token(namespace, account)?;
        let path = self.directory().join(format!("{namespace}-{account}-{port}.kubeconfig"));
        let text = kubeconfig(&address(port), self.directory(), &Identity::TokenFile(&token));
        fs::write(&path, text).with_context(|| format!("writing {}", path.display()))?;
        Ok(path)
    }

    /// Puts a new token where the account's kubeconfigs look for it.
    ///
    /// # Errors
    /// There is no such account, or the file cannot be written.
    pub fn renew_token(&self, namespace: &str, account: &str) -> Result<()> {
        let accounts: Api<ServiceAccount> = Api::namespaced(self.admin().clone(), namespace);
        let request = TokenRequest {
            spec: TokenRequestSpec {
                expiration_seconds: Some(TOKEN_SECONDS),
                ..TokenRequestSpec::default()
            },
            ..TokenRequest::default()
        };
        let answer = self
            .block_on(accounts.create_token_request(account, &PostParams::default(), &request))
            .with_context(|| format!("asking for a token of {namespace}/{account}"))?;
        let token = answer.status.context("a token request without a token")?.token;
        write_atomically(&self.directory().join(format!("{namespace}-{account}.token")), &token)
    }
}
