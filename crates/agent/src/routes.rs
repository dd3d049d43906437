//! What the socket answers: CNI calls for the plugin, and looks inside for people.
//!
//! What always holds: the core is reached by messages alone. A call is read again by the code that the plugin read it with. For a
//! look inside, core and kernel are waited for twenty seconds at most, and only one look works on a copy of the facts at a time.
//!
//! What is absent: who may ask, and how much (`api`); decisions. No look changes anything.

use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::mpsc::{Sender, channel};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use serde::Deserialize;
use serde_json::json;
use tokio::sync::oneshot;
use weft_cni::weft::Request;
use weft_cni::{Call, CniError, Code, Verb};
use weft_store::{DirectoryOptions, DirectoryStore, Event, Notice, StoreError};

use crate::api::{ApiRequest, ApiResponse, HandedOn, Handler};
use crate::core::{Core, SharedPlans, Work};
use crate::explain::{self, Kernels, PeerKernel, Query};
use crate::message::{CniAnswer, CniCall, CniReply, CniVerb, Differing, Message};
use crate::preview::{Basis, preview};
use crate::status::Status;

/// How long a look inside may take.
const PATIENCE: Duration = Duration::from_secs(20);

/// The socket's handler: hands requests to the core and waits for its answers.
pub struct Routes {
    core: Mutex<Sender<Message>>,
    /// Held by whoever works on a copy of the facts: in a large cluster one is a good part of the agent's memory.
    copy: Mutex<()>,
}

impl Handler for Routes {
    fn hand_on(&self, request: ApiRequest) -> HandedOn {
        let Some(verb) = Verb::of_path(&request.path) else { return HandedOn::Not(request) };
        let deadline = request.deadline;
        let asked = self.ask_core(verb, request);
        HandedOn::Answer(Box::pin(async move {
            match asked {
                Ok(answer) => answered(answer, deadline).await.into(),
                Err(error) => ApiResponse::error(&error),
            }
        }))
    }

    fn call(&self, request: ApiRequest) -> ApiResponse {
        match (request.method.as_str(), request.path.as_str()) {
            ("GET", "/v1/status") => self.inspect(|core| Ok(ApiResponse::json(&Status::of(core)))),
            ("GET", "/v1/alive") => {
                self.inspect(|core| Ok(ApiResponse::json(&json!({ "alive": core.is_alive(Instant::now()) }))))
            }
            ("GET", "/v1/plan") => self.ask(|core| core.plans().clone()).map(|plans| plan(&plans)).into(),
            ("GET", "/v1/plan/kernel") => self.kernel_differences(),
            ("POST", "/v1/plan/preview") => self.preview(&request.body),
            ("POST", "/v1/explain") => self.explain(&request.body),
            ("GET", "/v1/config") => self.inspect(|core| Ok(ApiResponse::json(core.config()))),
            _ => ApiResponse::not_found(&request.path),
        }
    }
}

impl Routes {
    /// Routes to the core behind this sender.
    pub fn new(core: Sender<Message>) -> Self {
        Self { core: Mutex::new(core), copy: Mutex::new(()) }
    }

    fn send(&self, message: Message) {
        let core = self.core.lock().unwrap_or_else(PoisonError::into_inner);
        // A core that has ended answers nothing, which the waiting side sees.
        let _ = core.send(message);
    }

    /// Hands a CNI call to the core.
    fn ask_core(&self, verb: Verb, request: ApiRequest) -> Result<oneshot::Receiver<CniAnswer>, CniError> {
        let call = Call::decode(&request.body)?;
        let netns = request.fds.into_iter().next();
        let plugin_version = call.plugin_version().map(str::to_owned);
        let verb = cni_verb(call.request(verb)?, netns)?;
        let (send, answer) = oneshot::channel();
        // Whoever asked may have gone.
        let reply = CniReply::new(move |answer| drop(send.send(answer)));
        self.send(Message::Cni(CniCall { verb, deadline: request.deadline, reply, plugin_version }));
        Ok(answer)
    }

