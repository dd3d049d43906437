//! Follows one kind: a list, then a watch from where it ended, again and again.
//!
//! What always holds: an outage takes nothing away. A watch that has said nothing for long, not even that there is nothing
//! to say, is not believed: the server may have lost its place (kubernetes#107457), so a list follows. Whatever a
//! server's answer is, the next request waits a little longer than the one before, until one goes well; but for a list that has no luck with its
//! own connection, which is asked for once over the shared one. A server that no longer knows this node,
//! though it did, isn't believed that anything else is gone: it has lost what it knew, or is another cluster's.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime};

use hyper::StatusCode;
use hyper::body::Incoming;
use serde::Deserialize;
use tokio::sync::mpsc::Sender;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout};
use weft_model::{FactKey, NodeName};

use super::backoff::Backoff;
use super::client::{Ask, Beside, Client, Failure};
use super::kind::Kind;
use super::lines::Lines;
use super::mirror::{Heard, LARGEST, Mirror, News};
use super::{Patience, PodScope, publish};

/// Changes delivered together at most.
const CHUNK: usize = 1024;

/// Objects on a page of a list.
const PAGE: usize = 500;

/// Lists in a row whose next page came too late for the server, after which one is asked for as a whole.
const AGED: u32 = 2;

/// Why things go wrong, and since when.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Trouble {
    pub since: SystemTime,
    pub began: Instant,
    pub reason: String,
}

/// What a follower tells.
#[derive(Debug, PartialEq)]
pub(super) enum Told {
    News(News),
    /// All that the server holds of the kind has been told.
    Complete(Kind),
    /// The kind can't be followed.
    Failing(Kind, Trouble),
    /// It can again, and what was missed has been told.
    Well(Kind),
}

/// What a server has of a group (`metav1.APIResourceList`).
#[derive(Deserialize)]
struct Resources {
    resources: Vec<Resource>,
}

#[derive(Deserialize)]
struct Resource {
    name: String,
}

/// The own node, as the followers of one watch see it.
#[derive(Debug)]
pub(super) struct OwnNode {
    name: NodeName,
    /// The server knew it.
    was_there: AtomicBool,
    /// Which machine it is, by its object.
    machine: watch::Sender<Option<String>>,
}

impl OwnNode {
    pub fn of(name: &NodeName, machine: watch::Sender<Option<String>>) -> Arc<Self> {
        Arc::new(Self { name: name.clone(), was_there: AtomicBool::new(false), machine })
    }
}

/// Nobody listens any more.
struct Gone;

/// Why a round is over.
enum End {
    /// The server ended the watch in good order.
    Finished,
    /// The list is there, and the watch can begin.
    Listed,
    /// The place in the history is lost, or not to be trusted.
    Lost,
    /// The server doesn't stream lists.
    NoStream,
    /// It began to, and went on with nothing.
    Stalled,
    Failed(Failure),
    /// A list came to its end, and isn't believed.
    Doubted(Failure),
    Gone,
}

impl From<Failure> for End {
    fn from(failure: Failure) -> Self {
        if failure.is(StatusCode::GONE) { End::Lost } else { End::Failed(failure) }
    }
}

impl From<Gone> for End {
    fn from(_: Gone) -> Self {
        End::Gone
    }
}

/// See the module.
pub(super) struct Follower {
    kind: Kind,
    client: Arc<Client>,
    own: Arc<OwnNode>,
    selection: String,
    /// Streamed lists have a connection of their own.
    is_apart: bool,
    patience: Patience,
    mirror: Mirror,
    /// Until when lists are asked for in pages: of late a streamed one came to nothing.
    paged_until: Option<Instant>,
    /// Lists in pages that the server had forgotten before their last page, since one was complete.
    aged: u32,
    /// When a list was complete last.
    listed: Option<Instant>,
    /// The version from which a watch goes on; `None` where a list has to come first.
    place: Option<String>,
    trouble: Option<Trouble>,
    backoff: Backoff,
    out: Sender<Told>,
}

impl Follower {
    pub fn new(
        kind: Kind,
        client: Arc<Client>,
        own: &Arc<OwnNode>,
        scope: PodScope,
        patience: Patience,
        out: Sender<Told>,
    ) -> Self {
        Self {
            kind,
            client,
            selection: kind.selection(&own.name, scope),
            is_apart: kind.is_long(scope),
            patience,
            mirror: Mirror::new(kind, own.name.clone()),
            own: own.clone(),
            paged_until: None,
            aged: 0,
            listed: None,
            place: None,
            trouble: None,
            backoff: Backoff::new(patience.first_pause, patience.longest_pause),
            out,
        }
    }

