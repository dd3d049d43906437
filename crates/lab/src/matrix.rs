//! The reachability matrix: who asks whom, what the oracle says before, and what comes of it.
//!
//! A cell is right where kernel and oracle agree on everything that can be seen: whether an answer comes, who gives it,
//! and which addresses the server sees. Of a packet that is dropped nothing may come back at all.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;

use crate::probe::{Outcome, Target, Transport};
use crate::serve;
use crate::weft::{Packet, Prediction, Seen};
use crate::{LabError, Machine, Net, Pod, Tool};

/// Somebody who asks and may be asked: a pod, or a machine itself.
#[derive(Debug, Clone)]
pub struct Place {
    /// `namespace/name` of a pod, or the machine's name: what its server calls itself.
    pub name: String,
    /// The machine that it is on.
    pub machine: Arc<Machine>,
    /// Its network namespace, as a path on the machine; absent for the machine's own network.
    pub netns: Option<PathBuf>,
    /// Its addresses.
    pub addresses: Vec<IpAddr>,
    /// What the oracle knows of it.
    pub standing: Standing,
}

/// What the oracle knows of a place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// A pod or a node: its name.
    InCluster,
    /// An address, and nothing else.
    Outside,
}

impl Place {
    /// A pod.
    pub fn pod(pod: &Pod) -> Self {
        let netns = match pod.net() {
            Net::Machine => None,
            Net::At(path) => Some(path.into()),
        };
        Self {
            name: pod.key(),
            machine: Arc::clone(pod.machine()),
            netns,
            addresses: pod.addresses().to_vec(),
            standing: Standing::InCluster,
        }
    }

    /// A machine's own network.
    pub fn machine(machine: Arc<Machine>, addresses: Vec<IpAddr>, standing: Standing) -> Self {
        Self { name: machine.name().into(), machine, netns: None, addresses, standing }
    }

    /// The network that its probes run in.
    pub fn net(&self) -> Net<'_> {
        self.netns.as_deref().map_or(Net::Machine, Net::At)
    }

    /// Has this place ask all targets.
    pub fn probe(&self, tool: &Tool, targets: &[Target]) -> Result<Vec<Outcome>, LabError> {
        tool.ask(&self.machine, self.net(), "probe", targets)
    }

    /// The packet that its probe of a target begins with.
    pub fn packet(&self, target: &Target) -> Packet {
        let to = target.address;
        let like = |a: &&IpAddr| a.is_ipv4() == to.is_ipv4();
        let from = match self.standing {
            Standing::InCluster => self.name.clone(),
            // Without an address of the family it can't send; any source then gives the same prediction.
            Standing::Outside => self.addresses.iter().find(like).copied().unwrap_or(to.ip()).to_string(),
        };
        Packet { from, source: target.from, to, transport: target.transport }
    }
}

/// Both ways to ask a server at its own ports.
pub fn both(address: IpAddr) -> [Target; 2] {
    [(Transport::Http, serve::HTTP), (Transport::Udp, serve::UDP)]
        .map(|(transport, port)| Target::new(transport, SocketAddr::new(address, port)))
}

/// What must come of a probe.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Expected {
    /// This server answers, and sees this.
    Answer(String, Seen),
    /// It gets there, and nobody listens: a refusal comes back.
    Refusal,
    /// It doesn't get there or its answer doesn't come back, and the asker may be told so.
    NoAnswer,
    /// The same, and nobody says a word.
    Silence,
}

