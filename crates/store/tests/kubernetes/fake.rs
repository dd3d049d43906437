//! An API server of the test's own, which can do all that servers should not.
//!
//! It speaks HTTP/1.1, one request a connection, and knows objects, versions, lists, streamed lists, watches with
//! bookmarks, patches, and deletions with preconditions and finalizers. What goes wrong is said by [`Faults`].

use std::cell::Cell;
use std::collections::{BTreeMap, VecDeque};
use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::{Duration, Instant, SystemTime};

use serde_json::{Value, json};

/// Time between bookmarks.
const BOOKMARKS: Duration = Duration::from_millis(50);

/// What goes wrong.
#[derive(Debug, Clone, Default)]
pub struct Faults {
    /// Connections are closed as soon as they come.
    pub down: bool,
    /// Watches that are open say nothing more, and those to come say nothing at all.
    pub mute: bool,
    /// Lists can't be streamed.
    pub no_streams: bool,
    /// Lists are streamed up to their last object, and no further.
    pub no_end: bool,
    /// A list's next page is always asked for too late.
    pub forgets_pages: bool,
    /// And the next list in pages is refused, as the server has too much to do.
    pub busy_between_pages: bool,
    /// Kinds that the server doesn't know, by the last part of their path.
    pub unknown: Vec<&'static str>,
    /// Answers to the next requests, before anything else: status and `Retry-After`.
    pub refuse: VecDeque<(u16, Option<u64>)>,
    /// The same for the next watches that go on from a version.
    pub refuse_watches: VecDeque<(u16, Option<u64>)>,
    /// Streamed lists break off after as many objects.
    pub cut_lists: Option<usize>,
    /// How far the server's clock is behind this machine's.
    pub behind: Duration,
    /// Answers don't say what time it is.
    pub timeless: bool,
    /// Answers to the next requests that change something are lost, after the change.
    pub lose_answers: usize,
}

/// A change that was made.
struct Entry {
    version: u64,
    collection: String,
    kind: &'static str,
    object: Value,
}

#[derive(Default)]
struct State {
    version: u64,
    /// Watches from before this version can't be served.
    compacted: u64,
    objects: BTreeMap<String, BTreeMap<String, Value>>,
    history: Vec<Entry>,
    faults: Faults,
    token: String,
    /// Text that open watches of a collection are sent as it is.
    raw: BTreeMap<String, Vec<String>>,
    /// Watches of an older epoch are closed.
    epoch: u64,
    requests: Vec<(Instant, String)>,
    /// The next list in pages is refused.
    is_busy: Cell<bool>,
}

/// See the module.
#[derive(Clone)]
pub struct Fake {
    address: SocketAddr,
    state: Arc<(Mutex<State>, Condvar)>,
}

struct Request {
    method: String,
    path: String,
    query: BTreeMap<String, String>,
    token: String,
    body: Value,
}

