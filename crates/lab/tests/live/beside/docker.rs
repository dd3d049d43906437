//! Docker on a node of the cluster: its containers, our pods and the world reach each other as they should, though what else is
//! forwarded is dropped; whoever came first, and when either is started again.

use std::collections::BTreeSet;
use std::fs::File;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use nix::unistd::geteuid;
use weft_lab::kubernetes::Groups;
use weft_lab::matrix::{Place, Standing};
use weft_lab::pod::spawn_server;
use weft_lab::probe::{Target, Transport};
use weft_lab::sandbox::in_sandbox;
use weft_lab::topology::{CLIENT, INTERNET};
use weft_lab::{Machine, Net, Process, Topology, serve};

use super::super::rig::{Rig, Settings, is_in_force, wait};
use super::place;
use super::services::{By, NODE, Offer, forget_datagrams, objections, offers, tell};

const SOCKET: &str = "unix:///run/docker.sock";
/// The container, what its server says, and the node's ports that lead there.
const CONTAINER: &str = "web";
const NAME: &str = "docker/web";
const PUBLISHED: [(Transport, u16); 2] = [(Transport::Http, 8090), (Transport::Udp, 8091)];
/// How long the daemon may take to end.
const FAREWELL: Duration = Duration::from_secs(20);

#[test]
fn containers_and_pods() {
    const TEST: &str = "beside::docker::containers_and_pods";
    let _alone = super::super::alone();
    if !geteuid().is_root() {
        println!("SKIPPED: {TEST}: Docker needs root");
        return;
    }
    let Some(programs) = Programs::find() else {
        println!("SKIPPED: {TEST}: no Docker in {}: `cargo xtask test` fetches it", super::peers().display());
        return;
    };
    in_sandbox(TEST, || {
        let settings = Settings { overlay: "auto", shape: "island" };
        let rig = Rig::start("beside-docker", Topology::one_link(3), settings);
        super::super::generated::to_services_by(&rig, NODE);
        let offers = offers();
        tell(&rig, &offers);
        wait("the services are in force", || {
            rig.agents.values().all(is_in_force) && objections(&rig, &offers, By::Weft).is_empty()
        });
        let groups = Groups::make(NODE).expect("there are control groups");
        let mut course = Course { docker: Docker::start(&rig, &programs, &groups), rig, offers };
        course.all_is_right("Docker came second");
        course.drop_what_is_forwarded();
        course.all_is_right("Docker came second, and drops");
        course.docker_again(&programs, &groups);
        course.all_is_right("Docker was started again");
        course.weft_second(&programs, &groups);
        assert!(course.drops(), "Docker drops what is forwarded where it has turned forwarding on");
        course.all_is_right("Weft came second");
        let Course { rig, docker, .. } = course;
        docker.stop();
        groups.remove().expect("no container is left");
        rig.stop();
    });
}

/// Where Docker is, unpacked.
struct Programs(PathBuf);

impl Programs {
    fn find() -> Option<Self> {
        let top = super::peers().join("docker");
        top.join("usr/sbin/dockerd").exists().then_some(Self(top))
    }

    /// A command that finds its libraries and the programs that it calls.
    fn command(&self, program: &str) -> Command {
        let Self(top) = self;
        let mut command = Command::new(top.join(program));
        let found = |folders: &[&str]| {
            folders.iter().map(|f| top.join(f).display().to_string()).collect::<Vec<_>>().join(":")
        };
        let path = std::env::var("PATH").unwrap_or_default();
        command.env("PATH", format!("{}:{path}", found(&["usr/sbin", "usr/bin"])));
        command.env("LD_LIBRARY_PATH", found(&["lib/x86_64-linux-gnu", "usr/lib/x86_64-linux-gnu"]));
        command
    }

    /// Runs Docker's client on a node.
    fn docker(&self, node: &Machine, arguments: &[&str]) -> Result<String, String> {
        let mut command = self.command("usr/bin/docker");
        command.args(["-H", SOCKET]).args(arguments);
        let finished = node.output(command, Net::Machine, b"").expect("it runs");
        finished.success_or(|output| output).map(|text| text.trim().to_owned())
    }
}

/// A running daemon with its container, in whose network a server of ours stands.
struct Docker {
    daemon: Process,
    container: Place,
    _server: Process,
}

