//! The two processes that are compared: a node's store with its compiler, and a bare watcher of the same stream, which
//! decodes each line as the node does, one at a time, and keeps nothing. They print what happens as lines of JSON, and end when
//! their input does. What differs beside keeping: the bare watcher has a thread for each kind, and stays on the connections that it
//! has read lists from, by HTTP/1.1, where the node's watches share one by HTTP/2.

use std::io::{BufRead, Read};
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use anyhow::{Context, Result, anyhow, bail};
use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeValLike;
use nix::time::{ClockId, clock_gettime};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use weft_compile::{Compiler, Settings};
use weft_model::{Change, Fact, Host, HostLink, IfName, NamespaceName, NodeName};
use weft_plan::Plan;
use weft_store::kubernetes::{AccessSource, DescribedNetwork, Patience, PodScope};
use weft_store::object::{Interner, ObjectId, decode_text};
use weft_store::{Event, KubernetesOptions, KubernetesStore, Store};

use super::api::Api;
use super::objects;

/// What a process says.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Said {
    /// All that there is has been taken in.
    Ready {
        /// Since the start.
        ms: f64,
        /// Processor time of all threads.
        cpu_ms: f64,
        /// Memory now, and at most up to now.
        rss: f64,
        peak: f64,
        /// Bytes of lines; none of a node, whose connection is its own.
        bytes: u64,
        /// Facts, or lines.
        objects: usize,
    },
    /// Something has changed.
    Changed {
        /// When it was done with, on the clock that all processes share.
        at_ns: i64,
        /// How long it took since it was handed over.
        took_ms: f64,
        cpu_ms: f64,
        bytes: u64,
    },
    /// The end.
    Done { cpu_ms: f64, rss: f64, peak: f64 },
}

fn say(said: &Said) -> Result<()> {
    println!("{}", serde_json::to_string(said)?);
    Ok(())
}

/// The clock that all processes share.
pub fn now_ns() -> Result<i64> {
    Ok(clock_gettime(ClockId::CLOCK_MONOTONIC)?.num_nanoseconds())
}

fn cpu_ms() -> Result<f64> {
    let usage = getrusage(UsageWho::RUSAGE_SELF)?;
    let time = usage.user_time() + usage.system_time();
    // Far fewer than 2^53.
    #[allow(clippy::cast_precision_loss)]
    Ok(time.num_microseconds() as f64 / 1000.0)
}

/// A line of /proc/self/status, in MB.
fn memory(field: &str) -> Result<f64> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line =
        status.lines().find_map(|line| line.strip_prefix(field)).context("the kernel says no memory")?;
    let kilobytes: f64 = line.trim_matches([':', ' ', '\t']).trim_end_matches(" kB").trim().parse()?;
    Ok(kilobytes / 1024.0)
}

fn done() -> Result<()> {
    say(&Said::Done { cpu_ms: cpu_ms()?, rss: memory("VmRSS")?, peak: memory("VmHWM")? })
}

/// Ends the process when nobody writes to it any more.
fn end_with_input() {
    std::thread::spawn(|| {
        let _ = std::io::stdin().read_to_end(&mut Vec::new());
        let code = i32::from(done().is_err());
        std::process::exit(code);
    });
}

fn scope(word: &str) -> Result<PodScope> {
    match word {
        "own" => Ok(PodScope::Own),
        "all" => Ok(PodScope::All),
        other => bail!("{other} is no scope of pods; own or all"),
    }
}

/// `node PORT CA TOKEN-FILE SCOPE`
pub fn node(port: &str, ca: &str, token_file: &str, pods: &str) -> Result<()> {
    let start = Instant::now();
    let network = objects::network();
    let network = network.as_object().context("a network is an object")?;
    let name = NodeName::new(&objects::node_name(0))?;
    let store = KubernetesStore::open(KubernetesOptions {
        node: name.clone(),
        access: AccessSource {
            server: Some(format!("https://127.0.0.1:{port}")),
            ca_file: Some(PathBuf::from(ca)),
            token_file: Some(PathBuf::from(token_file)),
            kubeconfig: None,
        },
        networks: vec![DescribedNetwork::from_entry(network)?],
        pods: scope(pods)?,
        namespace: NamespaceName::new("kube-system")?,
        patience: Patience::default(),
        machine: String::new(),
    })?;
    let mut running = Running::new(name)?;
    end_with_input();
    let mut failure = None;
    store.watch(&mut |event| match running.take(event, start) {
        Ok(()) => ControlFlow::Continue(()),
        Err(error) => {
            failure = Some(error);
            ControlFlow::Break(())
        }
    })?;
    failure.map_or(Ok(()), Err)
}