impl Fake {
    /// Serves until the process ends.
    pub fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let fake = Self { address: listener.local_addr().unwrap(), state: Arc::default() };
        fake.lock().version = 1000;
        let server = fake.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let server = server.clone();
                // A client that has gone away is no failure.
                std::thread::spawn(move || drop(server.serve(stream)));
            }
        });
        fake
    }

    pub fn address(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Where it listens.
    pub fn socket(&self) -> SocketAddr {
        self.address
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.0.lock().unwrap()
    }

    fn change<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        let changed = change(&mut self.lock());
        self.state.1.notify_all();
        changed
    }

    /// Sets what goes wrong from now on.
    pub fn set_faults(&self, faults: Faults) {
        self.change(|state| state.faults = faults);
    }

    /// Adds or replaces an object of a collection, such as `api/v1/nodes`.
    pub fn put(&self, collection: &str, object: Value) {
        self.change(|state| state.put(collection, object));
    }

    pub fn delete(&self, collection: &str, name: &str) {
        self.change(|state| state.delete(collection, name));
    }

    /// It never was: nobody is told.
    pub fn lose(&self, collection: &str, name: &str) {
        self.change(|state| {
            state.objects.entry(collection.into()).or_default().remove(name);
        });
    }

    /// Ends an object as the garbage collector does: one with finalizers stays until they are taken off.
    pub fn collect(&self, collection: &str, name: &str) {
        let (method, path) = ("DELETE".to_owned(), format!("/{collection}/{name}"));
        let (query, token) = (BTreeMap::new(), String::new());
        let request = Request { method, path, query, token, body: Value::Null };
        self.change(|state| state.write(&request)).unwrap();
    }

    pub fn object(&self, collection: &str, name: &str) -> Option<Value> {
        self.lock().objects.get(collection)?.get(name).cloned()
    }

    /// What an object of a collection was after each change that named it, in their order; nothing where it was removed.
    pub fn history(&self, collection: &str) -> Vec<(String, Option<Value>)> {
        let state = self.lock();
        let of = state.history.iter().filter(|entry| entry.collection == collection);
        let told = |entry: &Entry| {
            let name = entry.object["metadata"]["name"].as_str().unwrap().to_owned();
            (name, (entry.kind != "DELETED").then(|| entry.object.clone()))
        };
        of.map(told).collect()
    }

    /// Forgets what came before now: watches from earlier on are answered with 410.
    pub fn compact(&self) {
        self.change(|state| {
            state.compacted = state.version;
            state.history.clear();
        });
    }

    /// Closes all connections.
    pub fn hang_up(&self) {
        self.change(|state| state.epoch += 1);
    }

    /// Started anew, at once: connections are closed, and no watch can go on, whatever bookmark it has had.
    pub fn restart(&self) {
        self.change(|state| {
            state.version += 1;
            state.compacted = state.version;
            state.history.clear();
            state.epoch += 1;
        });
    }

    /// Restored from an old backup: connections are closed, and versions begin lower.
    pub fn go_back(&self, version: u64) {
        self.change(|state| {
            (state.version, state.compacted) = (version, 0);
            state.history.clear();
            state.epoch += 1;
        });
    }

    /// Sends a text as it is to all who watch the collection now.
    pub fn send_raw(&self, collection: &str, text: &str) {
        self.change(|state| state.raw.entry(collection.into()).or_default().push(text.into()));
    }

    /// Nobody without this token is served.
    pub fn set_token(&self, token: &str) {
        self.change(|state| state.token = token.into());
    }

    /// When which requests came, as `METHOD PATH?QUERY`.
    pub fn requests(&self) -> Vec<(Instant, String)> {
        self.lock().requests.clone()
    }

    fn serve(&self, stream: TcpStream) -> std::io::Result<()> {
        if self.lock().faults.down {
            return Ok(());
        }
        let mut reader = BufReader::new(stream.try_clone()?);
        let mut stream = stream;
        let Some((request, line)) = read_request(&mut reader)? else { return Ok(()) };
        let refusal = self.change(|state| {
            state.requests.push((Instant::now(), line));
            if !state.token.is_empty() && state.token != request.token {
                return Some((401, None));
            }
            let goes_on =
                request.query.contains_key("watch") && request.query.contains_key("resourceVersion");
            let faults = &mut state.faults;
            faults.refuse.pop_front().or_else(|| goes_on.then(|| faults.refuse_watches.pop_front())?)
        });
        if let Some((status, retry_after)) = refusal {
            let header = retry_after.map_or(String::new(), |s| format!("Retry-After: {s}\r\n"));
            return answer(&mut stream, status, &header, &status_object(status));
        }
        match (request.method.as_str(), request.query.contains_key("watch")) {
            ("GET", true) => self.watch(&mut stream, &request),
            ("GET", false) => self.get(&mut stream, &request),
            _ => self.write(&mut stream, &request),
        }
    }

    fn get(&self, stream: &mut TcpStream, request: &Request) -> std::io::Result<()> {
        let found = {
            let state = self.lock();
            let collection = request.path.trim_start_matches('/');
            match state.objects.get(collection) {
                _ if state.is_unknown(collection) => Err(404),
                Some(objects) => state.page(objects, &request.query),
                None => match collection.rsplit_once('/') {
                    Some((parent, name)) if state.objects.contains_key(parent) => {
                        state.objects[parent].get(name).cloned().ok_or(404)
                    }
                    _ => state.page(&BTreeMap::new(), &request.query),
                },
            }
        };
        let date = self.lock().date();
        match found {
            Ok(object) => answer(stream, 200, &date, &object),
            Err(status) => answer(stream, status, "", &status_object(status)),
        }
    }

    fn write(&self, stream: &mut TcpStream, request: &Request) -> std::io::Result<()> {
        let (done, is_lost) = self.change(|state| {
            let done = state.write(request);
            let is_lost = state.faults.lose_answers > 0;
            state.faults.lose_answers = state.faults.lose_answers.saturating_sub(1);
            (done, is_lost)
        });
        match done {
            _ if is_lost => Ok(()),
            Ok(object) => answer(stream, 200, "", &object),
            Err(status) => answer(stream, status, "", &status_object(status)),
        }
    }

    fn watch(&self, stream: &mut TcpStream, request: &Request) -> std::io::Result<()> {
        let collection = request.path.trim_start_matches('/').to_owned();
        let is_streamed = request.query.contains_key("sendInitialEvents");
        let (epoch, mut position, first, end, status) = {
            let state = self.lock();
            let from = request.query.get("resourceVersion").and_then(|v| v.parse::<u64>().ok());
            let status = match from {
                _ if state.is_unknown(&collection) => 404,
                _ if is_streamed && state.faults.no_streams => 422,
                Some(from) if from < state.compacted => 410,
                _ => 200,
            };
            let objects = state.objects.get(&collection).filter(|_| is_streamed);
            let first: Vec<Value> = objects.into_iter().flat_map(BTreeMap::values).cloned().collect();
            let ends = is_streamed && !state.faults.no_end;
            (state.epoch, from.unwrap_or(state.version), first, ends.then_some(state.version), status)
        };
        if status != 200 {
            return answer(stream, status, "", &status_object(status));
        }
        write!(stream, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")?;
        let cut = self.lock().faults.cut_lists;
        for (i, object) in first.iter().enumerate() {
            if cut.is_some_and(|cut| i >= cut) {
                return Ok(());
            }
            chunk(stream, &format!("{}\n", json!({ "type": "ADDED", "object": object })))?;
        }
        if let Some(version) = end {
            let annotations = json!({ "k8s.io/initial-events-end": "true" });
            chunk(stream, &bookmark(version, &annotations))?;
        }
        let mut raw = self.lock().raw.get(&collection).map_or(0, Vec::len);
        loop {
            let texts = {
                let state = self.lock();
                let (state, _) = self.state.1.wait_timeout(state, BOOKMARKS).unwrap();
                if state.epoch != epoch || state.faults.down {
                    return Ok(());
                }
                if state.faults.mute {
                    continue;
                }
                state.news(&collection, &mut position, &mut raw)
            };
            for text in texts {
                chunk(stream, &text)?;
            }
        }
    }
}