impl Docker {
    fn start(rig: &Rig, programs: &Programs, groups: &Groups) -> Self {
        let node = rig.lab.machine(NODE).expect("it runs");
        let path = rig.lab.directory().join("dockerd.log");
        let log = File::options().create(true).append(true).open(&path).expect("the log can be made");
        let mut command = programs.command("usr/sbin/dockerd");
        command
            .args([
                "-H",
                SOCKET,
                "--storage-driver",
                "vfs",
                "--cgroup-parent",
                &format!("/{}", groups.name()),
            ])
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("it can be shared"))
            .stderr(log);
        let daemon = node.spawn(command, Net::Machine).expect("dockerd starts");
        wait("Docker answers", || {
            let said = || std::fs::read_to_string(&path).unwrap_or_default();
            assert!(daemon.is_running(), "dockerd ended:\n{}", said());
            programs.docker(&node, &["version"]).is_ok()
        });
        let docker = |arguments: &[&str]| {
            programs.docker(&node, arguments).unwrap_or_else(|e| panic!("docker {arguments:?}: {e}"))
        };
        if docker(&["ps", "--all", "--quiet"]).is_empty() {
            image(programs, &node);
            let ports = PUBLISHED.map(|(transport, port)| match transport {
                Transport::Http => format!("{port}:{}", serve::HTTP),
                Transport::Udp => format!("{port}:{}/udp", serve::UDP),
            });
            docker(&[
                "run",
                "--detach",
                "--restart",
                "always",
                "--name",
                CONTAINER,
                "--publish",
                &ports[0],
                "--publish",
                &ports[1],
                "box",
                "/busybox",
                "sleep",
                "100000",
            ]);
        }
        let inspect = |what: &str| docker(&["inspect", "--format", what, CONTAINER]);
        wait("the container runs", || inspect("{{.State.Running}}") == "true");
        // /var/run is a link, which not everybody sees.
        let netns = inspect("{{.NetworkSettings.SandboxKey}}").replacen("/var/run/", "/run/", 1);
        let address = inspect("{{.NetworkSettings.IPAddress}}").parse().expect("it has an address");
        let server = rig.lab.tool().command(&["serve", NAME]);
        let server = spawn_server(&node, server, Net::At(Path::new(&netns))).expect("the server starts");
        let container = Place {
            name: NAME.into(),
            machine: Arc::clone(&node),
            netns: Some(netns.into()),
            addresses: vec![address],
            standing: Standing::Outside,
        };
        Self { daemon, container, _server: server }
    }

    fn stop(self) {
        assert!(self.daemon.terminate(FAREWELL), "dockerd doesn't end");
    }
}

/// An image of one program.
fn image(programs: &Programs, node: &Machine) {
    let folder = programs.0.join("bin");
    let folder = folder.to_str().expect("it is text");
    node.run("tar", &["-C", folder, "-cf", "/run/box.tar", "busybox"]).expect("tar runs");
    programs.docker(node, &["import", "/run/box.tar", "box"]).expect("it is an image");
}

/// A run.
struct Course {
    rig: Rig,
    offers: Vec<Offer>,
    docker: Docker,
}

impl Course {
    fn docker_again(&mut self, programs: &Programs, groups: &Groups) {
        assert!(self.docker.daemon.terminate(FAREWELL), "dockerd doesn't end");
        self.docker = Docker::start(&self.rig, programs, groups);
    }

    /// What Docker does where forwarding was off before it came.
    fn drop_what_is_forwarded(&self) {
        let node = self.rig.lab.machine(NODE).expect("it runs");
        node.run("iptables", &["-P", "FORWARD", "DROP"]).expect("iptables runs");
    }

    fn drops(&self) -> bool {
        let node = self.rig.lab.machine(NODE).expect("it runs");
        let rules = node.run("iptables", &["-S", "FORWARD"]).expect("iptables runs");
        rules.contains("-P FORWARD DROP")
    }

    /// The agent ends, all rules of everybody go, Docker starts, and then the agent.
    fn weft_second(&mut self, programs: &Programs, groups: &Groups) {
        let node = self.rig.lab.machine(NODE).expect("it runs");
        assert!(self.rig.agents[NODE].stop(), "the agent doesn't end");
        assert!(self.docker.daemon.terminate(FAREWELL), "dockerd doesn't end");
        node.run("nft", &["flush", "ruleset"]).expect("nft runs");
        node.sysctl(&[("net/ipv4/ip_forward", "0")]).expect("it can be set");
        self.docker = Docker::start(&self.rig, programs, groups);
        self.rig.start_agent(&node);
        self.rig.wait_ready(NODE);
        forget_datagrams(&self.rig);
    }

