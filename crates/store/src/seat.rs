//! Which machine is a node, where two have its name by mistake: the decision alone, without files or servers.
//!
//! A node has a *seat*: an entry in the store that names the machine which has it. What always holds: a machine that finds another's word
//! there takes nothing from it, and asks. Who has the seat answers each question. One that leaves so many in a row unanswered as [`ASKED`]
//! is gone, or was this very machine before it was set up anew, and makes way; should it be there after all, it finds the other's word
//! when it looks again, relies on nothing from then on, and asks in its turn. Looks count, and no clock does: a store that can't be
//! reached is no silence. While nobody asks, nobody writes.
//!
//! What is absent: the etcd store, whose leases end by themselves, and where a seat is kept.

use std::time::Duration;

use weft_model::NodeName;

use crate::clock::BootTime;
use crate::store::{Notice, Remark, StoreError};

/// Writes in a row until what stands in the store is as it should be.
pub(crate) const ATTEMPTS: usize = 8;
/// Looks at a question without an answer, after which nobody is taken to be there.
pub(crate) const ASKED: u32 = 24;
/// Looks without another question, after which nobody is taken to ask any more.
const QUIET: u32 = 6;

/// What stands in the store.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Entry {
    /// The machine that has the seat; empty for none.
    pub holder: String,
    /// How many questions it has answered.
    pub answers: u64,
    /// The machine that asks; empty for none.
    pub asker: String,
}

impl Entry {
    /// Who has the seat.
    pub fn machine(self) -> Option<String> {
        Some(self.holder).filter(|holder| !holder.is_empty())
    }

    /// `HOLDER ANSWERS`, and ` ASKER` where one asks. Anything else names nobody.
    pub fn read(text: &str) -> Self {
        let mut words = text.split_whitespace();
        let (holder, answers) = (words.next(), words.next().and_then(|word| word.parse().ok()));
        match (holder, answers) {
            (Some(holder), Some(answers)) => {
                Self { holder: holder.into(), answers, asker: words.next().unwrap_or_default().into() }
            }
            _ => Self::default(),
        }
    }

    /// The same as text.
    pub fn write(&self) -> String {
        format!("{} {} {}", self.holder, self.answers, self.asker).trim_end().to_owned()
    }
}

/// What is to be told where two machines have a node's name; nothing where one has.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Dispute {
    /// Why this machine may not speak for the node.
    pub refusal: Option<String>,
    /// What it should tell, where another one asks.
    pub warning: Option<String>,
}

impl Dispute {
    /// Refuses what would be said or claimed for the node while another machine is it.
    pub fn admit(&self, node: &NodeName) -> Result<(), StoreError> {
        let refused = |reason| StoreError::Server { action: speak_for(node), reason };
        self.refusal.clone().map_or(Ok(()), |reason| Err(refused(reason)))
    }

    /// What is to be told of who asks.
    pub fn notice(&self, node: &NodeName) -> Notice {
        let text = self.warning.clone().map(Remark::Warning);
        Notice { about: format!("machine of node {node}"), text }
    }
}

/// What can't be done without a seat, in the words of errors.
pub(crate) fn speak_for(node: &NodeName) -> String {
    format!("cannot speak for node {node}")
}

