//! TLS as both stores want it: the cluster's own certificates, `ring`, and no default of anybody's.

use std::sync::Arc;

use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore};

/// What can't be used, and why.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Refused {
    /// A certificate of who vouches for the server.
    #[error("a CA certificate can't be used: {0}")]
    Root(rustls::Error),
    /// Our own certificate, or its key.
    #[error("the client certificate can't be used: {0}")]
    Identity(rustls::Error),
    /// Neither: TLS itself.
    #[error("{0}")]
    Protocol(rustls::Error),
}

/// Believes servers whom one of the roots vouches for, and shows the identity, where there is one.
pub(crate) fn client_config(
    roots: impl IntoIterator<Item = CertificateDer<'static>>,
    identity: Option<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>)>,
) -> Result<ClientConfig, Refused> {
    let mut store = RootCertStore::empty();
    for root in roots {
        store.add(root).map_err(Refused::Root)?;
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(Refused::Protocol)?
        .with_root_certificates(store);
    match identity {
        Some((certificates, key)) => {
            builder.with_client_auth_cert(certificates, key).map_err(Refused::Identity)
        }
        None => Ok(builder.with_no_client_auth()),
    }
}