    /// Follows until nobody listens.
    pub async fn run(mut self) {
        loop {
            let began = Instant::now();
            let end = match self.place.clone() {
                Some(place) => self.watch(&place).await,
                None if self.paged_until.is_some_and(|until| began < until) => self.pages().await,
                None => self.stream().await,
            };
            let pause = match end {
                End::Gone => return,
                End::Listed => continue,
                End::NoStream => {
                    self.paged_until = Some(Instant::now() + self.patience.paged);
                    continue;
                }
                End::Stalled => {
                    self.paged_until = Some(Instant::now() + self.patience.paged);
                    self.backoff.next(None)
                }
                End::Lost if self.place.take().is_some() && !self.is_listed_of_late() => {
                    self.backoff.next(None)
                }
                End::Lost => match self.fail(lost_place()).await {
                    Ok(pause) => pause,
                    Err(Gone) => return,
                },
                End::Finished if self.trouble.is_some() => {
                    // No bookmark came: a server that has only just started may have none to send. A list tells the same.
                    self.place = None;
                    self.patience.first_pause.mul_f64(fastrand::f64())
                }
                // One that ends its watches all at once must not be asked by all nodes at once.
                End::Finished if began.elapsed() > self.patience.longest_pause => {
                    self.patience.first_pause.mul_f64(fastrand::f64())
                }
                // A server that ends every watch at once must not be asked without pause.
                End::Finished => self.backoff.next(None),
                End::Failed(failure) | End::Doubted(failure) => match self.fail(failure).await {
                    Ok(pause) => pause,
                    Err(Gone) => return,
                },
            };
            tokio::select! {
                () = sleep(pause) => {}
                () = self.out.closed() => return,
            }
        }
    }

    /// Says what went wrong; returns how long to wait.
    async fn fail(&mut self, failure: Failure) -> Result<Duration, Gone> {
        if self.kind.is_optional() && failure.is(StatusCode::NOT_FOUND) && self.is_unknown().await {
            // The server doesn't know the kind: so there are none. It may be upgraded.
            self.mirror.begin_list();
            self.place = None;
            match self.list_is_complete().await {
                Ok(()) => return Ok(self.patience.silence),
                Err(End::Gone) => return Err(Gone),
                // Another time.
                Err(_) => {}
            }
        }
        let asked = match &failure {
            Failure::Refused { retry_after, .. } => *retry_after,
            Failure::Garbled(_) => {
                // The same place would bring the same again.
                self.place = None;
                None
            }
            Failure::Lost(_) => None,
        };
        let reason = format!("{}: {failure}", self.kind.resource());
        let (since, began) = match &self.trouble {
            Some(trouble) => (trouble.since, trouble.began),
            None => (SystemTime::now(), Instant::now()),
        };
        let trouble = Trouble { since, began, reason };
        if self.trouble.as_ref() != Some(&trouble) {
            self.trouble = Some(trouble.clone());
            self.tell(Told::Failing(self.kind, trouble)).await?;
        }
        Ok(self.backoff.next(asked))
    }

    /// True where the server has no such kind. Once it had, its word alone isn't taken: a proxy, or a server that has only just
    /// started, says the same of anything.
    async fn is_unknown(&self) -> bool {
        if self.listed.is_none() {
            return true;
        }
        let path = self.kind.path();
        let Some((group, resource)) = path.rsplit_once('/') else { return false };
        let Ok(answer) = self.client.whole(&Ask::get(group)).await else { return false };
        let known = serde_json::from_slice::<Resources>(&answer);
        known.is_ok_and(|known| {
            !known.resources.is_empty() && known.resources.iter().all(|r| r.name != resource)
        })
    }

    /// True soon after a list. What is lost then is lost again and again, by all that is known.
    fn is_listed_of_late(&self) -> bool {
        self.listed.is_some_and(|at| at.elapsed() < self.patience.longest_pause * 4)
    }

    async fn tell(&self, told: Told) -> Result<(), Gone> {
        self.out.send(told).await.map_err(|_| Gone)
    }

    async fn tell_news(&self, news: &mut News) -> Result<(), Gone> {
        if news.is_empty() { Ok(()) } else { self.tell(Told::News(std::mem::take(news))).await }
    }

    /// All went well up to now.
    async fn be_well(&mut self) -> Result<(), Gone> {
        self.backoff.reset();
        self.end_trouble().await
    }

    async fn end_trouble(&mut self) -> Result<(), Gone> {
        if self.trouble.take().is_some() {
            self.tell(Told::Well(self.kind)).await?;
        }
        Ok(())
    }

