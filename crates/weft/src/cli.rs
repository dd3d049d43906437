//! The command line: every subcommand and option with its help text.
//!
//! Help texts say what the exit statuses mean; tests hold them.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use clap::error::ErrorKind;
use clap::{Arg, ArgGroup, Args, CommandFactory, FromArgMatches, Parser, Subcommand, value_parser};
use weft_model::NodeName;

use crate::output::Format;

/// Where a node's configuration is looked for when none is named.
pub const DEFAULT_CONFIG: &str = "/etc/weft/agent.yaml";
/// Where the agent's socket is looked for when nothing says otherwise.
pub const DEFAULT_RUN_DIR: &str = "/run/weft";

/// The whole network of a Kubernetes cluster in one small program.
#[derive(Debug, Parser)]
#[command(name = "weft", version = weft_agent::VERSION, about, arg_required_else_help = true)]
#[command(after_help = "Exit status 64 means that the command line was not understood.")]
pub struct Cli {
    /// Folder with the agent's socket [default: /run/weft]
    #[arg(long, global = true, value_name = "DIR", display_order = 100)]
    pub run_dir: Option<PathBuf>,

    /// How to print what is asked for
    #[arg(short, long, global = true, value_enum, default_value_t, display_order = 101)]
    pub output: Format,

    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

impl Cli {
    /// What the command line says.
    ///
    /// # Errors
    /// With what to print, as clap has it.
    pub fn understand() -> Result<Self, clap::Error> {
        Self::of(std::env::args_os())
    }

    fn of(words: impl IntoIterator<Item = impl Into<OsString> + Clone>) -> Result<Self, clap::Error> {
        let cli = Self::from_arg_matches(&Self::command().try_get_matches_from(words)?)?;
        let name = match cli.command {
            Command::Agent(_) => "agent",
            Command::Lab(_) => "lab",
            _ => return Ok(cli),
        };
        match cli.output {
            Format::Text => Ok(cli),
            Format::Json => {
                let reason = format!("weft {name} has no --output\n");
                Err(Self::command().error(ErrorKind::ArgumentConflict, reason))
            }
        }
    }

