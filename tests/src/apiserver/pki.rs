//! Certificates of one server: a CA, the server's for 127.0.0.1, an administrator's, and the key that signs tokens.

use std::{fs, path::Path};

use anyhow::{Context, Result};
use rcgen::{BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose};

/// The CA's certificate.
pub const CA_CERTIFICATE: &str = "ca.crt";
/// The server's certificate.
pub const SERVER_CERTIFICATE: &str = "server.crt";
/// The server's key.
pub const SERVER_KEY: &str = "server.key";
/// The key that signs ServiceAccount tokens.
pub const TOKEN_KEY: &str = "token.key";
/// Its public half, by which they are known again.
pub const TOKEN_PUBLIC_KEY: &str = "token.pub";

/// Writes all of them below a directory: `admin.crt` and `admin.key` are of a member of `system:masters`.
///
/// # Errors
/// A file cannot be written, or there is no randomness.
pub fn write(directory: &Path) -> Result<()> {
    let put = |name: &str, text: String| {
        let path = directory.join(name);
        fs::write(&path, text).with_context(|| format!("writing {}", path.display()))
    };
    let mut authority = CertificateParams::new(Vec::new()).context("a CA's certificate")?;
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    authority.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature];
    authority.distinguished_name.push(DnType::CommonName, "verifier-tests");
    let key = KeyPair::generate().context("a CA's key")?;
    put(
        CA_CERTIFICATE,
        authority.self_signed(&key).context("signing the CA's certificate")?.pem(),
    )?;
    let issuer = Issuer::new(authority, key);

    let mut server = CertificateParams::new(vec!["127.0.0.1".to_owned(), "localhost".to_owned()]).context("the server's certificate")?;
    server.distinguished_name.push(DnType::CommonName, "kube-apiserver");
    server.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    let mut admin = CertificateParams::new(Vec::new()).context("the administrator's certificate")?;
    admin.distinguished_name.push(DnType::CommonName, "admin");
    admin.distinguished_name.push(DnType::OrganizationName, "system:masters");
    admin.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    for (name, mut parameters) in [("server", server), ("admin", admin)] {
        parameters.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        let key = KeyPair::generate().with_context(|| format!("the key of {name}"))?;
        let certificate = parameters
            .signed_by(&key, &issuer)
            .with_context(|| format!("signing the certificate of {name}"))?;
        put(&format!("{name}.crt"), certificate.pem())?;
        put(&format!("{name}.key"), key.serialize_pem())?;
    }
    new_token_key(directory)
}

/// Replaces the key that signs tokens: an API server started after this accepts none of the old ones.
///
/// # Errors
/// The file cannot be written.
pub fn new_token_key(directory: &Path) -> Result<()> {
    let key = KeyPair::generate().context("the key that signs tokens")?;
    fs::write(directory.join(TOKEN_KEY), key.serialize_pem()).context("writing the key that signs tokens")?;
    fs::write(directory.join(TOKEN_PUBLIC_KEY), key.public_key_pem()).context("writing its public half")
}