    /// A list was read to its end: what it didn't hold is gone, where the server can be believed.
    async fn list_is_complete(&mut self) -> Result<(), End> {
        if self.listed.is_some()
            && self.own.was_there.load(Ordering::SeqCst)
            && publish::read(&self.client, &self.own.name).await.map_err(End::Doubted)?.is_none()
        {
            let text = format!(
                "the server no longer knows node {}, which it did, so it isn't believed that anything else is gone; what was known stays \
                 until the node's kubelet has registered it",
                self.own.name
            );
            return Err(End::Doubted(Failure::Lost(text)));
        }
        let mut news = News::default();
        self.mirror.end_list(&mut news);
        // Lists that follow each other closely are no success: what came in between was of no use.
        if !self.is_listed_of_late() {
            self.backoff.reset();
        }
        self.listed = Some(Instant::now());
        self.note_own();
        self.tell_news(&mut news).await?;
        self.end_trouble().await?;
        Ok(self.tell(Told::Complete(self.kind)).await?)
    }

    /// A watch that lasts between one and two times the shortest: all nodes at once would be a storm. In trouble it is short,
    /// since a server sends a bookmark before a watch's end, and with that we know that nothing is missing.
    fn watch_path(&self, rest: &str) -> String {
        let is_catching_up = self.place.is_some() && self.trouble.is_some();
        let least = if is_catching_up { self.patience.catch_up } else { self.patience.watch };
        let seconds = least.as_secs_f64() * (1.0 + fastrand::f64());
        let (path, selection) = (self.kind.path(), &self.selection);
        format!("{path}?watch=true&allowWatchBookmarks=true&timeoutSeconds={seconds:.0}{selection}{rest}")
    }

    async fn open(&self, path: String, is_apart: bool) -> Result<(Incoming, Option<Beside>), Failure> {
        let mut ask = Ask::get(path);
        ask.accept = self.kind.accept();
        ask.is_apart = is_apart;
        let response = self.client.send(&ask).await?;
        let beside = response.extensions().get().copied();
        Ok((response.into_body(), beside))
    }

    /// A list that goes on as a watch (Kubernetes' "streaming lists"). A long one is left where the list ends: its watch goes over the
    /// connection that requests share, and what the list needed goes with its own.
    async fn stream(&mut self) -> End {
        self.mirror.begin_list();
        let path = self.watch_path("&sendInitialEvents=true&resourceVersionMatch=NotOlderThan");
        let (body, beside) = match self.open(path, self.is_apart).await {
            Ok(opened) => opened,
            // Older servers, and those where it is turned off, say that the question is invalid.
            Err(failure)
                if failure.is(StatusCode::BAD_REQUEST) || failure.is(StatusCode::UNPROCESSABLE_ENTITY) =>
            {
                return End::NoStream;
            }
            Err(failure) => return failure.into(),
        };
        let end = self.read(body).await;
        if let Some(beside) = beside {
            let halt = || format!("a list came to a halt for {} s", self.patience.stalled_list.as_secs());
            match &end {
                End::Failed(failure) => self.client.share_lists(beside, failure).await,
                End::Stalled => self.client.share_lists(beside, &Failure::Lost(halt())).await,
                _ => {}
            }
        }
        end
    }

    /// A list in pages; as a whole where pages take longer than the server keeps a place between them (etcd's compaction, five
    /// minutes by default): it would begin anew for ever.
    async fn pages(&mut self) -> End {
        self.mirror.begin_list();
        let limit = if self.aged < AGED { PAGE } else { 0 };
        let mut next = String::new();
        loop {
            let rest = if next.is_empty() { String::new() } else { format!("&continue={}", escaped(&next)) };
            let path = format!("{}?limit={limit}{}{rest}", self.kind.path(), self.selection);
            let mut ask = Ask::get(path);
            ask.accept = self.kind.accept_list();
            let page = match self.client.whole(&ask).await {
                Ok(page) => page,
                Err(failure) => {
                    let is_aged = failure.is(StatusCode::GONE) && !next.is_empty();
                    self.aged = match limit {
                        // As a whole it can't be had either: pages may pass by now.
                        0 => 0,
                        // What else fails in between says nothing of how long pages take.
                        _ => self.aged + u32::from(is_aged),
                    };
                    return failure.into();
                }
            };
            let mut news = News::default();
            let (version, more) = match self.mirror.take_page(&page, &mut news) {
                Ok(taken) => taken,
                Err(failure) => return failure.into(),
            };
            if self.tell_news(&mut news).await.is_err() {
                return End::Gone;
            }
            if more.is_empty() {
                return match self.list_is_complete().await {
                    Ok(()) => {
                        self.place = Some(version);
                        self.aged = 0;
                        End::Listed
                    }
                    Err(end) => end,
                };
            }
            next = more;
        }
    }

    /// A watch from a version on.
    async fn watch(&mut self, place: &str) -> End {
        let path = self.watch_path(&format!("&resourceVersion={}", escaped(place)));
        match self.open(path, false).await {
            Ok((body, _)) => self.read(body).await,
            Err(failure) => failure.into(),
        }
    }

