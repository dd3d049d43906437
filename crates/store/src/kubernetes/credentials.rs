//! The server, and as whom it is spoken to, ready for connections.
//!
//! What always holds: each connection has what the files say as it is made, and each request the token of that moment, as kubelets and
//! projected volumes renew them in place. Files that can't be used at the moment, half written or gone, leave what stood in them before
//! ([`Kept`]).
//!
//! What is absent: what the files look like ([`super::access`]), and connections.

use std::sync::Arc;
use std::time::Duration;

use hyper::Uri;
use rustls::ClientConfig;
use tokio::sync::watch;

use super::access::{AccessSource, Token};
use crate::http::{Kept, client_config};
use crate::store::Notice;

/// All that a connection needs.
pub(super) struct Ready {
    /// `https://192.0.2.10:6443`, perhaps with a path.
    pub server: Uri,
    /// The name in the server's certificate, where it isn't the address's.
    pub tls_name: Option<String>,
    /// Whom to believe, and as whom; nothing for `http`. Which versions of HTTP to speak is each connection's own affair.
    pub tls: Option<Arc<ClientConfig>>,
    pub token: Token,
}

impl Ready {
    fn read(source: &AccessSource) -> Result<Self, String> {
        let access = source.load().map_err(|error| error.to_string())?;
        let tls = match access.server.scheme_str() {
            Some("https") => {
                let config = client_config(access.roots, access.identity);
                Some(Arc::new(config.map_err(|refused| format!("{}: {refused}", source.place()))?))
            }
            _ => None,
        };
        Ok(Self { server: access.server, tls_name: access.tls_name, tls, token: access.token })
    }
}

/// See the module.
pub(super) struct Credentials {
    source: AccessSource,
    ready: Kept<Ready>,
    token: Kept<Option<String>>,
}

impl Credentials {
    pub fn of(source: AccessSource) -> Self {
        Self {
            source,
            ready: Kept::nothing("access to the Kubernetes API server"),
            token: Kept::nothing("token for the Kubernetes API server"),
        }
    }

    /// What the next connection is made with.
    pub fn ready(&self) -> Result<Arc<Ready>, String> {
        // A certificate and its key may be two reads of one file, which is replaced in between.
        self.ready.or_last(Ready::read(&self.source).or_else(|_| Ready::read(&self.source)))
    }

    /// What the next request bears.
    pub fn token(&self, of: &Token) -> Result<Arc<Option<String>>, String> {
        self.token.or_last(of.read().map_err(|error| error.to_string()))
    }

    /// What is wrong with the files, as it is and as it changes.
    pub fn subscribe(&self) -> [watch::Receiver<Notice>; 2] {
        [self.ready.subscribe(), self.token.subscribe()]
    }

    /// Reads again what couldn't be read: connections last for hours, and a notice shall not.
    pub async fn read_again(&self, pause: Duration) {
        loop {
            tokio::time::sleep(pause).await;
            if (self.ready.is_outdated() || self.token.is_outdated())
                && let Ok(ready) = self.ready()
            {
                // Whether it can be read stands in the notice.
                let _ = self.token(&ready.token);
            }
        }
    }
}