    /// Runs `look` on the core's thread.
    fn ask<T: Send + 'static>(&self, look: impl FnOnce(&Core) -> T + Send + 'static) -> Result<T, CniError> {
        let (send, answer) = channel();
        self.send(Message::Inspect(Box::new(move |core| {
            let _ = send.send(look(core));
        })));
        answer.recv_timeout(PATIENCE).map_err(|_| stopping())
    }

    fn inspect(
        &self,
        look: impl FnOnce(&Core) -> Result<ApiResponse, CniError> + Send + 'static,
    ) -> ApiResponse {
        self.ask(look).and_then(|response| response).into()
    }

    /// Where the kernel is not as the plan has it.
    fn differences(&self) -> Result<Vec<Differing>, CniError> {
        let (send, answer) = channel();
        self.ask(move |core| core.send(Work::Differences(send)))?;
        let differing = answer.recv_timeout(PATIENCE).map_err(|_| stopping())?;
        differing.map_err(|error| CniError::new(Code::IO_FAILURE, "the kernel can't be observed", error))
    }

    fn kernel_differences(&self) -> ApiResponse {
        self.differences()
            .map(|differing| ApiResponse::json(&json!({ "differences": lines(&differing) })))
            .into()
    }

    fn preview(&self, body: &[u8]) -> ApiResponse {
        let run = || -> Result<ApiResponse, CniError> {
            let Preview { folder } = decode(body)?;
            let unreadable = |error: StoreError| {
                CniError::new(Code::IO_FAILURE, "the folder can't be read", error.to_string())
            };
            let store = DirectoryStore::open(&folder, DirectoryOptions::default()).map_err(unreadable)?;
            let (mut changes, mut notices) = (Vec::new(), Vec::new());
            for event in store.read_once().map_err(unreadable)? {
                match event {
                    Event::Changes(more) => changes.extend(more),
                    Event::Notice(Notice { about, text: Some(remark) }) => {
                        notices.push(format!("{about}: {}", remark.text()));
                    }
                    _ => {}
                }
            }
            let _one = self.copy.lock().unwrap_or_else(PoisonError::into_inner);
            let (basis, plans) = self.ask(move |core| (Basis::of(core, changes), core.plans().clone()))?;
            let lines = preview(basis, &plans);
            Ok(ApiResponse::json(&json!({ "differences": lines, "notices": notices })))
        };
        run().into()
    }

    fn explain(&self, body: &[u8]) -> ApiResponse {
        let run = || -> Result<ApiResponse, CniError> {
            let Questions { queries, check_kernel, peers } = decode(body)?;
            let _one = self.copy.lock().unwrap_or_else(PoisonError::into_inner);
            let known = self.ask(explain::Known::of)?;
            let kernels = if check_kernel { Some(Kernels::new(self.differences()?, peers)) } else { None };
            let explanations = explain::explain(&known, &queries, kernels.as_ref());
            drop(known);
            let kernel = kernels.map(|kernels| {
                let lines = lines(kernels.own());
                json!({ "agrees": lines.is_empty(), "differences": lines })
            });
            Ok(ApiResponse::json(&json!({ "explanations": explanations, "kernel": kernel })))
        };
        run().into()
    }
}

/// The core's answer to a CNI call. It comes by the deadline; a little more for the way.
async fn answered(answer: oneshot::Receiver<CniAnswer>, deadline: Instant) -> Result<ApiResponse, CniError> {
    let patience = deadline.saturating_duration_since(Instant::now()) + Duration::from_secs(2);
    let answer = tokio::time::timeout(patience, answer).await;
    let value = answer.ok().and_then(Result::ok).ok_or_else(stopping)??;
    Ok(if value.is_null() { ApiResponse::done() } else { ApiResponse::json(&value) })
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Questions {
    queries: Vec<Query>,
    #[serde(default)]
    check_kernel: bool,
    /// What the asker has heard from other nodes' agents of their kernels.
    #[serde(default)]
    peers: Vec<PeerKernel>,
}

fn lines(differing: &[Differing]) -> Vec<&str> {
    differing.iter().flat_map(|row| &row.lines).map(String::as_str).collect()
}

#[derive(Deserialize)]
struct Preview {
    folder: PathBuf,
}

fn decode<T: serde::de::DeserializeOwned>(body: &[u8]) -> Result<T, CniError> {
    serde_json::from_slice(body).map_err(|error| {
        CniError::new(Code::DECODING_FAILURE, "the request can't be read", error.to_string())
    })
}

fn stopping() -> CniError {
    CniError::new(
        Code::TRY_AGAIN_LATER,
        "the agent did not answer in time",
        "it may be stopping, or very busy",
    )
}

fn cni_verb(request: Request, netns: Option<OwnedFd>) -> Result<CniVerb, CniError> {
    let namespace = |netns: Option<OwnedFd>| {
        netns.ok_or_else(|| {
            CniError::new(
                Code::INVALID_ENVIRONMENT,
                "the request brought no network namespace",
                "the plugin must pass it",
            )
        })
    };
    Ok(match request {
        Request::Add(attach) => CniVerb::Add(attach, namespace(netns)?),
        Request::Check(attach) => CniVerb::Check(attach, namespace(netns)?),
        Request::Del(attach) => CniVerb::Del(crate::core::attachment_id(&attach)?),
        Request::Gc(gc) => CniVerb::Gc(gc),
        Request::Status(conf) => CniVerb::Status(conf),
    })
}

fn plan(plans: &SharedPlans) -> ApiResponse {
    let plan = plans.kernel.read().unwrap_or_else(PoisonError::into_inner).clone();
    let names = plans.names.read().unwrap_or_else(PoisonError::into_inner).clone();
    let rows: Vec<_> =
        plan.kernel
            .sorted()
            .into_iter()
            .map(|(key, entry)| (weft_plan::text::kernel_row(key, &entry.value), entry.origin.to_string()))
            .chain(names.names.sorted().into_iter().map(|(name, entry)| {
                (weft_plan::text::name_row(name, &entry.value), entry.origin.to_string())
            }))
            .chain(
                plan.health.sorted().into_iter().map(|(key, entry)| {
                    (weft_plan::health::line(key, &entry.value), entry.origin.to_string())
                }),
            )
            .map(|(text, origin)| json!({ "row": text, "origin": origin }))
            .collect();
    let warnings: Vec<String> = plan.warnings.iter().map(ToString::to_string).collect();
    ApiResponse::json(&json!({ "generation": plan.generation, "rows": rows, "warnings": warnings }))
}
