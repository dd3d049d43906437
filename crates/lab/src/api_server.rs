//! As much of an API server as kube-proxy asks for: lists and watches of four kinds, read only, in JSON over HTTP/1.1.
//!
//! What always holds: a watch delivers every change after the version that it names, in order, once; or first all that there
//! is (`sendInitialEvents`) and then a bookmark that says so. What it doesn't do: authentication, selectors (whatever is
//! served is selected), and limits: a list is one page. Source: Kubernetes API concepts, "Efficient detection of changes"
//! and "Streaming lists".

use std::io::{BufRead, BufReader, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};

use serde_json::{Value, json};
use socket2::SockRef;

use crate::{LabError, Machine};

/// One kind of object: where it is, what it is called, all of them at version 1.
#[derive(Debug)]
pub struct Collection {
    /// Its path, `/api/v1/nodes`.
    pub path: &'static str,
    /// `v1`, or `group/v1`.
    pub api_version: &'static str,
    /// What one of them is.
    pub kind: &'static str,
    /// What there is at the start.
    pub objects: Vec<Value>,
}

/// The version of all that was there at the start.
const FIRST_VERSION: u64 = 1;

/// A [`Collection`] as it is sent.
#[derive(Debug)]
struct Served {
    path: &'static str,
    list: Vec<u8>,
    initial_events: Vec<u8>,
    /// Changed objects since: the n-th has version n + 2.
    changes: Mutex<Vec<Arc<[u8]>>>,
    more: Condvar,
}

/// A running server.
#[derive(Debug)]
pub struct ApiServer {
    address: SocketAddr,
    listener: TcpListener,
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    collections: Vec<Served>,
    stopped: AtomicBool,
}

impl ApiServer {
    /// Serves on a machine's loopback address.
    ///
    /// # Errors
    /// Where the machine can't be entered, or has no loopback link.
    pub fn start(machine: &Machine, collections: &[Collection]) -> Result<Self, LabError> {
        let failed = |error: std::io::Error| of_this(format!("can't listen on {}: {error}", machine.name()));
        let listener = machine.enter_net(|| TcpListener::bind((Ipv4Addr::LOCALHOST, 0)))?.map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        let collections = collections.iter().map(Served::new).collect();
        let shared = Arc::new(Shared { collections, stopped: AtomicBool::new(false) });
        let (accepting, serving) = (listener.try_clone().map_err(failed)?, Arc::clone(&shared));
        std::thread::spawn(move || {
            // Ends with an error once the listener has been shut down.
            while let Ok((stream, _)) = accepting.accept() {
                let shared = Arc::clone(&serving);
                // A client that goes away in the middle is its own concern.
                std::thread::spawn(move || shared.serve(&stream));
            }
        });
        Ok(Self { address, listener, shared })
    }

    /// `http://…`, on the machine.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Tells all who watch that an object of the collection at `path` has changed; `render` is given its version.
    ///
    /// # Errors
    /// Where no collection has this path.
    pub fn change(&self, path: &str, render: impl FnOnce(u64) -> Value) -> Result<(), LabError> {
        let served = self.shared.collections.iter().find(|c| c.path == path);
        let served = served.ok_or_else(|| of_this(format!("it doesn't serve {path}")))?;
        let mut changes = served.changes.lock().unwrap_or_else(PoisonError::into_inner);
        let version = FIRST_VERSION + 1 + changes.len() as u64;
        changes.push(event("MODIFIED", &render(version)).into());
        served.more.notify_all();
        Ok(())
    }
}

impl Drop for ApiServer {
    fn drop(&mut self) {
        self.shared.stopped.store(true, Ordering::SeqCst);
        // It fails where there is nothing to wake any more.
        let _ = SockRef::from(&self.listener).shutdown(Shutdown::Both);
        for collection in &self.shared.collections {
            let _waiting = collection.changes.lock().unwrap_or_else(PoisonError::into_inner);
            collection.more.notify_all();
        }
    }
}

fn of_this(why: String) -> LabError {
    LabError::Tool { tool: "API server", why }
}

fn event(kind: &str, object: &Value) -> Vec<u8> {
    let mut text = json!({"type": kind, "object": object}).to_string().into_bytes();
    text.push(b'\n');
    text
}

impl Served {
    fn new(collection: &Collection) -> Self {
        let Collection { path, api_version, kind, objects } = collection;
        let version = FIRST_VERSION.to_string();
        let list = json!({
            "apiVersion": api_version,
            "kind": format!("{kind}List"),
            "metadata": {"resourceVersion": version},
            "items": objects,
        });
        let bookmark = json!({
            "apiVersion": api_version,
            "kind": kind,
            "metadata": {"resourceVersion": version, "annotations": {"k8s.io/initial-events-end": "true"}},
        });
        let mut initial_events: Vec<u8> = objects.iter().flat_map(|object| event("ADDED", object)).collect();
        initial_events.extend(event("BOOKMARK", &bookmark));
        Self {
            path,
            list: list.to_string().into_bytes(),
            initial_events,
            changes: Mutex::default(),
            more: Condvar::new(),
        }
    }

