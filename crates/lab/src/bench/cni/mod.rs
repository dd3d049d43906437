//! ADD and DEL as a runtime asks for them, beside the reference plugins, and beside the kernel's own price.
//!
//! Three nodes in one lab: on `n1` Weft, on `n2` the chain of bridge, host-local, portmap and firewall, on `n3` raw
//! netlink. One after the other they get the same number of namespaces, in turns; then 200 by 32 at a time. Only the
//! plugins' own time counts, from the first one's start to the last one's end; namespaces are made before.

mod floor;
mod many;
mod plugins;

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use weft_lab::load::percentile;
use weft_lab::runtime::{PodIdentity, Sandbox};
use weft_lab::{Lab, Machine, Tool, Topology};

use super::report::{Bound, Report};
use super::{Options, cluster};
use floor::{End, Floor};
use plugins::Plugins;

/// Pods of the many at once.
const MANY: usize = 200;
/// Calls at once.
const AT_ONCE: usize = 32;
/// Calls before the first that counts.
const WARM_UP: usize = 3;
/// Between two measurements: what the kernel does later for the one shouldn't slow the next.
const PAUSE: Duration = Duration::from_millis(25);

/// Where ADD and DEL are timed.
struct Place {
    machine: Arc<Machine>,
    plugins: Plugins,
}

/// Times in milliseconds.
#[derive(Debug, Default)]
struct Times {
    add: Vec<f64>,
    del: Vec<f64>,
}

impl Times {
    fn note(&mut self, (add, del): (Duration, Duration)) {
        self.add.push(milliseconds(add));
        self.del.push(milliseconds(del));
    }
}

fn milliseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}

/// Measures, and says what came of it.
pub fn run(options: &Options) -> Result<Report> {
    let rounds = options.rounds.unwrap_or(100);
    let lab = Lab::new("bench-cni", Topology::one_link(3), Tool::current()?)?;
    let weft = cluster::start(&lab, &options.programs()?, "cluster", &["n1"], "auto")?;
    let namespaces = rounds.max(MANY);
    for node in ["n1", "n2", "n3"] {
        make_namespaces(&*lab.machine(node)?, namespaces)?;
    }
    let ours = Place { machine: lab.machine("n1")?, plugins: Plugins::installed(&weft[0].runtime)? };
    let chain = Place { machine: lab.machine("n2")?, plugins: Plugins::reference_chain()? };
    let machine = lab.machine("n3")?;
    let mut floor = machine.enter_net(|| Floor::open(&machine))??;

    let (mut our, mut their, mut least) = (Times::default(), Times::default(), Times::default());
    let mut gone = Vec::new();
    for round in 0..WARM_UP + rounds {
        let pod = sandbox("one", round % namespaces);
        let times = [
            machine.enter_net(|| floor.add_and_del(round % namespaces, End::Acknowledged))??,
            one(&ours, &pod).context("Weft")?,
            one(&chain, &pod).context("the reference chain")?,
        ];
        if round >= WARM_UP {
            let [bare, ours, chain] = times;
            least.note(bare);
            our.note(ours);
            their.note(chain);
            let (_, until_gone) =
                machine.enter_net(|| floor.add_and_del(round % namespaces, End::Gone))??;
            gone.push(milliseconds(until_gone));
        }
    }
    let mut report = Report::new(
        "cni",
        "peer: bridge, host-local, portmap and firewall in turn; limit: the same objects by raw netlink in one process",
    );
    singles(&mut report, &mut our, &mut their, &mut least);
    // Weft's DEL is over when the link is gone. So it is here, while `cni.del` waits for the acknowledgement.
    let like = [Some(percentile(&mut our.del, 50)), None, Some(percentile(&mut gone, 50))];
    report.add("cni.del.gone.p50", "ms", like);
    let least = machine.enter_net(|| floor.many(MANY))??;
    many(&mut report, &mut many::run(&ours)?, &mut many::run(&chain)?, least);
    drop((floor, ours, chain));
    cluster::stop(weft)?;
    drop(machine);
    lab.close()?;
    Ok(report)
}

/// One ADD and its DEL.
fn one(place: &Place, pod: &Sandbox) -> Result<(Duration, Duration)> {
    let times = place.machine.enter(|| {
        let (add, result) = place.plugins.add(pod)?;
        std::thread::sleep(PAUSE);
        let del = place.plugins.del(pod, &result)?;
        Ok::<_, anyhow::Error>((add, del))
    })??;
    std::thread::sleep(PAUSE);
    Ok(times)
}

/// A pod's sandbox, as a kubelet's runtime would name it, with the namespace of this number.
fn sandbox(kind: &str, number: usize) -> Sandbox {
    let mut sandbox = Sandbox::new(format!("{kind}{number:04}"), floor::namespace(number));
    sandbox.pod = Some(PodIdentity {
        namespace: "bench".into(),
        name: format!("{kind}-{number}"),
        uid: format!("uid-{kind}-{number}"),
    });
    sandbox
}

fn make_namespaces(machine: &Machine, count: usize) -> Result<()> {
    let names = (0..count).map(floor::namespace_name);
    let batch: String = names.map(|name| format!("netns add {name}\n")).collect();
    machine.run_with_input("ip", &["-batch", "-"], &batch)?;
    Ok(())
}

fn singles(report: &mut Report, ours: &mut Times, chain: &mut Times, floor: &mut Times) {
    for percent in [50, 99] {
        let at = |times: [&mut Vec<f64>; 3]| times.map(|t| Some(percentile(t, percent)));
        let add = at([&mut ours.add, &mut chain.add, &mut floor.add]);
        let del = at([&mut ours.del, &mut chain.del, &mut floor.del]);
        report.add(format!("cni.add.p{percent}"), "ms", add);
        report.add(format!("cni.del.p{percent}"), "ms", del);
        if let (50, [Some(ours), Some(chain), Some(floor)]) = (percent, add) {
            report.aim("ADD: the chain's time / ours, p50", chain / ours, Bound::AtLeast(25.0));
            report.aim("ADD: ours / the floor's, p50", ours / floor, Bound::AtMost(3.0));
        }
        if let (50, [Some(ours), Some(chain), Some(floor)]) = (percent, del) {
            report.aim("DEL: the chain's time / ours, p50", chain / ours, Bound::AtLeast(8.0));
            report.aim("DEL: ours / a bare RTM_DELLINK, p50", ours / floor, Bound::AtMost(1.3));
        }
    }
}

fn many(report: &mut Report, ours: &mut many::Many, chain: &mut many::Many, floor: (Duration, Duration)) {
    let name = |verb: &str| format!("cni.{verb}.{MANY}x{AT_ONCE}");
    let totals = |ours, chain, floor| [ours, chain, floor].map(|t: Duration| Some(milliseconds(t)));
    report.add(name("add"), "ms", totals(ours.add_took, chain.add_took, floor.0));
    report.add(name("del"), "ms", totals(ours.del_took, chain.del_took, floor.1));
    for percent in [50, 99] {
        let at = |ours: &mut Vec<f64>, chain: &mut Vec<f64>| {
            [Some(percentile(ours, percent)), Some(percentile(chain, percent)), None]
        };
        let add = at(&mut ours.times.add, &mut chain.times.add);
        let del = at(&mut ours.times.del, &mut chain.times.del);
        report.add(format!("{}.p{percent}", name("add")), "ms", add);
        report.add(format!("{}.p{percent}", name("del")), "ms", del);
    }
}