impl Expected {
    /// What a prediction means for somebody who asks. `outside` names the machines that are in no plan.
    pub fn of(
        prediction: &Prediction,
        transport: Transport,
        outside: impl Fn(IpAddr) -> Option<String>,
    ) -> Self {
        let listening = match transport {
            Transport::Http => serve::HTTP,
            Transport::Udp => serve::UDP,
        };
        match (prediction.works, prediction.verdict.as_str(), &prediction.seen) {
            (false, "dropped", _) => Self::Silence,
            (true, _, Some(seen)) => {
                let receiver = seen.receiver.clone().or_else(|| outside(seen.server.ip()));
                let is_listening = seen.server.port() == listening;
                match (receiver, transport) {
                    (Some(name), _) if is_listening => Self::Answer(name, seen.clone()),
                    (Some(_), Transport::Http) => Self::Refusal,
                    // A datagram's refusal is told by ICMP, of which kernels send only so many a second. And of machines that
                    // nobody knows, nobody knows what they do.
                    (Some(_), Transport::Udp) | (None, _) => Self::NoAnswer,
                }
            }
            _ => Self::NoAnswer,
        }
    }

    /// What is wrong with an outcome; nothing where it is as expected.
    pub fn objection(&self, outcome: &Outcome) -> Option<String> {
        match (self, outcome) {
            (Self::Answer(name, seen), Outcome::Answered { greeting, .. }) => {
                let as_foreseen = greeting.name == *name
                    && greeting.client.ip() == seen.client
                    && greeting.server == seen.server;
                (!as_foreseen).then(|| {
                    format!(
                        "{} at {} saw {}, instead of {name} at {} seeing {}",
                        greeting.name,
                        greeting.server,
                        greeting.client.ip(),
                        seen.server,
                        seen.client
                    )
                })
            }
            (Self::Refusal, Outcome::Refused(_))
            | (Self::NoAnswer, Outcome::Refused(_) | Outcome::Silent)
            | (Self::Silence, Outcome::Silent) => None,
            _ => Some(format!("{outcome:?} instead of {self:?}")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::serve::Greeting;

    fn seen(receiver: Option<&str>, port: u16) -> Seen {
        let server = SocketAddr::new([10, 42, 0, 2].into(), port);
        Seen { receiver: receiver.map(Into::into), client: [10, 42, 1, 2].into(), server }
    }

    #[track_caller]
    fn check(works: bool, verdict: &str, seen: Option<Seen>, expected: &Expected) {
        let (verdict, text, ends) = (verdict.into(), String::new(), Vec::new());
        let prediction = Prediction { verdict, works, text, seen, ends };
        let outside = |_| Some("internet".to_owned());
        assert_eq!(Expected::of(&prediction, Transport::Http, outside), *expected);
    }

    #[test]
    fn what_a_prediction_means() {
        let web = seen(Some("shop/web"), serve::HTTP);
        check(true, "delivered", Some(web.clone()), &Expected::Answer("shop/web".into(), web));
        let away = seen(None, serve::HTTP);
        check(true, "delivered", Some(away.clone()), &Expected::Answer("internet".into(), away));
        check(true, "delivered", Some(seen(Some("shop/web"), 30080)), &Expected::Refusal);
        check(false, "delivered", Some(seen(Some("shop/web"), serve::HTTP)), &Expected::NoAnswer);
        check(false, "rejected", None, &Expected::NoAnswer);
        check(false, "dropped", None, &Expected::Silence);
    }

    #[test]
    fn an_answer_must_be_the_foreseen_one() {
        let expected = Expected::Answer("shop/web".into(), seen(Some("shop/web"), serve::HTTP));
        let answer = |name: &str, client: [u8; 4]| Outcome::Answered {
            greeting: Greeting {
                name: name.into(),
                server: SocketAddr::new([10, 42, 0, 2].into(), serve::HTTP),
                client: SocketAddr::new(client.into(), 4000),
            },
            micros: 1,
        };
        assert_eq!(expected.objection(&answer("shop/web", [10, 42, 1, 2])), None);
        assert!(expected.objection(&answer("shop/web", [192, 0, 2, 1])).is_some(), "masqueraded");
        assert!(expected.objection(&answer("shop/api", [10, 42, 1, 2])).is_some(), "somebody else");
        assert!(expected.objection(&Outcome::Silent).is_some());
        assert!(Expected::Silence.objection(&Outcome::Refused("reset".into())).is_some());
        assert_eq!(Expected::NoAnswer.objection(&Outcome::Refused("reset".into())), None);
    }
}