    /// Reads a watch to its end, or a list to its own.
    async fn read(&mut self, body: Incoming) -> End {
        let mut lines = Lines::new(body, LARGEST);
        let mut news = News::default();
        let mut progress = Instant::now();
        loop {
            let is_listing = self.place.is_none();
            let patience = match is_listing {
                // A bookmark that ends no list is no progress.
                true => self.patience.stalled_list.saturating_sub(progress.elapsed()),
                false => self.patience.silence,
            };
            let mut heard = Ok(None);
            let (mirror, each, is_apart) = (&mut self.mirror, &mut news, self.is_apart);
            let more =
                timeout(patience, lines.more(|line| mirror.hear(line, is_apart, each, &mut heard))).await;
            let Ok(more) = more else {
                // What was gathered counts as told from now on.
                if self.tell_in_chunks(&mut news).await.is_err() {
                    return End::Gone;
                }
                // A server that has no idea of streamed lists sends what there is, and never an end.
                return if is_listing { End::Stalled } else { End::Lost };
            };
            if !news.is_empty() || matches!(heard, Ok(Some(Heard::Object(_)))) {
                progress = Instant::now();
            }
            // A list comes an object a frame: handed over one by one, each would cost a switch of threads.
            let goes_on =
                is_listing && matches!((&heard, &more), (Ok(Some(Heard::Object(_))) | Ok(None), Ok(true)));
            let waits = goes_on && news.changes.len() < CHUNK;
            // What came before something went wrong is true all the same.
            if !waits && self.tell_in_chunks(&mut news).await.is_err() {
                return End::Gone;
            }
            match heard {
                Err(failure) => return failure.into(),
                Ok(Some(heard)) => {
                    if let Err(end) = self.note(heard).await {
                        return end;
                    }
                }
                Ok(None) => {}
            }
            if self.is_apart && is_listing && self.place.is_some() {
                return End::Listed;
            }
            match more {
                Ok(true) => {}
                Ok(false) if self.place.is_none() => {
                    return Failure::Lost("the server ended a list before its end".into()).into();
                }
                Ok(false) => return End::Finished,
                Err(failure) => return failure.into(),
            }
        }
    }

    async fn tell_in_chunks(&self, news: &mut News) -> Result<(), Gone> {
        while news.changes.len() > CHUNK {
            let rest = news.changes.split_off(CHUNK);
            let chunk = std::mem::replace(&mut news.changes, rest);
            self.tell(Told::News(News { changes: chunk, notices: Vec::new() })).await?;
        }
        self.tell_news(news).await
    }

    /// Notes whether the server knows this node. One that says so itself that it is gone is believed.
    fn note_own(&self) {
        if self.kind == Kind::Node {
            let is_there = self.mirror.knows(&FactKey::Node(self.own.name.clone()));
            self.own.was_there.store(is_there, Ordering::SeqCst);
            let machine = self.mirror.machine();
            self.own.machine.send_if_modified(|told| {
                let differs = told.as_deref() != machine;
                *told = machine.map(str::to_owned);
                differs
            });
        }
    }

    async fn note(&mut self, heard: Heard) -> Result<(), End> {
        self.note_own();
        match heard {
            Heard::ListEnds(version) => {
                self.list_is_complete().await?;
                self.place = Some(version);
            }
            Heard::Bookmark(version) => {
                if self.place.is_some() {
                    self.move_to(version)?;
                    self.be_well().await?;
                }
            }
            Heard::Object(version) if !version.is_empty() && self.place.is_some() => self.move_to(version)?,
            Heard::Object(_) | Heard::Unnamed => {}
        }
        Ok(())
    }

    /// Notes the place from which the next watch goes on.
    fn move_to(&mut self, version: String) -> Result<(), End> {
        // Versions are numbers that grow (KEP-5504); where they fall, the server has gone back in time.
        let number = |text: &str| text.parse::<u64>().ok();
        if let (Some(old), Some(new)) = (self.place.as_deref().and_then(number), number(&version))
            && new < old
        {
            return Err(End::Lost);
        }
        self.place = Some(version);
        Ok(())
    }
}

/// The server forgot where it was, in the middle of a list or soon after one.
fn lost_place() -> Failure {
    Failure::Lost("the server has lost its place in a list, or soon after one".into())
}

/// A value in a query, percent-encoded (RFC 3986 §2.1).
fn escaped(value: &str) -> String {
    value.bytes().fold(String::new(), |mut text, byte| {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
                text.push(char::from(byte));
            }
            _ => text.push_str(&format!("%{byte:02X}")),
        }
        text
    })
}
