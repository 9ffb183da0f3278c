//! Certificates made for a test, and clients that trust them.

use std::{fs, net::SocketAddr, path::Path, sync::Arc};

use airlock::listen::tls::TlsFiles;
use base64::{Engine as _, prelude::BASE64_STANDARD};
use rustls::{
    ClientConfig, RootCertStore, SupportedProtocolVersion,
    pki_types::{CertificateDer, ServerName},
    version::{TLS12, TLS13},
};
use tempfile::TempDir;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
};
use tokio_rustls::{TlsConnector, client::TlsStream};

/// A certificate for `localhost`, signed by itself.
#[derive(Debug)]
pub struct Certificate {
    pub der: CertificateDer<'static>,
    pub key: Vec<u8>,
}

impl Certificate {
    #[expect(clippy::new_without_default, reason = "no two are alike")]
    pub fn new() -> Self {
        let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).expect("a certificate");
        Self { der: made.cert.der().clone(), key: made.signing_key.serialize_der() }
    }

    pub fn write(&self, files: &TlsFiles) {
        fs::write(&files.certificate, self.pem()).expect("a writable folder");
        fs::write(&files.key, pem("PRIVATE KEY", &self.key)).expect("a writable folder");
    }

    /// The certificate without its key, for who is to trust it.
    pub fn pem(&self) -> String {
        pem("CERTIFICATE", &self.der)
    }

    /// A handshake that offers these protocols and trusts nobody else.
    pub async fn connect<S: AsyncRead + AsyncWrite + Unpin>(
        &self,
        stream: S,
        alpn: &[&[u8]],
        version: &'static SupportedProtocolVersion,
    ) -> std::io::Result<TlsStream<S>> {
        let mut roots = RootCertStore::empty();
        roots.add(self.der.clone()).expect("a certificate");
        let mut config =
            ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
                .with_protocol_versions(&[version])
                .expect("a version")
                .with_root_certificates(roots)
                .with_no_client_auth();
        config.alpn_protocols = alpn.iter().map(|name| name.to_vec()).collect();
        let name = ServerName::try_from("localhost").expect("a name");
        TlsConnector::from(Arc::new(config)).connect(name, stream).await
    }

    /// The same to an address, over TLS 1.3.
    pub async fn dial(&self, at: SocketAddr, alpn: &[&[u8]]) -> std::io::Result<TlsStream<TcpStream>> {
        self.connect(TcpStream::connect(at).await?, alpn, &TLS13).await
    }
}

/// The older of the two versions.
pub const OLD: &SupportedProtocolVersion = &TLS12;
/// The newer of the two versions.
pub const NEW: &SupportedProtocolVersion = &TLS13;

/// Where a test's certificate lies.
pub fn files(folder: &TempDir) -> TlsFiles {
    let path = |name: &str| Path::join(folder.path(), name);
    TlsFiles { certificate: path("cert.pem"), key: path("key.pem") }
}

fn pem(label: &str, der: &[u8]) -> String {
    format!("-----BEGIN {label}-----\n{}\n-----END {label}-----\n", BASE64_STANDARD.encode(der))
}