/// A node's facts and plan, as the core of an agent has them.
struct Running {
    compiler: Compiler,
    plan: Plan,
    facts: usize,
    is_ready: bool,
}

impl Running {
    fn new(node: NodeName) -> Result<Self> {
        let mut settings = Settings::new(node);
        settings.dns.addresses = vec!["10.96.0.10".parse()?, "169.254.53.53".parse()?];
        settings.services = Some(weft_compile::ServiceSettings::default());
        let mut compiler = Compiler::new(settings);
        let link = HostLink {
            name: IfName::new("eth0")?,
            mtu: 1500,
            router_advertisements: false,
            addresses: vec![format!("{}/24", objects::node_ip(0)).parse()?],
        };
        compiler.apply(Change::set(Fact::Host(Host { links: vec![link], loopback: Vec::new() })));
        Ok(Self { compiler, plan: Plan::default(), facts: 0, is_ready: false })
    }

    fn take(&mut self, event: Event, start: Instant) -> Result<()> {
        let handed_over = Instant::now();
        match event {
            Event::Changes(changes) => {
                let mut changed = false;
                for change in changes {
                    self.facts += usize::from(!self.is_ready);
                    changed |= self.compiler.apply(change);
                }
                if self.is_ready && changed {
                    self.flush();
                    let took_ms = handed_over.elapsed().as_secs_f64() * 1000.0;
                    say(&Said::Changed { at_ns: now_ns()?, took_ms, cpu_ms: cpu_ms()?, bytes: 0 })?;
                }
            }
            Event::Synced if !self.is_ready => {
                self.is_ready = true;
                self.flush();
                say(&Said::Ready {
                    ms: start.elapsed().as_secs_f64() * 1000.0,
                    cpu_ms: cpu_ms()?,
                    rss: memory("VmRSS")?,
                    peak: memory("VmHWM")?,
                    bytes: 0,
                    objects: self.facts,
                })?;
            }
            Event::Stale { reason, .. } => bail!("the API server can't be followed: {reason}"),
            Event::Notice(notice) => bail!("{}: {:?}", notice.about, notice.text),
            _ => {}
        }
        Ok(())
    }

    fn flush(&mut self) {
        self.compiler.flush(&mut self.plan);
        self.plan.names.forget_changed();
        self.plan.kernel.forget_changed();
    }
}

/// Kinds that are followed.
const STREAMS: usize = 6;

/// What a node asks for of a kind.
struct Stream {
    /// The path, with the selection.
    path: String,
    /// The form.
    accept: &'static str,
    id: ObjectId,
}

fn streams(pods: PodScope) -> [Stream; STREAMS] {
    const METADATA: &str = "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1";
    const WHOLE: &str = "application/json";
    let pods = match pods {
        PodScope::Own => format!("fieldSelector=spec.nodeName%3D{}", objects::node_name(0)),
        PodScope::All => {
            "fieldSelector=spec.nodeName%21%3D%2Cstatus.phase%21%3DSucceeded%2Cstatus.phase%21%3DFailed"
                .into()
        }
    };
    let stream = |group: &str, kind: &str, query: &str, accept| {
        let root = if group == "v1" { "/api" } else { "/apis" };
        let path = format!("{root}/{group}/{}s?{query}", kind.to_lowercase());
        Stream { path, accept, id: ObjectId { api_version: group.into(), kind: kind.into() } }
    };
    [
        stream("v1", "Node", "", WHOLE),
        stream("v1", "Namespace", "", METADATA),
        stream("v1", "Service", "", WHOLE),
        stream("networking.k8s.io/v1", "ServiceCIDR", "", WHOLE),
        stream("discovery.k8s.io/v1", "EndpointSlice", "", WHOLE),
        stream("v1", "Pod", &pods, WHOLE),
    ]
}