    #[track_caller]
    fn all_is_right(&self, when: &str) {
        let node = self.rig.lab.machine(NODE).expect("it runs");
        // Openings are looked at by the clock.
        wait("the firewall is open for pods", || {
            let rules = node.run("iptables", &["-S", "FORWARD"]).expect("iptables runs");
            let openings =
                rules.lines().filter(|line| line.contains("weft") && line.contains("ACCEPT")).count();
            (openings >= 2) == rules.contains("-P FORWARD DROP")
        });
        let mut wrong = self.published();
        wrong.extend(self.asked_by_the_container());
        wrong.extend(self.between_pods());
        wrong.extend(objections(&self.rig, &self.offers, By::Weft));
        println!("    {when}: {} wrong", wrong.len());
        let rules = node.run("iptables-save", &[]).unwrap_or_default();
        assert!(wrong.is_empty(), "{when}: {} are wrong:\n{}\n{rules}", wrong.len(), wrong.join("\n"));
        assert_eq!(self.rig.differences(), Vec::<String>::new(), "{when}");
    }

    /// Everybody finds the container at the node's ports.
    fn published(&self) -> Vec<String> {
        let ip = v4(&place(&self.rig, NODE));
        let ways = PUBLISHED.map(|(transport, port)| (transport, SocketAddr::new(ip, port)));
        let from = ["test/a1", "test/b1", NODE, "n2", CLIENT];
        from.iter().flat_map(|from| self.asked(&place(&self.rig, from), &ways, &[NAME])).collect()
    }

    /// It finds pods, services, nodes and the world, which sees the node.
    fn asked_by_the_container(&self) -> Vec<String> {
        let container = &self.docker.container;
        let direct = ["test/a1", "test/b1", "n2", INTERNET].into_iter().flat_map(|name| {
            let ip = v4(&place(&self.rig, name));
            let ways = [(Transport::Http, serve::HTTP), (Transport::Udp, serve::UDP)];
            self.asked(
                container,
                &ways.map(|(transport, port)| (transport, SocketAddr::new(ip, port))),
                &[name],
            )
        });
        let plain = &self.offers[0];
        let ways: Vec<_> = plain.ways(&self.rig).into_iter().filter(|(_, to)| to.is_ipv4()).collect();
        direct.chain(self.asked(container, &ways, &plain.endpoints)).collect()
    }

    fn between_pods(&self) -> Vec<String> {
        let pods: BTreeSet<&str> = self.rig.pods.keys().map(String::as_str).collect();
        let pairs = pods.iter().flat_map(|from| pods.iter().map(move |to| (*from, *to)));
        pairs
            .flat_map(|(from, to)| {
                let to_it = [(Transport::Http, SocketAddr::new(v4(&place(&self.rig, to)), serve::HTTP))];
                self.asked(&place(&self.rig, from), &to_it, &[to])
            })
            .collect()
    }

    /// What is wrong where somebody asks in these ways, and one of these must answer, who sees the asker or a node of the way.
    fn asked(&self, from: &Place, ways: &[(Transport, SocketAddr)], names: &[&str]) -> Vec<String> {
        let targets: Vec<Target> = ways.iter().map(|(transport, to)| Target::new(*transport, *to)).collect();
        let outcomes = from.probe(self.rig.lab.tool(), &targets).expect("it can ask");
        let own: BTreeSet<IpAddr> = [
            from.addresses.clone(),
            place(&self.rig, from.machine.name()).addresses,
            place(&self.rig, NODE).addresses,
        ]
        .concat()
        .into_iter()
        .chain(["172.17.0.1".parse().expect("an address")])
        .collect();
        let wrong = |(target, outcome): (&Target, &weft_lab::probe::Outcome)| {
            let right = outcome.greeting().is_some_and(|greeting| {
                names.contains(&greeting.name.as_str()) && own.contains(&greeting.client.ip())
            });
            (!right).then(|| format!("{} to {} {}: {outcome:?}", from.name, target.transport, target.address))
        };
        targets.iter().zip(&outcomes).filter_map(wrong).collect()
    }
}

fn v4(place: &Place) -> IpAddr {
    *place.addresses.iter().find(|ip| ip.is_ipv4()).expect("it has both families")
}
