//! The least that speaks to an API server: one request a connection, HTTP/1.0 over TLS, so that an answer ends with it.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};
use serde_json::Value;

/// A token that may do everything.
pub const TOKEN: &str = "the-benchmark";

/// Where the server is.
#[derive(Debug, Clone)]
pub struct Api {
    pub port: u16,
    pub ca: PathBuf,
}

/// The body of an answer.
pub type Body = BufReader<StreamOwned<ClientConnection, TcpStream>>;

impl Api {
    /// Sends a request; returns the status and what follows.
    pub fn open(
        &self,
        method: &str,
        path: &str,
        accept: &str,
        (content_type, body): (&str, &str),
    ) -> Result<(u16, Body)> {
        let mut stream = self.connect(&self.ca)?;
        let head = format!(
            "{method} {path} HTTP/1.0\r\nHost: 127.0.0.1\r\nAuthorization: Bearer {TOKEN}\r\nAccept: {accept}\r\n\
             Content-Type: {content_type}\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        );
        stream.write_all(head.as_bytes()).context("the API server takes no request")?;
        let mut reader = BufReader::with_capacity(1 << 16, stream);
        let mut line = String::new();
        reader.read_line(&mut line).context("the API server gives no answer")?;
        let status = line.split(' ').nth(1).and_then(|s| s.parse().ok()).context("that is no HTTP")?;
        while line.trim() != "" {
            line.clear();
            reader.read_line(&mut line).context("the API server's answer breaks off")?;
        }
        Ok((status, reader))
    }

    /// Sends a request and reads the whole answer.
    pub fn ask(&self, method: &str, path: &str, content_type: &str, body: &Value) -> Result<()> {
        let text = if body.is_null() { String::new() } else { body.to_string() };
        let (status, mut reader) = self.open(method, path, "application/json", (content_type, &text))?;
        let mut answer = Vec::new();
        // A server that closes without saying so in TLS's words has said all the same.
        let _ = reader.read_to_end(&mut answer);
        if (200..300).contains(&status) {
            return Ok(());
        }
        bail!("{method} {path}: {status}: {}", String::from_utf8_lossy(&answer).trim())
    }

    fn connect(&self, ca: &Path) -> Result<StreamOwned<ClientConnection, TcpStream>> {
        let mut roots = RootCertStore::empty();
        for certificate in CertificateDer::pem_file_iter(ca).context("no certificate yet")? {
            roots.add(certificate?)?;
        }
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
        let config = config.with_root_certificates(roots).with_no_client_auth();
        let connection = ClientConnection::new(Arc::new(config), ServerName::try_from("127.0.0.1")?)?;
        let socket = TcpStream::connect(("127.0.0.1", self.port)).context("no API server yet")?;
        socket.set_nodelay(true)?;
        Ok(StreamOwned::new(connection, socket))
    }
}