    /// Waits for the change with this index; nothing once the server has stopped.
    fn change(&self, index: usize, stopped: &AtomicBool) -> Option<Arc<[u8]>> {
        let mut changes = self.changes.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            if stopped.load(Ordering::SeqCst) {
                return None;
            }
            if let Some(change) = changes.get(index) {
                return Some(Arc::clone(change));
            }
            changes = self.more.wait(changes).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn watch(&self, stream: &TcpStream, query: &Query, stopped: &AtomicBool) -> std::io::Result<()> {
        let mut out = stream;
        out.write_all(
            b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n",
        )?;
        let mut index = 0;
        if query.initial_events {
            write_chunk(stream, &self.initial_events)?;
        } else {
            index = usize::try_from(query.version.saturating_sub(FIRST_VERSION)).unwrap_or(usize::MAX);
        }
        while let Some(change) = self.change(index, stopped) {
            write_chunk(stream, &change)?;
            index += 1;
        }
        Ok(())
    }
}

fn write_chunk(mut stream: &TcpStream, bytes: &[u8]) -> std::io::Result<()> {
    let mut chunk = format!("{:x}\r\n", bytes.len()).into_bytes();
    chunk.extend_from_slice(bytes);
    chunk.extend_from_slice(b"\r\n");
    stream.write_all(&chunk)
}

impl Shared {
    /// Answers the requests of one connection.
    fn serve(&self, stream: &TcpStream) -> std::io::Result<()> {
        stream.set_nodelay(true)?;
        let mut lines = BufReader::new(stream).lines();
        while let Some(first) = lines.next() {
            let first = first?;
            // Headers change nothing here; requests with a body are refused, and end the connection.
            for header in lines.by_ref() {
                if header?.is_empty() {
                    break;
                }
            }
            let Some(target) = first.strip_prefix("GET ").and_then(|rest| rest.split(' ').next()) else {
                return answer(stream, "405 Method Not Allowed", &status(405));
            };
            let (path, query) = target.split_once('?').unwrap_or((target, ""));
            let query = Query::parse(query);
            match self.collections.iter().find(|c| c.path == path) {
                None => answer(stream, "404 Not Found", &status(404))?,
                Some(served) if query.watch => return served.watch(stream, &query, &self.stopped),
                Some(served) => answer(stream, "200 OK", &served.list)?,
            }
        }
        Ok(())
    }
}

fn status(code: u16) -> Vec<u8> {
    json!({"apiVersion": "v1", "kind": "Status", "status": "Failure", "code": code}).to_string().into_bytes()
}

fn answer(mut stream: &TcpStream, status: &str, body: &[u8]) -> std::io::Result<()> {
    let head = format!(
        "HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    stream.write_all(&[head.as_bytes(), body].concat())
}

/// What of a query matters.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
struct Query {
    watch: bool,
    initial_events: bool,
    version: u64,
}

impl Query {
    fn parse(text: &str) -> Self {
        let mut query = Self::default();
        for (key, value) in text.split('&').filter_map(|pair| pair.split_once('=')) {
            let yes = matches!(value, "true" | "1");
            match key {
                "watch" => query.watch = yes,
                "sendInitialEvents" => query.initial_events = yes,
                "resourceVersion" => query.version = value.parse().unwrap_or(0),
                _ => {}
            }
        }
        query
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, expected: Query) {
        assert_eq!(Query::parse(text), expected);
    }

    #[test]
    fn queries() {
        check("", Query::default());
        check("limit=500&resourceVersion=0", Query::default());
        check("watch=true&resourceVersion=7", Query { watch: true, version: 7, ..Query::default() });
        check("watch=1&sendInitialEvents=true", Query { watch: true, initial_events: true, version: 0 });
    }

    #[test]
    fn what_is_streamed_first_ends_with_a_bookmark() {
        let served = Served::new(&Collection {
            path: "/x",
            api_version: "v1",
            kind: "Thing",
            objects: vec![json!({"metadata": {"name": "a"}})],
        });
        insta::assert_snapshot!(String::from_utf8_lossy(&served.initial_events), @r#"
        {"object":{"metadata":{"name":"a"}},"type":"ADDED"}
        {"object":{"apiVersion":"v1","kind":"Thing","metadata":{"annotations":{"k8s.io/initial-events-end":"true"},"resourceVersion":"1"}},"type":"BOOKMARK"}
        "#);
    }
}