/// What the threads of a bare watcher have counted.
#[derive(Default)]
struct Counted {
    bytes: AtomicU64,
    lines: AtomicUsize,
    complete: AtomicUsize,
    /// Held by the thread that decodes: a node's store has one at a time as well.
    names: Mutex<Interner>,
}

/// A line of a watch that isn't an addition as servers write it.
#[derive(Deserialize)]
struct Envelope<'a> {
    r#type: &'a str,
    #[serde(borrow)]
    object: &'a RawValue,
}

/// Decodes a line, and forgets what was in it; says whether it was a bookmark.
fn decode_line(line: &[u8], id: &ObjectId, names: &mut Interner) -> Result<bool> {
    let line = line.trim_ascii_end();
    let added = line.strip_prefix(br#"{"type":"ADDED","object":"#).and_then(|rest| rest.strip_suffix(b"}"));
    let object = match added {
        Some(object) => str::from_utf8(object)?,
        None => {
            let envelope: Envelope<'_> = serde_json::from_slice(line)?;
            if envelope.r#type == "BOOKMARK" {
                return Ok(true);
            }
            envelope.object.get()
        }
    };
    let outcome = decode_text(id, object, names);
    std::hint::black_box(outcome).map_err(|error| anyhow!("{}: {error}", id.kind))?;
    Ok(false)
}

/// `bare PORT CA SCOPE`
pub fn bare(port: &str, ca: &str, pods: &str) -> Result<()> {
    let start = Instant::now();
    let api = Api { port: port.parse()?, ca: ca.into() };
    end_with_input();
    let (streams, counted) = (streams(scope(pods)?), Counted::default());
    std::thread::scope(|threads| {
        let followed = streams.iter().map(|stream| {
            let (api, counted) = (&api, &counted);
            threads.spawn(move || follow(api, stream, counted, start))
        });
        let followed: Vec<_> = followed.collect();
        followed.into_iter().try_for_each(|thread| match thread.join() {
            Ok(done) => done,
            Err(_) => bail!("a thread of the bare watcher panicked"),
        })
    })
}

fn follow(api: &Api, stream: &Stream, counted: &Counted, start: Instant) -> Result<()> {
    let Stream { path, accept, id } = stream;
    let query =
        "watch=true&allowWatchBookmarks=true&sendInitialEvents=true&resourceVersionMatch=NotOlderThan";
    let separator = if path.ends_with('?') { "" } else { "&" };
    let (status, mut body) = api.open("GET", &format!("{path}{separator}{query}"), accept, ("", ""))?;
    if status != 200 {
        bail!("{path}: {status}");
    }
    let (mut line, mut is_complete) = (Vec::new(), false);
    while body.read_until(b'\n', &mut line)? > 0 {
        let handed_over = Instant::now();
        let bytes = counted.bytes.fetch_add(line.len() as u64, Ordering::Relaxed) + line.len() as u64;
        let lines = counted.lines.fetch_add(1, Ordering::Relaxed) + 1;
        let is_bookmark = {
            let mut names = counted.names.lock().unwrap_or_else(PoisonError::into_inner);
            decode_line(&line, id, &mut names)?
        };
        line.clear();
        if !is_bookmark {
            // What the server itself does meanwhile is nobody's change.
            if counted.complete.load(Ordering::Relaxed) == STREAMS {
                let took_ms = handed_over.elapsed().as_secs_f64() * 1000.0;
                say(&Said::Changed { at_ns: now_ns()?, took_ms, cpu_ms: cpu_ms()?, bytes })?;
            }
            continue;
        }
        if is_complete {
            continue;
        }
        is_complete = true;
        if counted.complete.fetch_add(1, Ordering::Relaxed) + 1 == STREAMS {
            say(&Said::Ready {
                ms: start.elapsed().as_secs_f64() * 1000.0,
                cpu_ms: cpu_ms()?,
                rss: memory("VmRSS")?,
                peak: memory("VmHWM")?,
                bytes,
                objects: lines,
            })?;
        }
    }
    bail!("{path}: the server ended the watch")
}
