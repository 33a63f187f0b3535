//! Reads the certificate of the server and its private key from their files, and makes the TLS settings of the server from
//! them.
//!
//! It does not look at the dates of a certificate: clients judge them.

use std::fmt;
use std::fs::{self, Metadata};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::ServerConfig;
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

use crate::config::TlsConfig;

/// Why a certificate and its key cannot be used.
#[derive(Debug)]
pub struct CertificateError {
    /// The key of the section `tls` that names the file.
    key: &'static str,
    file: PathBuf,
    reason: String,
}

impl fmt::Display for CertificateError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "tls.{} `{}` {}", self.key, self.file.display(), self.reason)
    }
}

impl std::error::Error for CertificateError {}

/// Reads a certificate and its key. Every call makes settings with sessions of their own, so that no client resumes a
/// session that began under another certificate.
///
/// # Errors
/// If a file cannot be read, is not PEM, or the key does not belong to the certificate.
pub fn read(files: &TlsConfig) -> Result<Arc<ServerConfig>, CertificateError> {
    let TlsConfig { cert_file, key_file } = files;
    let of_cert = |reason| CertificateError { key: "cert_file", file: cert_file.clone(), reason };
    let of_key = |reason| CertificateError { key: "key_file", file: key_file.clone(), reason };
    let chain = read_chain(cert_file).map_err(of_cert)?;
    let key = read_key(key_file).map_err(of_key)?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("ring supports the default protocol versions");
    let mut config = builder.with_no_client_auth().with_single_cert(chain, key).map_err(|error| match error {
        rustls::Error::InconsistentKeys(_) => {
            of_key(format!("does not belong to the certificate in tls.cert_file `{}`", cert_file.display()))
        }
        rustls::Error::InvalidCertificate(error) => of_cert(format!("holds no usable certificate: {error}")),
        error => of_key(format!("holds no usable private key: {error}")),
    })?;
    // Cut streams and leaving clients are tested under HTTP/1.1 only.
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

fn read_chain(file: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let text = read_file(file)?;
    let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&text).collect();
    match chain {
        Ok(chain) if chain.is_empty() => Err("holds no certificate in PEM form".to_owned()),
        Ok(chain) => Ok(chain),
        Err(error) => Err(format!("is not PEM: {error}")),
    }
}

fn read_key(file: &Path) -> Result<PrivateKeyDer<'static>, String> {
    PrivateKeyDer::from_pem_slice(&read_file(file)?).map_err(|error| match error {
        pem::Error::NoItemsFound => "holds no private key in PEM form, or an encrypted one".to_owned(),
        error => format!("is not PEM: {error}"),
    })
}

fn read_file(file: &Path) -> Result<Vec<u8>, String> {
    fs::read(file).map_err(|error| format!("cannot be read: {error}"))
}

/// What tells that a file has changed: modification time in seconds and nanoseconds, length, number of the file.
type Mark = (i64, i64, u64, u64);

/// The state of both files at one time; `None` for a file that is not there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Marks {
    cert: Option<Mark>,
    key: Option<Mark>,
}

impl Marks {
    /// Looks at both files.
    pub fn of(files: &TlsConfig) -> Self {
        let mark = |file: Metadata| (file.mtime(), file.mtime_nsec(), file.len(), file.ino());
        let look = |file: &Path| fs::metadata(file).ok().map(mark);
        Self { cert: look(&files.cert_file), key: look(&files.key_file) }
    }
}

/// Decides when changed files are read.
#[derive(Debug)]
pub struct Watch {
    /// The state of the files when they were read last.
    read: Marks,
    /// The state of the files at the last look.
    seen: Marks,
}

impl Watch {
    /// Begins to watch files that were in this state when they were read.
    pub fn new(read: Marks) -> Self {
        Self { read, seen: read }
    }

    /// Takes in a look at the files. Returns true if they have changed since they were read, and not since the last look:
    /// a new certificate whose key is still to be written is not read.
    pub fn look(&mut self, now: Marks) -> bool {
        let rests = self.seen == now;
        self.seen = now;
        rests && self.read != now
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Makes a certificate and its key, both as PEM.
    fn pair() -> (String, String) {
        let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).expect("a certificate");
        (made.cert.pem(), made.signing_key.serialize_pem())
    }

