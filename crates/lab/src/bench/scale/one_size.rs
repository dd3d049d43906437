//! The process that measures one size of cluster, and prints what it found as JSON.

use std::fs::File;
use std::io::Write as _;
use std::os::fd::OwnedFd;
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context, Result, anyhow, bail, ensure};
use nix::sched::{CloneFlags, unshare};
use weft_compile::{Compiler, Settings};
use weft_dataplane::{Executor, LinuxKernel, observe_host};
use weft_model::{Change, Fact};
use weft_plan::Plan;

use super::Found;
use super::changes::{self, Running};
use super::facts::{self, Cluster, PODS_A_NODE, State};

/// `one-size NODES CHANGES`, in a network namespace of its own.
pub fn one_size(nodes: usize, count: usize) -> Result<()> {
    // Memory as the agent has it, for that is measured.
    weft_agent::memory::keep_little();
    let cluster = Cluster { nodes };
    unshare(CloneFlags::CLONE_NEWNET).context("can't make a network namespace")?;
    lay_uplink()?;
    let state = std::env::temp_dir().join(format!("weft-bench-scale-{}", std::process::id()));
    std::fs::create_dir(&state).with_context(|| format!("can't make {}", state.display()))?;
    let found = measure(cluster, count, &state);
    std::fs::remove_dir_all(&state).with_context(|| format!("can't remove {}", state.display()))?;
    println!("{}", serde_json::to_string(&found?)?);
    Ok(())
}

fn measure(cluster: Cluster, count: usize, state: &std::path::Path) -> Result<Found> {
    let mut kernel = LinuxKernel::open(state)?;
    // The kernel closes its descriptor once the link stands; nothing else holds these namespaces.
    let pods = (0..PODS_A_NODE).map(|_| namespace()).collect::<Result<Vec<OwnedFd>>>()?;
    for (number, netns) in pods.iter().enumerate() {
        let netns = netns.try_clone().context("can't keep a pod's namespace")?;
        kernel.register_netns(facts::attachment_id(number)?, netns);
    }
    let mut running = Running {
        compiler: Compiler::new(settings()?),
        plan: Plan::default(),
        executor: Executor::new(kernel),
    };
    let host = Fact::Host(observe_host()?);

    // Facts are made as they are taken, and their making is part of the time: a store would have read them.
    let start = Instant::now();
    running.compiler.apply(Change::set(host));
    for fact in cluster.facts() {
        running.compiler.apply(Change::set(fact?));
    }
    running.compiler.flush(&mut running.plan);
    let first_plan = start.elapsed();
    ensure!(running.plan.warnings.is_empty(), "the plan has warnings: {}", running.plan.warnings[0]);

    running.plan.names.forget_changed();
    running.plan.kernel.forget_changed();
    let start = Instant::now();
    let outcome = running.executor.sync(&running.plan)?;
    let first_apply = start.elapsed();
    ensure!(outcome.failed.is_empty(), "the kernel refused rows: {:?}", outcome.failed.first());
    let rss = resident_mb()?;
    let changes = changes::run(cluster, &mut running, count)?;
    Ok(Found {
        rows: running.plan.kernel.len(),
        first_plan: first_plan.as_secs_f64() * 1000.0,
        first_apply: first_apply.as_secs_f64() * 1000.0,
        rss: resident_mb()?.max(rss),
        changes,
    })
}

fn settings() -> Result<Settings> {
    let mut settings = Settings::new(facts::node_name(0)?);
    settings.dns.addresses = vec!["10.96.0.10".parse()?, "169.254.53.53".parse()?];
    Ok(settings)
}

/// A link with the node's addresses, and a default route.
fn lay_uplink() -> Result<()> {
    let [v4, v6] = facts::node_ips(0, State::First)?;
    let batch = format!(
        "link set lo up\nlink add name eth0 type veth peer name cable\nlink set cable up\n\
         address add {v4}/24 dev eth0\naddress add {v6}/64 dev eth0 nodad\nlink set eth0 up\n\
         route add default via 172.16.0.254\n"
    );
    let mut ip =
        Command::new("ip").args(["-batch", "-"]).stdin(Stdio::piped()).spawn().context("can't run ip")?;
    if let Some(mut stdin) = ip.stdin.take() {
        stdin.write_all(batch.as_bytes()).context("can't write to ip")?;
    }
    let status = ip.wait().context("can't wait for ip")?;
    if !status.success() {
        bail!("ip failed ({status})");
    }
    Ok(())
}

/// A network namespace for a pod.
fn namespace() -> Result<OwnedFd> {
    let made = std::thread::spawn(|| {
        unshare(CloneFlags::CLONE_NEWNET)?;
        File::open("/proc/thread-self/ns/net")
    });
    let file = made.join().map_err(|_| anyhow!("a thread of the benchmark panicked"))?;
    Ok(file.context("can't make a pod's namespace")?.into())
}

/// Resident memory of this process.
fn resident_mb() -> Result<f64> {
    let status = std::fs::read_to_string("/proc/self/status").context("can't read /proc/self/status")?;
    let line = status.lines().find_map(|l| l.strip_prefix("VmRSS:")).context("the kernel says no memory")?;
    let kilobytes: f64 = line.trim().trim_end_matches(" kB").parse().context("the kernel says no number")?;
    Ok(kilobytes / 1024.0)
}