    /// The folder with the agent's socket.
    pub fn run_dir_or_usual(&self) -> &Path {
        self.run_dir.as_deref().unwrap_or(Path::new(DEFAULT_RUN_DIR))
    }
}

/// The place of `--output` in a subcommand that prints nothing of its own: an argument of its own keeps the global one of that name
/// away from its help.
fn no_output() -> Arg {
    Arg::new("output").short('o').long("output").hide(true).value_parser(value_parser!(Format))
}

/// The subcommands.
#[derive(Debug, Subcommand)]
pub enum Command {
    Agent(AgentArgs),
    Status(StatusArgs),
    Plan(PlanArgs),
    Explain(ExplainArgs),
    Preflight(PreflightArgs),
    Install(InstallArgs),
    Uninstall(UninstallArgs),
    Forget(ForgetArgs),
    Migrate(MigrateArgs),
    Lab(LabArgs),
}

impl Command {
    /// Exit status where the command could not do its work at all: apart from its answers.
    pub fn trouble(&self) -> u8 {
        match self {
            Command::Plan(_) | Command::Explain(_) | Command::Preflight(_) | Command::Uninstall(_) => 2,
            Command::Migrate(_) => 2,
            Command::Forget(_) => 1,
            Command::Agent(_) | Command::Status(_) | Command::Install(_) | Command::Lab(_) => 1,
        }
    }
}

/// The configuration file.
#[derive(Debug, Args)]
pub struct ConfigArg {
    /// The node's configuration [default: /etc/weft/agent.yaml]
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
}

/// Runs the node's agent until SIGTERM or SIGINT
///
/// What it made in the kernel stays when it ends, and goes on working; `weft uninstall` takes it away. It logs to standard
/// error; WEFT_LOG chooses how much (error, warn, info, debug, trace, or a filter such as weft_store=debug).
///
/// Exit status: 0 after a signal, 1 where it can't run.
#[derive(Debug, Args)]
#[command(arg = no_output())]
pub struct AgentArgs {
    #[command(flatten)]
    pub config: ConfigArg,
    /// This node's name, whatever the configuration says
    #[arg(long, value_name = "NODE")]
    pub node: Option<NodeName>,
    /// Where an agent runs already, wait until it ends, and take over from it: nothing goes unanswered meanwhile
    #[arg(long)]
    pub take_over: bool,
}

/// Shows this node: readiness, peers and the ways to them, pods, the plan, warnings
///
/// Exit status: 0 where a pod could be attached now, 2 where not, 1 where the agent can't be asked. With --alive: 0 where the
/// agent works, ready or not, 2 where it should be started anew.
#[derive(Debug, Args)]
pub struct StatusArgs {
    /// Also list the addresses that are given out, and to whom
    #[arg(long)]
    pub leases: bool,
    /// Exit with 0 also where an agent waits to take over (`weft agent --take-over`), however the present one does
    #[arg(long)]
    pub or_waiting: bool,
    /// Ask only whether the agent works: its threads turn, or it waits to take over
    #[arg(long, conflicts_with_all = ["leases", "or_waiting"])]
    pub alive: bool,
}

/// Shows what this node's kernel and DNS server should hold
///
/// Exit status: 0; 1 with --diff where the kernel differs; 2 where the agent can't be asked.
#[derive(Debug, Args)]
#[command(group(ArgGroup::new("instead").args(["diff", "folder"])))]
pub struct PlanArgs {
    /// Add to each row the object that asked for it
    #[arg(long, conflicts_with = "instead")]
    pub origin: bool,
    /// Show instead where the kernel differs: `-` is there and shouldn't be, `+` is missing, `!` is damaged
    #[arg(long)]
    pub diff: bool,
    /// Show instead what would change if the store held the manifests of this folder
    #[arg(short, long, value_name = "DIR")]
    pub folder: Option<PathBuf>,
}

/// Follows a packet through the plans of the nodes that it meets, and its answer back
///
/// FROM is a pod (NAMESPACE/NAME, or NAME in the namespace default), a node, or an address. TO is the same, or a DNS name,
/// then :PORT, :PORT/udp, or nothing for an echo request. An IPv6 address with a port stands in brackets.
///
/// Each hop begins with what the kernel of its node says: = holds what decided as the plan has it, ! doesn't in the rows below,
/// ~ differs from its plan somewhere, ? was not asked.
///
/// Exit status: 0 where the packet arrives and its answer comes back, 1 where not, 2 where there is no answer. With
/// --matrix: 0 where all questions were put, 2 where not.
#[derive(Debug, Args)]
pub struct ExplainArgs {
    /// Where the packet comes from
    #[arg(required_unless_present = "matrix")]
    pub from: Option<String>,
    /// Where it goes to
    #[arg(required_unless_present = "matrix")]
    pub to: Option<String>,
    /// Use IPv4
    #[arg(short = '4', conflicts_with = "ipv6")]
    pub ipv4: bool,
    /// Use IPv6
    #[arg(short = '6')]
    pub ipv6: bool,
    /// Read a JSON list of {from, to, family, source} from FILE (- is standard input), print one of {query, verdict, works};
    /// family (IPv4 or IPv6) and source (the address that the sender puts in, its own or not) may be left out
    #[arg(long, value_name = "FILE", conflicts_with_all = ["from", "to", "ipv4", "ipv6"])]
    pub matrix: Option<PathBuf>,
    /// Ask also the kernel of NODE, by its agent's run folder DIR, where that can be reached from here (in a lab, or as
    /// /proc/PID/root/run/weft); may be given several times
    #[arg(long = "peer", value_name = "NODE=DIR", value_parser = PeerSocket::parse, conflicts_with = "matrix")]
    pub peers: Vec<PeerSocket>,
}

/// Where another node's agent can be asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerSocket {
    /// The node.
    pub node: NodeName,
    /// Its run folder, as it is seen from here.
    pub run_dir: PathBuf,
}

impl PeerSocket {
    fn parse(text: &str) -> Result<Self, String> {
        let (node, folder) = text.split_once('=').ok_or("write NODE=DIR, such as n2=/srv/n2/run/weft")?;
        let node = NodeName::new(node).map_err(|error| error.to_string())?;
        Ok(Self { node, run_dir: folder.into() })
    }
}

/// Checks whether Weft can run on this machine, and says what to type where something is missing
///
/// Nothing is changed: what the kernel can do is tried in a network namespace of its own.
///
/// Exit status: 0 where nothing needed is missing, 1 where something is, 2 where it can't be checked.
#[derive(Debug, Args)]
pub struct PreflightArgs {
    #[command(flatten)]
    pub config: ConfigArg,
}

/// Puts the CNI plugin where container runtimes look for it
///
/// The plugin replaces an older one in one step, so that a runtime that calls it meanwhile gets either. Nothing is written where it
/// is there already.
///
/// Exit status: 0 when it is there, 1 where it can't be put there.
#[derive(Debug, Args)]
pub struct InstallArgs {
    /// Where the runtime looks for plugins
    #[arg(value_name = "DIR", default_value = "/opt/cni/bin")]
    pub folder: PathBuf,
    /// The plugin [default: the file weft-cni beside this program]
    #[arg(long, value_name = "FILE")]
    pub plugin: Option<PathBuf>,
}