/// What can't be told where the store doesn't say which machine is a node, in the words of errors.
pub(crate) fn look_at(node: &NodeName) -> String {
    format!("cannot look which machine is node {node}")
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Standing {
    /// It hasn't been looked at.
    Unknown,
    Ours,
    /// Nobody's, as far as anybody can see: it can't be written, and why. Others can't write it either, or will be seen at the next look.
    Vacant(String),
    /// Another machine's: what was seen last, and the looks at a question that it hasn't answered.
    Others(Entry, u32),
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Seat {
    node: NodeName,
    machine: String,
    /// Time between looks, while there are questions.
    pause: Duration,
    standing: Standing,
    /// Who asked last, and until when that counts.
    asked: Option<(String, BootTime)>,
}

impl Seat {
    pub fn of(node: NodeName, machine: String, pause: Duration) -> Self {
        Self { node, machine, pause, standing: Standing::Unknown, asked: None }
    }

    /// Whose seat it is.
    pub fn node(&self) -> &NodeName {
        &self.node
    }

    /// True until the first look, and after the node was forgotten.
    pub fn is_unknown(&self) -> bool {
        self.standing == Standing::Unknown
    }

    /// The node was forgotten.
    pub fn forget(&mut self) {
        (self.standing, self.asked) = (Standing::Unknown, None);
    }

    /// A seat that nobody has couldn't be taken. A node whose store can only be read goes on as it did when there were no seats.
    pub fn cannot_take(&mut self, why: String) {
        self.standing = Standing::Vacant(why);
    }

    /// Takes in what stands there, and says what to write instead. After a write that is no question it has to be looked at again.
    pub fn look(&mut self, there: &Entry, now: BootTime) -> Option<Entry> {
        if self.asked.as_ref().is_some_and(|(_, until)| *until <= now) {
            self.asked = None;
        }
        let ours = |answers| Some(Entry { holder: self.machine.clone(), answers, asker: String::new() });
        if there.holder.is_empty() {
            return ours(0);
        }
        if there.holder == self.machine {
            self.standing = Standing::Ours;
            if there.asker.is_empty() {
                return None;
            }
            let answer = ours(there.answers + 1);
            if there.asker != self.machine {
                self.asked = Some((there.asker.clone(), now + self.pause * QUIET));
            }
            return answer;
        }
        let unanswered = match &self.standing {
            Standing::Others(before, unanswered)
                if (&before.holder, before.answers) == (&there.holder, there.answers)
                    && !there.asker.is_empty() =>
            {
                unanswered + 1
            }
            _ => 0,
        };
        if unanswered >= ASKED {
            return ours(there.answers + 1);
        }
        self.standing = Standing::Others(there.clone(), unanswered);
        let question = Entry { asker: self.machine.clone(), ..there.clone() };
        (question != *there).then_some(question)
    }

    /// True for what [`Seat::look`] says to write where that asks another machine.
    pub fn is_question(&self, written: &Entry) -> bool {
        written.holder != self.machine
    }

    /// True while the next look is soon: somebody asks.
    pub fn is_disputed(&self) -> bool {
        matches!(self.standing, Standing::Others(..)) || self.asked.is_some()
    }

    /// What is to be told now.
    pub fn dispute(&self) -> Dispute {
        Dispute { refusal: self.refusal(), warning: self.warning() }
    }

    /// Why this machine may not speak for the node.
    fn refusal(&self) -> Option<String> {
        let Standing::Others(there, _) = &self.standing else { return None };
        Some(format!(
            "another machine ({}) is node {} as well: give one of the two another `node` in its configuration. Where it is this one before \
             it was set up anew, wait: when it has answered nothing for {} s, this one takes its place",
            there.holder,
            self.node,
            (self.pause * ASKED).as_secs_f32().ceil(),
        ))
    }

    /// What should be told by the one that has the seat, or that goes on without.
    fn warning(&self) -> Option<String> {
        if let Standing::Vacant(why) = &self.standing {
            return Some(format!(
                "{why}: another machine whose node is {} as well would not be noticed; the store must be writable for every node",
                self.node
            ));
        }
        let (asker, _) = self.asked.as_ref()?;
        Some(format!(
            "another machine ({asker}) is node {} as well, and was refused: give one of the two another `node` in its configuration",
            self.node
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAUSE: Duration = Duration::from_secs(5);

    fn seat(machine: &str) -> Seat {
        Seat::of(NodeName::new("n1").unwrap(), machine.to_owned(), PAUSE)
    }

    /// Machines that look in turns at one entry.
    struct Table {
        entry: Entry,
        now: u64,
        writes: usize,
    }

    impl Table {
        fn look(&mut self, seat: &mut Seat) {
            self.now += 2;
            for _ in 0..3 {
                let now = BootTime::at(Duration::from_secs(self.now));
                let Some(entry) = seat.look(&Entry::read(&self.entry.write()), now) else { return };
                self.writes += 1;
                let is_question = seat.is_question(&entry);
                self.entry = entry;
                if is_question {
                    return;
                }
            }
            panic!("it writes for ever: {:?}", self.entry);
        }
    }

    #[test]
    fn a_second_machine_waits_for_as_long_as_the_first_answers() {
        let mut table = Table { entry: Entry::default(), now: 0, writes: 0 };
        let (mut one, mut two) = (seat("one"), seat("two"));
        table.look(&mut one);
        assert_eq!((one.refusal(), one.warning(), one.is_disputed()), (None, None, false));
        for _ in 0..100 {
            table.look(&mut one);
        }
        assert_eq!(table.writes, 1, "nobody asks, and nobody writes");
        for _ in 0..100 {
            table.look(&mut two);
            table.look(&mut one);
            assert!(two.refusal().is_some_and(|text| text.contains("another machine (one) is node n1")));
            assert!(one.refusal().is_none());
        }
        assert!(one.warning().is_some_and(|text| text.contains("(two)")));
        // A restart of the first is no other machine.
        let mut again = seat("one");
        table.look(&mut again);
        assert_eq!(again.refusal(), None);
        // The second one leaves.
        for _ in 0..20 {
            table.look(&mut one);
        }
        assert_eq!((one.warning(), one.is_disputed()), (None, false));
    }

    #[test]
    fn a_silent_machine_makes_way_and_finds_out_when_it_returns() {
        let mut table = Table { entry: Entry::default(), now: 0, writes: 0 };
        let (mut one, mut two, mut three) = (seat("one"), seat("two"), seat("three"));
        table.look(&mut one);
        let mut looks = 0;
        while two.is_unknown() || two.refusal().is_some() {
            table.look(&mut two);
            // Another that asks keeps nobody from counting.
            table.look(&mut three);
            looks += 1;
            assert!(looks < 3 * ASKED, "nobody makes way");
        }
        assert!(looks >= ASKED / 2, "{looks}");
        table.look(&mut one);
        assert!(one.refusal().is_some_and(|text| text.contains("(two)")));
        table.look(&mut two);
        assert!(two.refusal().is_none() && two.warning().is_some_and(|text| text.contains("(one)")));
        // Where the second one goes for good, the first has it again.
        for _ in 0..2 * ASKED {
            table.look(&mut one);
        }
        assert_eq!(one.refusal(), None);
    }

    #[test]
    fn who_cannot_take_a_seat_goes_on_until_another_has_it() {
        let now = BootTime::at(Duration::from_secs(1));
        let mut one = seat("one");
        assert!(one.look(&Entry::default(), now).is_some());
        one.cannot_take("cannot write it".into());
        assert_eq!((one.refusal(), one.is_unknown()), (None, false));
        assert!(one.warning().is_some_and(|text| text.starts_with("cannot write it: another machine")));
        // At each look it is tried again; another machine's word counts as ever.
        assert!(one.look(&Entry::default(), now).is_some());
        assert!(one.look(&Entry::read("two 0"), now).is_some_and(|entry| one.is_question(&entry)));
        assert!(one.refusal().is_some() && one.warning().is_none());
        one.cannot_take("cannot write it".into());
        assert_eq!(one.look(&Entry::read("one 0"), now), None);
        assert_eq!(one.dispute(), Dispute::default());
    }

    #[test]
    fn what_names_nobody_is_nobodys() {
        let check = |text: &str, expected: (&str, u64, &str)| {
            let entry = Entry::read(text);
            assert_eq!((entry.holder.as_str(), entry.answers, entry.asker.as_str()), expected, "{text:?}");
        };
        check("one 0", ("one", 0, ""));
        check("one 7 two\n", ("one", 7, "two"));
        check("", ("", 0, ""));
        check("one", ("", 0, ""));
        check("one x two", ("", 0, ""));
    }
}
