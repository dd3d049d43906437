//! Where the API server is, and as whom it is spoken to: a kubeconfig, and what overrides it.
//!
//! What always holds: credentials never appear in an error. A server's certificate is always verified.
//!
//! What is absent: when files are read again ([`super::credentials`]).

use std::io;
use std::path::{Path, PathBuf};

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use hyper::Uri;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use serde::Deserialize;
use serde::de::DeserializeOwned;

/// Why nobody can be spoken to: a file or a field, what is wrong with it, and the mend.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{place}: {reason}")]
pub struct AccessError {
    /// The file, with the field in it, or the field of the configuration.
    pub place: String,
    /// What is wrong, and what to do.
    pub reason: String,
}

fn wrong(place: impl Into<String>, reason: impl Into<String>) -> AccessError {
    AccessError { place: place.into(), reason: reason.into() }
}

/// Where access stands; nothing is read before it is needed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AccessSource {
    /// A kubeconfig: server, CA and credentials of its current context.
    pub kubeconfig: Option<PathBuf>,
    /// The server's address, instead of the kubeconfig's.
    pub server: Option<String>,
    /// A bearer token, instead of the kubeconfig's credentials.
    pub token_file: Option<PathBuf>,
    /// The CA that signs the server's certificate, instead of the kubeconfig's.
    pub ca_file: Option<PathBuf>,
}

/// A bearer token.
#[derive(Clone, PartialEq, Eq)]
pub(super) enum Token {
    None,
    Fixed(String),
    File(PathBuf),
}

impl Token {
    /// The token as it is now.
    pub fn read(&self) -> Result<Option<String>, AccessError> {
        match self {
            Token::None => Ok(None),
            Token::Fixed(token) => Ok(Some(token.clone())),
            Token::File(path) => match read(path)?.trim() {
                "" => Err(wrong(path.display().to_string(), "the token's file is empty")),
                token => Ok(Some(token.to_owned())),
            },
        }
    }
}

/// All that a connection needs.
pub(super) struct Access {
    /// `https://192.0.2.10:6443`, perhaps with a path.
    pub server: Uri,
    /// The name in the server's certificate, where it isn't the address's.
    pub tls_name: Option<String>,
    /// Certificates that sign the server's.
    pub roots: Vec<CertificateDer<'static>>,
    /// Our certificate with its chain, and its key.
    pub identity: Option<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>)>,
    pub token: Token,
}

impl AccessSource {
    /// Where certificates are named: the kubeconfig, or the CA's file.
    pub(super) fn place(&self) -> String {
        let file = self.kubeconfig.as_ref().or(self.ca_file.as_ref());
        file.map_or_else(|| "store.kubernetes".to_owned(), |path| path.display().to_string())
    }

    /// Reads all that is named.
    ///
    /// # Errors
    /// [`AccessError`].
    pub(super) fn load(&self) -> Result<Access, AccessError> {
        let config = match &self.kubeconfig {
            Some(path) => Some(Chosen::read(path)?),
            None => None,
        };
        let (server, place) = match (&self.server, &config) {
            (Some(server), _) => (server.as_str(), "store.kubernetes.server".to_owned()),
            (None, Some(config)) => (config.cluster.server.as_str(), config.place("server")),
            (None, None) => {
                let reason = "there is neither a server nor a kubeconfig; give one of the two";
                return Err(wrong("store.kubernetes", reason));
            }
        };
        let server = parse_server(server).map_err(|reason| wrong(&*place, reason))?;
        let roots = match (&self.ca_file, &config) {
            (Some(path), _) => certificates(&read(path)?, &path.display().to_string())?,
            (None, Some(config)) => config.roots()?,
            (None, None) => Vec::new(),
        };
        if roots.is_empty() && server.scheme_str() == Some("https") {
            let reason = "no CA is known that the server's certificate could be verified with; give its file";
            return Err(wrong("store.kubernetes.caFile", reason));
        }
        let (identity, token) = match (&self.token_file, &config) {
            (Some(path), _) => (None, Token::File(path.clone())),
            (None, Some(config)) => config.credentials()?,
            (None, None) => (None, Token::None),
        };
        let is_secret = identity.is_some() || token != Token::None;
        if is_secret && server.scheme_str() == Some("http") && !is_this_machine(&server) {
            let reason = "credentials would cross the network in the clear; write https://HOST:PORT";
            return Err(wrong(place, reason));
        }
        let tls_name = config.and_then(|c| c.cluster.tls_server_name).filter(|name| !name.is_empty());
        Ok(Access { server, tls_name, roots, identity, token })
    }
}

