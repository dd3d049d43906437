//! The loop of a watch: pages and streams of one member after another in, events out.
//!
//! What always holds: the stream begins at the revision after the one that was listed, so nothing falls in between. While it is silent, the
//! member that it comes from is asked a question that only a member with a leader can answer; without an answer, another member
//! is listened to, from where the first one broke off. Where that can't be, because there is no other, or what it says of itself doesn't fit
//! what is known, all keys are listed, but only the values that changed are read. Only where no member can be listed is the store stale, or where
//! a list holds nothing that people wrote, though there was something: an etcd that lost its data says nothing of what the cluster is.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use http_body_util::BodyExt;
use hyper::body::Incoming;
use serde_json::{Value, json};
use tokio::sync::watch::Receiver;
use tokio::time::{interval, sleep};

use super::client::{Client, Failure};
use super::connection::{LARGEST, Trust};
use super::doubt::Doubt;
use super::follow::Follower;
use super::keys::{Keys, end_of};
use super::wire::{self, Header, Ranged, Streamed, Watched, encode};
use crate::http::{Line, Splitter, chain};
use crate::store::{Event, Hold, Notice};

type Sink<'a> = &'a mut dyn FnMut(Event) -> ControlFlow<()>;

/// Keys of a page, at first; pages that are too large are halved.
const PAGE: i64 = 1_000;
/// How often it is looked at whether what the node may rely on has changed.
const TICK: Duration = Duration::from_millis(500);
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(10);
/// Pulses for which a stream that says nothing is believed, at first, though etcd's revision goes on.
const DOUBTED: u32 = 3;
/// A stream that ends sooner than this after its listing, and without an event, has brought nothing.
const FRUITFUL: Duration = Duration::from_secs(2);
/// So many of those in a row, and the store is stale.
const FRUITLESS: u32 = 3;

/// What is said of an etcd in which nothing is left that people wrote.
const BARE: &str = "all keys that people wrote are gone from it at once, as if it were started without its data; what was known stays. \
                    Restore it from a backup; if nothing is meant to be there, put a network into it";

/// Why following has ended.
enum Ended {
    /// Nobody listens any more.
    Unheard,
    /// What is missing is forgotten by etcd: everything has to be listed again.
    Compacted,
    /// No member can be listed.
    Away(String),
    /// This stream has ended.
    Broken(String),
    /// What the member says of itself doesn't fit what is known.
    Doubtful,
    /// It has said nothing for long, and etcd has gone on.
    Silent,
}

/// What is told beside facts: what the node may rely on, and what is wrong with its certificates.
struct Asides<'a> {
    now: &'a (dyn Fn() -> Hold + Sync),
    told: Option<Hold>,
    certificates: Option<(Arc<Trust>, Receiver<Notice>)>,
}

impl Asides<'_> {
    fn tell(&mut self, sink: Sink<'_>) -> ControlFlow<()> {
        if let Some((trust, notices)) = &mut self.certificates {
            trust.read_again();
            if notices.has_changed().unwrap_or(false) {
                let notice = notices.borrow_and_update().clone();
                sink(Event::Notice(notice))?;
            }
        }
        let hold = (self.now)();
        if self.told.as_ref() == Some(&hold) {
            return ControlFlow::Continue(());
        }
        self.told = Some(hold.clone());
        sink(Event::Hold(hold))
    }
}

pub(super) struct Watch<'a> {
    client: Client,
    keys: Keys,
    follower: Follower,
    /// Time between questions to the member that is listened to.
    pulse: Duration,
    asides: Asides<'a>,
    /// The cluster that was listed last.
    cluster: Option<i64>,
    /// The highest term of a leader's that was heard of.
    term: i64,
    /// The member whose stream has just ended, all of which was taken in.
    broke_off: Option<usize>,
    /// All up to this revision is known.
    revision: i64,
    /// All up to this revision was told, by a stream that had nothing to say of it or by a list.
    told: i64,
    doubt: Doubt,
    /// The stream before was ended for its silence.
    is_doubted: bool,
    /// The stream has brought something.
    has_brought: bool,
    page: i64,
    is_synced: bool,
    stale: Option<(SystemTime, String)>,
}

