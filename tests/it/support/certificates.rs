//! An authority that issues certificates, and clients that trust it.

use std::fs;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use leaseway::config::TlsConfig;
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose};
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tempfile::TempDir;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::soon;

/// An authority with a folder for what it issues.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    certificate: CertificateDer<'static>,
    folder: TempDir,
}

/// A certificate for this machine, and its key.
pub struct Issued {
    pub files: TlsConfig,
    pub certificate: CertificateDer<'static>,
}

impl Authority {
    pub fn new() -> Self {
        let (folder, key) = (tempfile::tempdir().expect("a folder"), KeyPair::generate().expect("a key"));
        let mut params = CertificateParams::new([]).expect("no names");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params.distinguished_name.push(DnType::CommonName, "the authority of a test");
        let made = params.self_signed(&key).expect("a certificate");
        fs::write(folder.path().join("authority.pem"), made.pem()).expect("written");
        Self { certificate: made.into(), issuer: Issuer::new(params, key), folder }
    }

    /// Returns the file with the certificate of the authority.
    pub fn file(&self) -> PathBuf {
        self.folder.path().join("authority.pem")
    }

    /// Issues a certificate and writes it and its key to files of this name.
    pub fn issue(&self, name: &str) -> Issued {
        let key = KeyPair::generate().expect("a key");
        let mut params = CertificateParams::new(["127.0.0.1".to_owned(), "localhost".to_owned()]).expect("names");
        params.use_authority_key_identifier_extension = true;
        let made = params.signed_by(&key, &self.issuer).expect("a certificate");
        let at = |ending: &str| self.folder.path().join(format!("{name}.{ending}"));
        let files = TlsConfig { cert_file: at("pem"), key_file: at("key") };
        fs::write(&files.cert_file, made.pem()).expect("written");
        fs::write(&files.key_file, key.serialize_pem()).expect("written");
        Issued { files, certificate: made.into() }
    }

    /// Returns what a client needs in order to trust the authority.
    pub fn trust(&self) -> Trust {
        self.trust_for(&[b"http/1.1"])
    }

    /// Returns what a client needs that speaks these protocols.
    pub fn trust_for(&self, protocols: &[&[u8]]) -> Trust {
        let mut roots = RootCertStore::empty();
        roots.add(self.certificate.clone()).expect("a certificate");
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
        let mut config = builder.expect("versions").with_root_certificates(roots).with_no_client_auth();
        config.alpn_protocols = protocols.iter().map(|protocol| protocol.to_vec()).collect();
        Trust(Arc::new(config))
    }
}

impl Issued {
    /// Copies both files to these names.
    pub fn install(&self, cert: &Path, key: &Path) {
        fs::copy(&self.files.cert_file, cert).expect("copied");
        fs::copy(&self.files.key_file, key).expect("copied");
    }
}

/// The TLS settings of a client that trusts one authority.
#[derive(Clone)]
pub struct Trust(pub Arc<ClientConfig>);

impl Trust {
    /// Connects and shakes hands.
    pub async fn connect(&self, address: SocketAddr) -> io::Result<TlsStream<TcpStream>> {
        let tcp = TcpStream::connect(address).await?;
        tcp.set_nodelay(true)?;
        let handshake = TlsConnector::from(self.0.clone()).connect(ServerName::from(address.ip()), tcp);
        soon("the end of the handshake", handshake).await
    }

    /// Returns the certificate that a new connection gets.
    pub async fn certificate_of(&self, address: SocketAddr) -> CertificateDer<'static> {
        let stream = self.connect(address).await.expect("a TLS connection");
        let chain = stream.get_ref().1.peer_certificates().expect("certificates");
        chain[0].clone().into_owned()
    }
}