fn parse_server(text: &str) -> Result<Uri, String> {
    let uri: Uri = text.trim_end_matches('/').parse().map_err(|_| format!("{text:?} is no address"))?;
    match (uri.scheme_str(), uri.host()) {
        (Some("https" | "http"), Some(_)) => Ok(uri),
        _ => Err(format!("{text:?} is no address; write https://HOST:PORT")),
    }
}

/// True for addresses that no other machine has. A name may lead anywhere, `localhost` apart (RFC 6761 §6.3).
fn is_this_machine(server: &Uri) -> bool {
    let host = server.host().unwrap_or_default().trim_matches(['[', ']']);
    host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

/// A kubeconfig's fields (`k8s.io/client-go/tools/clientcmd/api/v1`), as far as they are used.
#[derive(Default, Deserialize)]
#[serde(default, rename_all = "kebab-case")]
struct Kubeconfig {
    clusters: Vec<NamedCluster>,
    users: Vec<NamedUser>,
    contexts: Vec<NamedContext>,
    current_context: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct NamedCluster {
    name: String,
    cluster: Cluster,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "kebab-case")]
struct Cluster {
    server: String,
    certificate_authority: Option<PathBuf>,
    certificate_authority_data: Option<String>,
    tls_server_name: Option<String>,
    insecure_skip_tls_verify: bool,
    proxy_url: Option<String>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct NamedUser {
    name: String,
    user: User,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "kebab-case")]
struct User {
    token: Option<String>,
    #[serde(rename = "tokenFile")]
    token_file: Option<PathBuf>,
    client_certificate: Option<PathBuf>,
    client_certificate_data: Option<String>,
    client_key: Option<PathBuf>,
    client_key_data: Option<String>,
    exec: Option<Unused>,
    auth_provider: Option<Unused>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct NamedContext {
    name: String,
    context: Context,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Context {
    cluster: String,
    user: String,
}

/// A field whose presence is all that matters.
#[derive(Debug, Deserialize)]
struct Unused {}

/// The cluster and the user of a kubeconfig's current context.
struct Chosen {
    path: PathBuf,
    cluster: Cluster,
    user: User,
}

impl Chosen {
    fn read(path: &Path) -> Result<Self, AccessError> {
        let file = path.display().to_string();
        let config: Kubeconfig = parse_yaml(&read(path)?, &file)?;
        let named = |kind: &str, name: &str| wrong(&*file, format!("it has no {kind} {name:?}"));
        let (contexts, current) = (config.contexts, config.current_context);
        let context = contexts.into_iter().find(|c| c.name == current);
        let context = context.ok_or_else(|| named("context", &current))?.context;
        let cluster = config.clusters.into_iter().find(|c| c.name == context.cluster);
        let cluster = cluster.ok_or_else(|| named("cluster", &context.cluster))?.cluster;
        let user = config.users.into_iter().find(|u| u.name == context.user);
        let user = user.ok_or_else(|| named("user", &context.user))?.user;
        let chosen = Self { path: path.to_owned(), cluster, user };
        if chosen.cluster.insecure_skip_tls_verify {
            let reason = "a server that isn't verified could be anybody; give certificate-authority instead";
            return Err(wrong(chosen.place("insecure-skip-tls-verify"), reason));
        }
        if chosen.cluster.proxy_url.is_some() {
            let reason = "Weft speaks to the server without proxies; give an address that it can reach";
            return Err(wrong(chosen.place("proxy-url"), reason));
        }
        Ok(chosen)
    }

    fn place(&self, field: &str) -> String {
        format!("{}: {field}", self.path.display())
    }

    /// Relative paths count from the kubeconfig's own folder.
    fn resolve(&self, path: &Path) -> PathBuf {
        self.path.parent().map_or_else(|| path.to_owned(), |folder| folder.join(path))
    }

    /// The text of a PEM that stands in the file as base64, or in a file of its own.
    fn pem(
        &self,
        field: &str,
        data: Option<&String>,
        path: Option<&PathBuf>,
    ) -> Result<Option<(String, String)>, AccessError> {
        if let Some(data) = data.filter(|d| !d.is_empty()) {
            let place = self.place(&format!("{field}-data"));
            let bytes = BASE64_STANDARD.decode(data.trim()).ok();
            let text = bytes.and_then(|bytes| String::from_utf8(bytes).ok());
            let text = text.ok_or_else(|| wrong(&*place, "it is no PEM in base64"))?;
            return Ok(Some((text, place)));
        }
        let Some(path) = path.filter(|p| !p.as_os_str().is_empty()) else { return Ok(None) };
        let path = self.resolve(path);
        Ok(Some((read(&path)?, path.display().to_string())))
    }

    fn roots(&self) -> Result<Vec<CertificateDer<'static>>, AccessError> {
        let cluster = &self.cluster;
        let data = cluster.certificate_authority_data.as_ref();
        match self.pem("certificate-authority", data, cluster.certificate_authority.as_ref())? {
            Some((text, place)) => certificates(&text, &place),
            None => Ok(Vec::new()),
        }
    }

    #[expect(clippy::type_complexity, reason = "the two fields of `Access`")]
    fn credentials(
        &self,
    ) -> Result<(Option<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>)>, Token), AccessError> {
        let user = &self.user;
        let token = match (&user.token_file, &user.token) {
            (Some(path), _) => Token::File(self.resolve(path)),
            (None, Some(token)) if !token.is_empty() => Token::Fixed(token.clone()),
            _ => Token::None,
        };
        let certificate = self.pem(
            "client-certificate",
            user.client_certificate_data.as_ref(),
            user.client_certificate.as_ref(),
        )?;
        let Some((text, place)) = certificate else {
            if token == Token::None && (user.exec.is_some() || user.auth_provider.is_some()) {
                let reason = "Weft runs no programs for credentials; give it a token with `tokenFile`";
                return Err(wrong(self.place("exec"), reason));
            }
            return Ok((None, token));
        };
        let chain = certificates(&text, &place)?;
        let key = self.pem("client-key", user.client_key_data.as_ref(), user.client_key.as_ref())?;
        let Some((text, place)) = key else {
            return Err(wrong(self.place("client-key"), "a certificate is given, and no key for it"));
        };
        let key = PrivateKeyDer::from_pem_slice(text.as_bytes())
            .map_err(|error| wrong(place, format!("it holds no private key ({error})")))?;
        Ok((Some((chain, key)), token))
    }
}

fn parse_yaml<T: DeserializeOwned>(text: &str, file: &str) -> Result<T, AccessError> {
    serde_saphyr::from_str(text).map_err(|error| {
        let line = error.location().map_or(String::new(), |at| format!(":{}", at.line()));
        // The parser's own words may repeat what stands there, and that may be a secret.
        wrong(format!("{file}{line}"), "it is no kubeconfig")
    })
}

fn certificates(text: &str, place: &str) -> Result<Vec<CertificateDer<'static>>, AccessError> {
    let parsed: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(text.as_bytes()).collect();
    match parsed {
        Ok(certificates) if !certificates.is_empty() => Ok(certificates),
        Ok(_) => Err(wrong(place, "it holds no certificate")),
        Err(error) => Err(wrong(place, format!("it holds no certificate ({error})"))),
    }
}