/// Removes all that Weft made on this machine, and puts back what it changed
///
/// Takes away links, routes, rules, the packet filter's table, openings in other firewalls, the runtimes' network
/// configuration, records and leases; restores sysctls. Nothing of anybody else is touched. The agent must have been
/// stopped. Doing it twice does no harm.
///
/// Exit status: 0; 1 where something is left, or --forget was refused; 2 where it could not be tried.
#[derive(Debug, Args)]
pub struct UninstallArgs {
    #[command(flatten)]
    pub config: ConfigArg,
    /// Only look: list what is left of Weft
    #[arg(long)]
    pub verify: bool,
    /// Remove the CNI plugin from this folder too, where `weft install` has put it
    #[arg(long, value_name = "DIR", conflicts_with = "verify")]
    pub plugin_from: Option<PathBuf>,
    /// Take what this node has published and claimed out of the store as well, unless another machine is that node
    #[arg(long, value_name = "NODE", conflicts_with = "verify")]
    pub forget: Option<NodeName>,
    /// When nothing is left, wait for a signal: a DaemonSet's pod is ready then, and stays so
    #[arg(long, conflicts_with = "verify")]
    pub stay: bool,
}

/// Moves this node in from flannel or the bridge plugin, with its pods running
///
/// Pods keep their addresses (host-local's leases) and connections. The runtimes' configuration of the other network is set aside
/// (renamed to NAME.before-weft); pods, flannel's tunnel and routes are taken over; the bridge goes when nobody is on it any more.
/// The agent must not run yet, and flanneld no longer. Doing it twice does no harm; what was broken off, another call finishes.
///
/// Exit status: 0 where this node has moved, or has nobody to move in from; 1 where something is left; 2 where it could not be
/// tried.
#[derive(Debug, Args)]
pub struct MigrateArgs {
    #[command(flatten)]
    pub config: ConfigArg,
    /// Only look: show what is there and what would be done
    #[arg(long)]
    pub dry_run: bool,
    /// Folder of libcni's state, with `networks` and `results`
    #[arg(long, value_name = "DIR", default_value = "/var/lib/cni")]
    pub cni_state: PathBuf,
}

/// Removes from the store what a node that is gone for good has published and claimed
///
/// Its blocks of addresses can then be given to others: make sure that no pod of it runs any more. A node that still runs
/// publishes itself again. A node that may only be cut off from the store goes on giving out addresses of its blocks for a while: it
/// is not forgotten before that time is over, but with --force. Nor is the node of this machine's name where another machine is it.
///
/// Exit status: 0 when nothing of it is left, 1 where something can't be removed, or not yet.
#[derive(Debug, Args)]
pub struct ForgetArgs {
    #[command(flatten)]
    pub config: ConfigArg,
    /// The node's name
    #[arg(value_name = "NODE")]
    pub node: NodeName,
    /// Also where it was heard of lately, its agent runs here, or another machine has this node's name: it is surely switched off
    #[arg(long)]
    pub force: bool,
}

/// Looks into a running lab: `weft lab list`, `weft lab exec NAME -- COMMAND`
///
/// Exit status: that of COMMAND; 2 where there is no such lab or NAME.
#[derive(Debug, Args)]
#[command(disable_help_flag = true, arg = no_output())]
pub struct LabArgs {
    /// See `weft lab --help`
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "ARGUMENT")]
    pub arguments: Vec<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Users and their scripts rely on these texts, the exit statuses among them: a change shows up in review.
    #[test]
    fn help() {
        let mut weft = Cli::command().term_width(100);
        weft.build();
        let mut text = weft.render_long_help().to_string();
        for command in weft.get_subcommands_mut().filter(|command| command.get_name() != "help") {
            let name = command.get_name().to_owned();
            text.push_str(&format!("\n# weft {name}\n\n{}", command.render_long_help()));
        }
        let lines: Vec<&str> = text.lines().map(str::trim_end).collect();
        insta::assert_snapshot!(lines.join("\n"));
    }

    #[test]
    fn arguments_of_the_lab_are_passed_on_as_they_are() {
        let check = |line: &[&str]| {
            let words = ["weft", "lab"].iter().chain(line);
            let Command::Lab(args) = Cli::of(words).unwrap().command else { panic!("{line:?}") };
            assert_eq!(args.arguments, line);
        };
        check(&[]);
        check(&["list"]);
        check(&["--help"]);
        check(&["exec", "--lab", "a", "web-0", "--", "sh", "-c", "ip -o link"]);
    }

    #[test]
    fn commands_that_print_nothing_of_their_own_have_no_output() {
        let check = |line: &[&str], expected: Result<Format, &str>| {
            let parsed = Cli::of(["weft"].iter().chain(line));
            let found = parsed.map(|cli| cli.output).map_err(|error| error.to_string());
            match (found, expected) {
                (Ok(found), Ok(expected)) => assert_eq!(found, expected),
                (Err(found), Err(expected)) => assert!(found.contains(expected), "{found}"),
                (found, _) => panic!("{line:?}: {found:?}"),
            }
        };
        for line in [&["status", "-o", "json"], &["-o", "json", "status"]] {
            check(line, Ok(Format::Json));
        }
        for line in [["agent", "-o", "json"], ["-o", "json", "agent"], ["--output", "json", "agent"]] {
            check(&line, Err("weft agent has no --output"));
        }
        check(&["-o", "json", "lab", "list"], Err("weft lab has no --output"));
        check(&["lab", "list"], Ok(Format::Text));
        check(&["agent"], Ok(Format::Text));
    }
}