impl State {
    fn put(&mut self, collection: &str, mut object: Value) {
        self.version += 1;
        object["metadata"]["resourceVersion"] = self.version.to_string().into();
        let name = object["metadata"]["name"].as_str().unwrap().to_owned();
        let objects = self.objects.entry(collection.into()).or_default();
        let kind = if objects.insert(name, object.clone()).is_none() { "ADDED" } else { "MODIFIED" };
        self.note(collection, kind, object);
    }

    fn note(&mut self, collection: &str, kind: &'static str, mut object: Value) {
        object["metadata"]["resourceVersion"] = self.version.to_string().into();
        self.history.push(Entry { version: self.version, collection: collection.into(), kind, object });
    }

    fn is_unknown(&self, collection: &str) -> bool {
        self.faults.unknown.iter().any(|kind| collection.ends_with(kind))
    }

    /// What has come to pass in a collection since, and a bookmark at the end.
    fn news(&self, collection: &str, position: &mut u64, raw: &mut usize) -> Vec<String> {
        let since = self.history.iter().filter(|e| e.collection == collection && e.version > *position);
        let line = |e: &Entry| format!("{}\n", json!({ "type": e.kind, "object": e.object }));
        let mut texts: Vec<String> = since.map(line).collect();
        let raws = self.raw.get(collection).map_or(&[][..], Vec::as_slice);
        texts.extend_from_slice(&raws[*raw..]);
        *raw = raws.len();
        // A server says nothing of versions that the watch has not come to yet.
        if self.version >= *position {
            *position = self.version;
            texts.push(bookmark(self.version, &json!({})));
        }
        texts
    }

