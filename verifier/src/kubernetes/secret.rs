//! The shared key as a Secret: made where there is none, and rotated step by step. Making needs no right to read.

use super::{client::Trouble, results::WriteError};
use k8s_openapi::{ByteString, api::core::v1::Secret, apimachinery::pkg::apis::meta::v1::ObjectMeta};
use kube::{Api, Client, api::PostParams};
use std::collections::BTreeMap;

/// Key of the Secret's data.
pub const KEY: &str = "key";

/// Makes the Secret; whether it was not there.
///
/// # Errors
/// It could not be made.
pub async fn create(client: &Client, namespace: &str, name: &str, text: String) -> Result<bool, WriteError> {
    let secrets: Api<Secret> = Api::namespaced(client.clone(), namespace);
    let secret = Secret {
        metadata: ObjectMeta {
            name: Some(name.to_owned()),
            namespace: Some(namespace.to_owned()),
            labels: Some(BTreeMap::from([(
                "app.kubernetes.io/part-of".to_owned(),
                "dataplane-verifier".to_owned(),
            )])),
            ..ObjectMeta::default()
        },
        data: Some(BTreeMap::from([(KEY.to_owned(), ByteString(text.into_bytes()))])),
        type_: Some("Opaque".to_owned()),
        ..Secret::default()
    };
    match secrets.create(&PostParams::default(), &secret).await {
        Ok(_) => Ok(true),
        Err(error) if Trouble::of(&error) == Trouble::Conflict => Ok(false),
        Err(error) => Err(WriteError::new("create", &format!("secrets in {namespace}"), name, &error)),
    }
}

/// Changes the text by `step`. Nobody may have changed it in between.
///
/// # Errors
/// It could not be read or written, or `step` refuses.
pub async fn change<E: From<WriteError>>(
    client: &Client,
    namespace: &str,
    name: &str,
    step: impl FnOnce(&str) -> Result<String, E>,
) -> Result<(), E> {
    let secrets: Api<Secret> = Api::namespaced(client.clone(), namespace);
    let failed = |verb: &str, error: &kube::Error| WriteError::new(verb, &format!("secrets in {namespace}"), name, error);
    let got = secrets.get(name).await;
    let mut secret = got.map_err(|error| failed("get", &error))?;
    let mut data = secret.data.unwrap_or_else(BTreeMap::new);
    let text = data
        .get(KEY)
        .map_or_else(String::new, |bytes| String::from_utf8_lossy(&bytes.0).into_owned());
    data.insert(KEY.to_owned(), ByteString(step(&text)?.into_bytes()));
    secret.data = Some(data);
    // It carries its version.
    let done = secrets.replace(name, &PostParams::default(), &secret).await;
    done.map_err(|error| failed("update", &error))?;
    Ok(())
}