    /// Writes both texts to files and reads them. Returns the error, without the folder.
    fn refusal(cert: &str, key: &str) -> Option<String> {
        let folder = tempfile::tempdir().expect("a folder");
        let at = |name: &str| folder.path().join(name);
        let files = TlsConfig { cert_file: at("cert.pem"), key_file: at("key.pem") };
        fs::write(&files.cert_file, cert).expect("written");
        fs::write(&files.key_file, key).expect("written");
        let place = format!("{}/", folder.path().display());
        read(&files).err().map(|error| error.to_string().replace(&place, ""))
    }

    #[test]
    fn a_pair_is_read_and_speaks_http_1_1_only() {
        let ((cert, key), folder) = (pair(), tempfile::tempdir().expect("a folder"));
        let file = folder.path().join("both.pem");
        fs::write(&file, key + &cert).expect("written");
        let config = read(&TlsConfig { cert_file: file.clone(), key_file: file }).expect("one file may hold both");
        assert_eq!(config.alpn_protocols, [b"http/1.1"]);
    }

    #[test]
    fn files_that_cannot_be_used_are_named_with_the_reason() {
        let ((cert, key), (other_cert, other_key)) = (pair(), pair());
        let block = |kind: &str| format!("-----BEGIN {kind}-----\nAAAA\n-----END {kind}-----\n");
        let check = |cert: &str, key: &str, expected: &str| {
            let said = refusal(cert, key).unwrap_or_else(|| panic!("no error, but {expected}"));
            assert!(said.starts_with(expected), "{said} is not {expected}");
        };
        let mismatch = "tls.key_file `key.pem` does not belong to the certificate in tls.cert_file";
        check(&cert, &other_key, mismatch);
        check(&(other_cert + &cert), &key, mismatch);
        check("", &key, "tls.cert_file `cert.pem` holds no certificate in PEM form");
        check(&key, &key, "tls.cert_file `cert.pem` holds no certificate in PEM form");
        check("-----BEGIN CERTIFICATE-----\n!", &key, "tls.cert_file `cert.pem` is not PEM: ");
        check(&block("CERTIFICATE"), &key, "tls.cert_file `cert.pem` holds no usable certificate: ");
        check(&cert, &cert, "tls.key_file `key.pem` holds no private key in PEM form, or an encrypted one");
        check(&cert, &block("ENCRYPTED PRIVATE KEY"), "tls.key_file `key.pem` holds no private key in PEM form");
        check(&cert, "-----BEGIN PRIVATE KEY-----\n!", "tls.key_file `key.pem` is not PEM: ");
        check(&cert, &block("PRIVATE KEY"), "tls.key_file `key.pem` holds no usable private key: ");
        let nowhere = TlsConfig { cert_file: "/nowhere/cert.pem".into(), key_file: "/nowhere/key.pem".into() };
        let said = read(&nowhere).expect_err("no such file").to_string();
        assert!(said.starts_with("tls.cert_file `/nowhere/cert.pem` cannot be read: No such file"), "{said}");
    }

    #[test]
    fn changed_files_are_read_once_they_rest() {
        let marks = |cert: u64, key: u64| Marks { cert: Some((0, 0, cert, 0)), key: Some((0, 0, key, 0)) };
        let mut watch = Watch::new(marks(1, 1));
        assert!(!watch.look(marks(1, 1)), "nothing has changed");
        assert!(!watch.look(marks(2, 1)), "the key may follow");
        assert!(!watch.look(marks(2, 2)));
        assert!(watch.look(marks(2, 2)));
        let mut watch = Watch::new(marks(2, 2));
        assert!(!watch.look(Marks { key: None, ..marks(2, 2) }), "a file is gone");
        assert!(!watch.look(marks(2, 2)), "it is back as it was");
    }

    #[test]
    fn a_file_that_is_written_removed_or_replaced_is_a_change() {
        let folder = tempfile::tempdir().expect("a folder");
        let at = |name: &str| folder.path().join(name);
        let files = TlsConfig { cert_file: at("cert.pem"), key_file: at("key.pem") };
        let none = Marks::of(&files);
        fs::write(&files.cert_file, "a").expect("written");
        fs::write(&files.key_file, "a").expect("written");
        let first = Marks::of(&files);
        assert_ne!(first, none);
        assert_eq!(first, Marks::of(&files));
        fs::write(&files.key_file, "ab").expect("written");
        let longer = Marks::of(&files);
        assert_ne!(longer, first);
        fs::write(at("new"), "ab").expect("written");
        fs::rename(at("new"), &files.key_file).expect("moved");
        assert_ne!(Marks::of(&files), longer);
    }
}