    /// A list, or a page of one. A page goes on where the names of the one before have ended.
    fn page(
        &self,
        objects: &BTreeMap<String, Value>,
        query: &BTreeMap<String, String>,
    ) -> Result<Value, u16> {
        let limit = query.get("limit").map_or(0, |l| l.parse().unwrap());
        let limit = if limit == 0 { usize::MAX } else { limit };
        let after = query.get("continue").map_or("", String::as_str);
        if after.is_empty() && limit < usize::MAX && self.is_busy.take() {
            return Err(429);
        }
        if after == "expired" || (self.faults.forgets_pages && !after.is_empty()) {
            self.is_busy.set(self.faults.busy_between_pages);
            return Err(410);
        }
        let rest: Vec<(&String, &Value)> = objects.iter().filter(|(name, _)| name.as_str() > after).collect();
        let items: Vec<&Value> = rest.iter().take(limit).map(|(_, object)| *object).collect();
        let next = if rest.len() > limit { rest[limit - 1].0.as_str() } else { "" };
        let version = self.version.to_string();
        Ok(json!({ "metadata": { "resourceVersion": version, "continue": next }, "items": items }))
    }

    fn write(&mut self, request: &Request) -> Result<Value, u16> {
        let path = request.path.trim_start_matches('/').trim_end_matches("/status");
        if request.method == "POST" {
            let name = request.body["metadata"]["name"].as_str().unwrap().to_owned();
            if self.objects.get(path).is_some_and(|objects| objects.contains_key(&name)) {
                return Err(409);
            }
            self.put(path, request.body.clone());
            return Ok(request.body.clone());
        }
        let (collection, name) = path.rsplit_once('/').unwrap();
        let there = self.objects.get(collection).and_then(|objects| objects.get(name)).cloned();
        let mut object = there.ok_or(404_u16)?;
        let is_deletion = request.method == "DELETE";
        let version =
            if is_deletion { "/preconditions/resourceVersion" } else { "/metadata/resourceVersion" };
        let version = request.body.pointer(version);
        if version.is_some_and(|version| *version != object["metadata"]["resourceVersion"]) {
            return Err(409);
        }
        if is_deletion {
            object["metadata"]["deletionTimestamp"] = self.now().into();
        } else {
            merge(&mut object, &request.body);
        }
        let is_free = object["metadata"]["finalizers"].as_array().is_none_or(Vec::is_empty);
        match is_free && object["metadata"]["deletionTimestamp"].is_string() {
            true => self.delete(collection, name),
            false => self.put(collection, object.clone()),
        }
        Ok(object)
    }

    /// Its time, as objects have it.
    fn now(&self) -> String {
        timestamp(SystemTime::now() - self.faults.behind)
    }

