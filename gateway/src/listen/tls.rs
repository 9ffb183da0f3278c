//! TLS: the certificate that the gateway shows, and its renewal without a restart.

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, SystemTime},
};

use arc_swap::ArcSwap;
use rustls::{
    ServerConfig,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
    version::{TLS12, TLS13},
};
use tokio_rustls::TlsAcceptor;
use zeroize::Zeroizing;

use super::Stop;

/// Time between two looks at the files.
const LOOK: Duration = Duration::from_secs(5);

/// Bytes of a file; a chain of certificates has a few thousand.
const MAX_FILE: u64 = 1 << 20;

/// What HTTP/2 and HTTP/1.1 are called in the handshake, the better one first.
pub(super) const HTTP2: &[u8] = b"h2";
const HTTP1: &[u8] = b"http/1.1";

/// The files of a certificate chain, the server's own first, and of its private key; both in PEM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsFiles {
    pub certificate: PathBuf,
    pub key: PathBuf,
}

/// Why a pair of files cannot be used. Nothing of their content is quoted.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    #[error("{}: {reason}", path.display())]
    Read { path: PathBuf, reason: io::Error },
    #[error("{} holds no certificate in PEM (-----BEGIN CERTIFICATE-----)", .0.display())]
    NoCertificate(PathBuf),
    #[error("{} holds no private key in PEM (-----BEGIN PRIVATE KEY-----)", .0.display())]
    NoKey(PathBuf),
    #[error("{} and {} are no pair that can be used: {reason}", certificate.display(), key.display())]
    Pair { certificate: PathBuf, key: PathBuf, reason: rustls::Error },
}

/// The certificate in use. Connections that are open keep the one they began with.
#[derive(Debug)]
pub struct Tls {
    files: TlsFiles,
    config: ArcSwap<ServerConfig>,
}

impl Tls {
    pub fn open(files: TlsFiles) -> Result<Arc<Self>, TlsError> {
        let config = ArcSwap::from_pointee(load(&files)?);
        Ok(Arc::new(Self { files, config }))
    }

    /// What does the handshakes of connections that are accepted now.
    pub fn acceptor(&self) -> TlsAcceptor {
        TlsAcceptor::from(self.config.load_full())
    }

    /// Looks after the files until told to stop. A pair that cannot be used is reported once, and the old one stays.
    pub async fn follow(self: Arc<Self>, stop: Stop) {
        self.follow_every(LOOK, stop).await;
    }

    /// The same, with another time between two looks.
    pub async fn follow_every(self: Arc<Self>, every: Duration, mut stop: Stop) {
        // Not the stamp at the time of opening: a change between then and now must be seen.
        let mut seen = None;
        loop {
            tokio::select! {
                _ = stop.wait_for(Option::is_some) => return,
                () = tokio::time::sleep(every) => {}
            }
            let stamp = stamp(&self.files);
            if seen.as_ref() == Some(&stamp) {
                continue;
            }
            let (first, files) = (seen.replace(stamp).is_none(), self.files.clone());
            match tokio::task::spawn_blocking(move || load(&files)).await {
                Ok(Ok(config)) => {
                    self.config.store(Arc::new(config));
                    if !first {
                        tracing::info!("the certificate is renewed");
                    }
                }
                Ok(Err(error)) => tracing::warn!(%error, "the certificate is not renewed; the old one stays"),
                Err(error) => tracing::error!(%error, "the certificate could not be looked at"),
            }
        }
    }
}

/// By what a change of the files is seen: time and size of each.
type Stamp = [Option<(SystemTime, u64)>; 2];

fn stamp(files: &TlsFiles) -> Stamp {
    [&files.certificate, &files.key].map(|path| {
        let metadata = fs::metadata(path).ok()?;
        Some((metadata.modified().ok()?, metadata.len()))
    })
}

fn load(files: &TlsFiles) -> Result<ServerConfig, TlsError> {
    let text = read(&files.certificate)?;
    let chain: Vec<CertificateDer<'static>> = CertificateDer::pem_slice_iter(&text)
        .collect::<Result<_, _>>()
        .map_err(|_| TlsError::NoCertificate(files.certificate.clone()))?;
    if chain.is_empty() {
        return Err(TlsError::NoCertificate(files.certificate.clone()));
    }
    let key =
        PrivateKeyDer::from_pem_slice(&read(&files.key)?).map_err(|_| TlsError::NoKey(files.key.clone()))?;
    let unusable =
        |reason| TlsError::Pair { certificate: files.certificate.clone(), key: files.key.clone(), reason };
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&TLS13, &TLS12])
        .map_err(unusable)?
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .map_err(unusable)?;
    config.alpn_protocols = vec![HTTP2.to_vec(), HTTP1.to_vec()];
    Ok(config)
}

fn read(path: &Path) -> Result<Zeroizing<Vec<u8>>, TlsError> {
    let failed = |reason| TlsError::Read { path: path.into(), reason };
    let length = fs::metadata(path).map_err(failed)?.len();
    if length > MAX_FILE {
        return Err(failed(io::Error::other("the file is too large for a certificate or a key")));
    }
    fs::read(path).map(Zeroizing::new).map_err(failed)
}