fn read(path: &Path) -> Result<String, AccessError> {
    std::fs::read_to_string(path)
        .map_err(|error: io::Error| wrong(path.display().to_string(), format!("it can't be read: {error}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What loading says, for a kubeconfig of this text.
    fn check(text: &str, change: impl Fn(&mut AccessSource), expected: Result<(&str, &str), &str>) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("config");
        std::fs::write(&path, text).unwrap();
        std::fs::write(folder.path().join("token"), "from-file\n").unwrap();
        let mut source = AccessSource { kubeconfig: Some(path), ..AccessSource::default() };
        change(&mut source);
        let loaded = source.load();
        let found = loaded
            .as_ref()
            .map_err(ToString::to_string)
            .map(|access| (access.server.to_string(), access.token.read().unwrap().unwrap_or_default()));
        match expected {
            Ok((server, token)) => assert_eq!(found, Ok((server.to_owned(), token.to_owned())), "{text}"),
            Err(part) => {
                let error = found.expect_err(text);
                assert!(error.contains(part), "{text}: {error}");
                assert!(!error.contains("hush"), "a secret is told: {error}");
            }
        }
    }

    const CONFIG: &str = "
clusters: [{name: k, cluster: {server: \"http://127.0.0.1:8080/\"}}]
users: [{name: u, user: {token: hush}}]
contexts: [{name: c, context: {cluster: k, user: u}}]
current-context: c
";

    #[test]
    fn a_kubeconfig_is_read_and_overridden_and_what_is_wrong_is_named() {
        let keep = |_: &mut AccessSource| {};
        check(CONFIG, keep, Ok(("http://127.0.0.1:8080/", "hush")));
        check(CONFIG, |s| s.server = Some("http://[::1]:80".into()), Ok(("http://[::1]:80/", "hush")));
        check(
            &CONFIG.replace("token: hush", "tokenFile: token"),
            keep,
            Ok(("http://127.0.0.1:8080/", "from-file")),
        );
        // With a token of its own, Weft doesn't care what the kubeconfig's credentials are.
        let exec = CONFIG.replace("token: hush", "exec: {command: get-hush}");
        check(
            &exec,
            |s| s.token_file = s.kubeconfig.as_ref().map(|p| p.with_file_name("token")),
            Ok(("http://127.0.0.1:8080/", "from-file")),
        );
        check(&exec, keep, Err("exec: Weft runs no programs"));
        check(&CONFIG.replace("http:", "https:"), keep, Err("caFile: no CA is known"));
        check(&CONFIG.replace("http:", "ftp:"), keep, Err("server: \"ftp://127.0.0.1:8080/\" is no address"));
        check(&CONFIG.replace("current-context: c", "current-context: d"), keep, Err("no context \"d\""));
        check(&CONFIG.replace("user: u", "user: v"), keep, Err("no user \"v\""));
        check("clusters: hush", keep, Err("config:1: it is no kubeconfig"));
        check(
            &CONFIG.replace("token: hush", "client-certificate-data: aHVzaA=="),
            keep,
            Err("client-certificate-data: it holds no certificate"),
        );
        check(
            &CONFIG.replace("8080/\"", "8080\", insecure-skip-tls-verify: true"),
            keep,
            Err("insecure-skip-tls-verify: a server that isn't verified"),
        );
        let remote = "server: credentials would cross the network";
        check(CONFIG, |s| s.server = Some("http://192.0.2.1:8080".into()), Err(remote));
        check(CONFIG, |s| s.server = Some("http://[2001:db8::1]".into()), Err(remote));
        check(CONFIG, |s| s.server = Some("http://localhost.example:80".into()), Err(remote));
        check(
            CONFIG,
            |s| s.server = Some("http://localhost:80".into()),
            Ok(("http://localhost:80/", "hush")),
        );
        check(
            &CONFIG.replace("token: hush", "token: ''").replace("127.0.0.1", "192.0.2.1"),
            keep,
            Ok(("http://192.0.2.1:8080/", "")),
        );
        check(CONFIG, |s| s.kubeconfig = None, Err("neither a server nor a kubeconfig"));
        check(CONFIG, |s| s.ca_file = Some("/nowhere/ca".into()), Err("/nowhere/ca: it can't be read"));
    }
}
