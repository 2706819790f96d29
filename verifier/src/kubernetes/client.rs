//! A client of the API server, and what its refusals mean.

use kube::{
    Client, Config,
    config::{KubeConfigOptions, Kubeconfig},
};
use std::{path::PathBuf, time::Duration};

/// How long a connection to the API server may take. Its absence must be noticed before anybody waits for a verdict.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// How long an answer may be silent. A watch that has nothing to tell is silent until the server ends it (at most 290 s here).
const READ_TIMEOUT: Duration = Duration::from_secs(310);

/// How to reach the API server: what the command line says of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Access {
    /// This kubeconfig, not `$KUBECONFIG`, `~/.kube/config` or the pod's own account.
    pub kubeconfig: Option<PathBuf>,
    /// This context of it, not its current one.
    pub context: Option<String>,
}

/// Why there is no client. One line each, with what to do.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// A kubeconfig was named, and cannot be used.
    #[error("cannot use the kubeconfig {path}: {why}: name one with which `kubectl --kubeconfig` works", path = path.display())]
    Kubeconfig {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        why: String,
    },
    /// Nothing was named, and there is nothing.
    #[error(
        "there is no way to the API server ({why}): run in a pod with a service account, set KUBECONFIG or --kubeconfig, or give manifests with --intent"
    )]
    Nothing {
        /// What was tried.
        why: String,
    },
    /// The client cannot be made of it.
    #[error("cannot make a client of the API server: {why}: check certificates and user of the kubeconfig")]
    Client {
        /// Why.
        why: String,
    },
}

/// What is done about an answer that says "not now" (429, 503, 504).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NotNow {
    /// The client asks again, up to 15 times, as long as the server says: right where the answer is all that matters.
    AskAgain,
    /// It is the answer: whoever asks has deadlines of his own, and says what the server said.
    IsAnAnswer,
}

/// Makes a client. Nothing is asked yet: that the server is away is for the first question to find out.
///
/// # Errors
/// There is no configuration, or it cannot be used.
pub async fn connect(access: &Access, not_now: NotNow) -> Result<Client, ConnectError> {
    let options = KubeConfigOptions {
        context: access.context.clone(),
        ..KubeConfigOptions::default()
    };
    let mut config = match &access.kubeconfig {
        Some(path) => {
            let unusable = |why: String| ConnectError::Kubeconfig { path: path.clone(), why };
            let file = Kubeconfig::read_from(path).map_err(|error| unusable(chain(&error)))?;
            Config::from_custom_kubeconfig(file, &options)
                .await
                .map_err(|error| unusable(chain(&error)))?
        }
        None if access.context.is_some() => {
            let nothing = |error| ConnectError::Nothing { why: chain(&error) };
            Config::from_kubeconfig(&options).await.map_err(nothing)?
        }
        None => Config::infer()
            .await
            .map_err(|error| ConnectError::Nothing { why: chain(&error) })?,
    };
    config.connect_timeout = Some(CONNECT_TIMEOUT);
    config.read_timeout = Some(READ_TIMEOUT);
    // The API server is reached as the cluster reaches it; a proxy of the environment is meant for the world outside.
    config.proxy_url = None;
    config.default_retry = not_now == NotNow::AskAgain;
    Client::try_from(config).map_err(|error| ConnectError::Client { why: chain(&error) })
}

/// An error with all its causes in one line, each said once: kube's errors repeat their sources.
pub fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let words = cause.to_string();
        if !text.contains(&words) {
            text.push_str(": ");
            text.push_str(&words);
        }
        next = cause.source();
    }
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// What went wrong with a request, as far as it makes a difference to what is done next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Trouble {
    /// The account may not do this (403).
    Forbidden,
    /// The account is not accepted at all (401): a token expired.
    Unauthenticated,
    /// There is no such thing (404).
    NotFound,
    /// Somebody else changed it in between (409).
    Conflict,
    /// What was known is too old to go on from (410).
    Expired,
    /// The server asks to wait (429).
    TooMany,
    /// Anything else: the server is away, overloaded, or the network between is broken.
    Away {
        /// In words.
        why: String,
    },
}

impl Trouble {
    /// What an error of the client means.
    pub fn of(error: &kube::Error) -> Self {
        match error {
            kube::Error::Api(status) => Self::of_code(status.code, &status.message),
            other => Self::Away { why: chain(other) },
        }
    }

    /// What a status code of the API means.
    pub fn of_code(code: u16, message: &str) -> Self {
        match code {
            401 => Self::Unauthenticated,
            403 => Self::Forbidden,
            404 => Self::NotFound,
            409 => Self::Conflict,
            410 => Self::Expired,
            429 => Self::TooMany,
            _ => Self::Away {
                why: format!("{code} {message}"),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn status_codes_have_meanings() {
        assert_eq!(Trouble::of_code(403, "x"), Trouble::Forbidden);
        assert_eq!(Trouble::of_code(410, "x"), Trouble::Expired);
        assert_eq!(Trouble::of_code(503, "x"), Trouble::Away { why: "503 x".to_owned() });
    }

    #[tokio::test]
    async fn a_kubeconfig_that_is_not_there_is_named() {
        let access = Access {
            kubeconfig: Some("/does/not/exist".into()),
            context: None,
        };
        let error = connect(&access, NotNow::AskAgain).await.err().map(|e| e.to_string()).unwrap();
        assert!(error.contains("/does/not/exist") && !error.contains('\n'), "{error}");
    }
}