    /// Its time as a header, where it says it.
    fn date(&self) -> String {
        const MONTHS: [&str; 12] =
            ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
        if self.faults.timeless {
            return String::new();
        }
        let now = self.now();
        let (year, month, day, time) = (&now[..4], &now[5..7], &now[8..10], &now[11..19]);
        let month = MONTHS[month.parse::<usize>().unwrap() - 1];
        // Nobody reads the day of the week.
        format!("Date: Sat, {day} {month} {year} {time} GMT\r\n")
    }

    fn delete(&mut self, collection: &str, name: &str) {
        let Some(object) = self.objects.entry(collection.into()).or_default().remove(name) else { return };
        self.version += 1;
        self.note(collection, "DELETED", object);
    }
}

/// A time, as objects have it.
fn timestamp(time: SystemTime) -> String {
    let now = time.duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
    let (days, rest) = (now / 86_400, now % 86_400);
    let (mut year, mut day) = (1970, days);
    let is_leap = |y: u64| y.is_multiple_of(4) && (!y.is_multiple_of(100) || y.is_multiple_of(400));
    let length = |year: u64| 365 + u64::from(is_leap(year));
    while day >= length(year) {
        day -= length(year);
        year += 1;
    }
    let february = length(year) - 337;
    let mut month = 0;
    let months = [31, february, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];
    while day >= months[month] {
        day -= months[month];
        month += 1;
    }
    let (hour, minute, second) = (rest / 3600, rest / 60 % 60, rest % 60);
    format!("{year}-{:02}-{:02}T{hour:02}:{minute:02}:{second:02}Z", month + 1, day + 1)
}

/// RFC 7396, which is near enough.
fn merge(target: &mut Value, patch: &Value) {
    let Value::Object(fields) = patch else {
        *target = patch.clone();
        return;
    };
    if !target.is_object() {
        *target = json!({});
    }
    for (key, value) in fields {
        if value.is_null() {
            target.as_object_mut().unwrap().remove(key);
        } else {
            merge(&mut target[key], value);
        }
    }
}

fn bookmark(version: u64, annotations: &Value) -> String {
    let metadata = json!({ "resourceVersion": version.to_string(), "annotations": annotations });
    format!("{}\n", json!({ "type": "BOOKMARK", "object": { "metadata": metadata } }))
}

fn status_object(status: u16) -> Value {
    json!({ "kind": "Status", "message": format!("said with {status}"), "code": status })
}

fn answer(stream: &mut TcpStream, status: u16, header: &str, object: &Value) -> std::io::Result<()> {
    let body = object.to_string();
    write!(stream, "HTTP/1.1 {status} X\r\n{header}Content-Length: {}\r\n\r\n{body}", body.len())
}

fn chunk(stream: &mut TcpStream, text: &str) -> std::io::Result<()> {
    write!(stream, "{:x}\r\n{text}\r\n", text.len())?;
    stream.flush()
}

fn read_request(reader: &mut impl BufRead) -> std::io::Result<Option<(Request, String)>> {
    let (mut line, mut length, mut token) = (String::new(), 0, String::new());
    reader.read_line(&mut line)?;
    loop {
        let mut header = String::new();
        reader.read_line(&mut header)?;
        let Some((name, value)) = header.trim().split_once(": ") else { break };
        match name.to_lowercase().as_str() {
            "content-length" => length = value.parse().unwrap(),
            "authorization" => token = value.trim_start_matches("Bearer ").to_owned(),
            _ => {}
        }
    }
    let mut words = line.split(' ');
    let (Some(method), Some(target)) = (words.next(), words.next()) else { return Ok(None) };
    let mut body = vec![0; length];
    reader.read_exact(&mut body)?;
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let query = query.split('&').filter_map(|pair| pair.split_once('='));
    let request = Request {
        method: method.to_owned(),
        path: path.to_owned(),
        query: query.map(|(key, value)| (key.to_owned(), value.to_owned())).collect(),
        token,
        body: serde_json::from_slice(&body).unwrap_or(Value::Null),
    };
    Ok(Some((request, format!("{method} {target}"))))
}