impl<'a> Watch<'a> {
    pub fn new(client: Client, keys: Keys, pulse: Duration, hold: &'a (dyn Fn() -> Hold + Sync)) -> Self {
        let certificates = client.trust().map(|trust| (trust.clone(), trust.subscribe()));
        Self {
            client,
            follower: Follower::new(keys.clone()),
            keys,
            pulse,
            asides: Asides { now: hold, told: None, certificates },
            cluster: None,
            term: 0,
            broke_off: None,
            revision: 0,
            told: 0,
            doubt: Doubt::of(pulse * DOUBTED),
            is_doubted: false,
            has_brought: false,
            page: PAGE,
            is_synced: false,
            stale: None,
        }
    }

    /// Follows until nobody listens, or `stopped` says so.
    pub async fn run(&mut self, stopped: &mut Receiver<bool>, sink: Sink<'_>) {
        let (mut pause, mut fruitless) = (FIRST_PAUSE, 0);
        loop {
            if self.asides.tell(sink).is_break() {
                return;
            }
            let begun = Instant::now();
            let ended = tokio::select! {
                _ = stopped.wait_for(|stopped| *stopped) => return,
                ended = self.follow(sink) => ended,
            };
            if begun.elapsed() > FRUITFUL && !matches!(ended, Ended::Away(_)) {
                (pause, fruitless) = (FIRST_PAUSE, 0);
                continue;
            }
            if std::mem::take(&mut self.has_brought) {
                (pause, fruitless) = (FIRST_PAUSE, 0);
            }
            fruitless += 1;
            let heard = match ended {
                Ended::Unheard => return,
                Ended::Away(reason) => self.lose(&reason, sink),
                Ended::Broken(reason) if fruitless >= FRUITLESS => self.lose(&reason, sink),
                Ended::Broken(_) | Ended::Compacted | Ended::Doubtful | Ended::Silent => {
                    ControlFlow::Continue(())
                }
            };
            if heard.is_break() {
                return;
            }
            let jittered = pause.mul_f32(0.5 + fastrand::f32());
            tokio::select! {
                _ = stopped.wait_for(|stopped| *stopped) => return,
                () = sleep(jittered) => {}
            }
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    fn lose(&mut self, reason: &str, sink: Sink<'_>) -> ControlFlow<()> {
        let since = self.stale.as_ref().map_or_else(SystemTime::now, |(since, _)| *since);
        let is_news = self.stale.as_ref().is_none_or(|(_, before)| before != reason);
        self.stale = Some((since, reason.to_owned()));
        if is_news {
            sink(Event::Stale { since, reason: format!("etcd: {reason}") })
        } else {
            ControlFlow::Continue(())
        }
    }

    fn tell(&mut self, sink: Sink<'_>) -> ControlFlow<()> {
        self.follower.drain().into_iter().try_for_each(sink)
    }

    /// Lists, where nothing else tells what was missed, and listens to one member for as long as it has something to say.
    async fn follow(&mut self, sink: Sink<'_>) -> Ended {
        let at = self.client.at();
        let goes_on = self.broke_off.take().is_some_and(|before| before != at) && self.stale.is_none();
        if !goes_on && let Err(failure) = self.list().await {
            return Ended::Away(failure.to_string());
        }
        if self.tell(sink).is_break() {
            return Ended::Unheard;
        }
        if !self.is_synced || self.stale.is_some() {
            self.is_synced = true;
            self.stale = None;
            if sink(Event::Synced).is_break() {
                return Ended::Unheard;
            }
        }
        // Listing may have found another member.
        let at = self.client.at();
        let all = self.keys.all();
        let question = json!({ "create_request": {
            "key": encode(all), "range_end": encode(end_of(all)),
            "start_revision": (self.revision + 1).to_string(), "progress_notify": true,
        }});
        let ended = match self.client.stream(at, wire::WATCH, &question).await {
            Ok(stream) => {
                let ended = self.listen(at, stream, sink).await;
                self.broke_off = matches!(ended, Ended::Broken(_)).then_some(at);
                ended
            }
            Err(failure) => Ended::Broken(failure.to_string()),
        };
        match &ended {
            Ended::Broken(reason) => {
                tracing::debug!("{}: {reason}", self.client.name(at));
                self.client.leave(at);
            }
            Ended::Silent => {
                tracing::debug!("{}: it says nothing, though etcd goes on", self.client.name(at));
                self.is_doubted = true;
                self.client.leave(at);
            }
            _ => {}
        }
        ended
    }

    async fn listen(&mut self, at: usize, mut stream: Incoming, sink: Sink<'_>) -> Ended {
        let mut lines = Splitter::new(LARGEST);
        let mut tick = interval(TICK);
        // There is no such key, and asking for it costs the member next to nothing.
        let question = wire::get(self.keys.all());
        loop {
            let heard = {
                // Given up with every piece that comes: a member that speaks is there.
                let (client, told, doubt) = (&self.client, self.told.max(self.revision), &mut self.doubt);
                doubt.end();
                let pulse = async {
                    loop {
                        sleep(self.pulse.mul_f32(0.8 + 0.4 * fastrand::f32())).await;
                        match client.ask_at::<Ranged>(at, wire::RANGE, &question).await {
                            Ok(ranged) if doubt.grows(ranged.header.revision, told, Instant::now()) => {
                                return Ended::Silent;
                            }
                            Ok(_) => {}
                            Err(failure) => return Ended::Broken(failure.to_string()),
                        }
                    }
                };
                tokio::pin!(pulse);
                loop {
                    tokio::select! {
                        biased;
                        _ = tick.tick() => {
                            if self.asides.tell(sink).is_break() {
                                return Ended::Unheard;
                            }
                        }
                        // What has come counts before any doubt about whether it would.
                        frame = stream.frame() => break frame,
                        ended = &mut pulse => return ended,
                    }
                }
            };
            let frame = match heard {
                None => return Ended::Broken("it ended the watch".to_owned()),
                Some(Err(error)) => return Ended::Broken(chain(&error)),
                Some(Ok(frame)) => frame,
            };
            // Each element ends with its line.
            let mut taken = Ok(());
            lines.push(frame.data_ref().map_or(&[][..], |data| data), |line| {
                if taken.is_ok() {
                    taken = match line {
                        Line::Text(line) => self.take(line),
                        Line::TooLong(_) => Err(Ended::Broken("a message of more than 64 MiB".to_owned())),
                    };
                }
            });
            if let Err(ended) = taken {
                return ended;
            }
            if self.tell(sink).is_break() {
                return Ended::Unheard;
            }
        }
    }

    /// Takes in one element of the stream.
    fn take(&mut self, line: &[u8]) -> Result<(), Ended> {
        let streamed: Streamed<Watched> = serde_json::from_slice(line)
            .map_err(|error| Ended::Broken(format!("no answer of etcd's: {error}")))?;
        if let Some(error) = streamed.error {
            return Err(Ended::Broken(error.message));
        }
        let Some(watched) = streamed.result else { return Ok(()) };
        self.fits(&watched.header)?;
        if watched.canceled {
            return Err(match watched.compact_revision {
                0 => Ended::Broken(format!("it ended the watch: {}", watched.cancel_reason)),
                _ => Ended::Compacted,
            });
        }
        if watched.events.is_empty() && !watched.created {
            // So etcd says how far a stream is that has nothing to say.
            self.told = self.told.max(watched.header.revision);
        }
        self.has_brought |= !watched.events.is_empty();
        for happened in &watched.events {
            self.follower.happened(happened);
            self.revision = self.revision.max(happened.kv.mod_revision);
        }
        Ok(())
    }

    /// Where a stream goes on that another member began: it must be of the same history. One that was restored has other revisions or
    /// another name, and its terms begin anew. A member that lags behind says so, too.
    fn fits(&mut self, header: &Header) -> Result<(), Ended> {
        if self.cluster != Some(header.cluster_id)
            || header.revision < self.revision
            || header.raft_term < self.term
        {
            self.broke_off = None;
            return Err(Ended::Doubtful);
        }
        self.term = header.raft_term;
        Ok(())
    }

    /// Brings everything up to etcd's present revision.
    async fn list(&mut self) -> Result<(), Failure> {
        let mut listed = BTreeMap::new();
        let is_first = self.revision == 0;
        let header = self.pages(0, is_first, 0, &mut listed).await?;
        // A cluster that was made anew counts its revisions anew, and so does one that was restored. Its name says little: one that is
        // started again without its data, by the same command, has the same.
        let is_another = self.cluster.is_some_and(|cluster| cluster != header.cluster_id);
        if is_another || header.revision < self.revision || header.raft_term < self.term {
            self.follower.doubt();
        }
        if self.follower.would_lose_all(&listed) {
            self.follower.doubt();
            return Err(Failure::Away(BARE.to_owned()));
        }
        let compared = self.follower.compare(&listed);
        if let Some(since) = compared.unread {
            self.pages(header.revision, true, since, &mut listed).await?;
        }
        if std::mem::take(&mut self.is_doubted) {
            self.doubt.settle(compared.owed());
        }
        (self.cluster, self.revision, self.term) =
            (Some(header.cluster_id), header.revision, header.raft_term);
        self.told = self.revision;
        Ok(())
    }

    /// Reads every key at a revision (0: the present one), with values or without, that was written at `since` or later.
    async fn pages(
        &mut self,
        revision: i64,
        with_values: bool,
        since: i64,
        listed: &mut BTreeMap<String, i64>,
    ) -> Result<Header, Failure> {
        let mut start = self.keys.all().as_bytes().to_vec();
        let end = encode(end_of(self.keys.all()));
        let mut at: Option<Header> = None;
        loop {
            let revision = at.map_or(revision, |header| header.revision);
            let question = page(&start, &end, self.page, revision, with_values, since);
            let ranged: Ranged = match self.client.ask(wire::RANGE, &question).await {
                Err(Failure::TooLarge) if self.page > 1 => {
                    self.page /= 2;
                    continue;
                }
                other => other?,
            };
            for kv in &ranged.kvs {
                if with_values {
                    self.follower.put(kv);
                }
                listed.extend(kv.key().map(|key| (key.to_owned(), kv.mod_revision)));
            }
            let header = *at.get_or_insert(ranged.header);
            match ranged.kvs.last() {
                Some(last) if ranged.more => {
                    start.clone_from(&last.key);
                    start.push(0);
                }
                _ => return Ok(header),
            }
        }
    }
}

fn page(start: &[u8], end: &str, limit: i64, revision: i64, with_values: bool, since: i64) -> Value {
    json!({
        "key": encode(start),
        "range_end": end,
        "limit": limit.to_string(),
        "revision": revision.to_string(),
        "keys_only": !with_values,
        "min_mod_revision": since.to_string(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::etcd::client::Access;

    #[test]
    fn a_stream_of_another_history_is_not_gone_on_with() {
        let check = |cluster_id, revision, raft_term, expected: bool| {
            let access =
                Access { endpoints: Vec::new(), tls: None, user: None, patience: Duration::from_secs(1) };
            let hold = || Hold::Unbound;
            let mut watch =
                Watch::new(Client::new(access), Keys::under("/weft"), Duration::from_secs(1), &hold);
            (watch.cluster, watch.revision, watch.term) = (Some(7), 100, 3);
            let header = Header { cluster_id, revision, raft_term, ..Header::default() };
            assert_eq!(watch.fits(&header).is_ok(), expected, "{header:?}");
        };
        check(7, 100, 3, true);
        check(7, 120, 5, true);
        // It lags behind, or was restored from a backup.
        check(7, 99, 3, false);
        check(7, 500, 2, false);
        check(8, 120, 5, false);
    }
}
