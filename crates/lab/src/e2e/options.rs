//! The command line of `cargo xtask e2e`.

use std::path::PathBuf;

use anyhow::{Context, Result, bail};

/// Help text of the command.
pub const USAGE: &str = "\
Usage: cargo xtask e2e [OPTION...]

A real Kubernetes on this machine, in namespaces of its own, with Weft as its network. Needs root, and Go where the
parts have to be built.

  --quick       leave out what takes long: a few of the conformance specs, a short storm, a short outage
  --keep        leave the cluster up until Enter is pressed, and print the commands to look around
  --focus RE    run only conformance specs whose name matches
  --nodes N     number of nodes (2)
  --only STEP   run this step only, and what it needs; may be repeated
  --report FILE write the table of specs there (docs/conformance.md where all were run, nowhere otherwise)

WEFT_KUBERNETES_BIN names a folder with the programs of Kubernetes, etcd, containerd and runc, whose sibling `img` has
the images; otherwise they are built once, into target/peers.
";

/// How much is run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Length {
    Quick,
    Full,
}

/// What happens after the last step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    TakeDown,
    Keep,
}

/// See [`USAGE`]; xtask adds what it has built.
#[derive(Debug, Clone)]
pub struct Options {
    pub programs: PathBuf,
    pub images: PathBuf,
    pub image: PathBuf,
    /// An image of another version; without one, an upgrade is to the same programs by another name.
    pub next: Option<PathBuf>,
    pub manifest: PathBuf,
    pub logs: PathBuf,
    pub report: Option<PathBuf>,
    pub length: Length,
    pub ending: Ending,
    pub focus: Option<String>,
    pub only: Vec<String>,
    pub nodes: u8,
}

impl Options {
    pub fn parse(arguments: &[&str]) -> Result<Self> {
        let mut options = Self {
            programs: PathBuf::new(),
            images: PathBuf::new(),
            image: PathBuf::new(),
            next: None,
            manifest: "deploy/kubernetes.yaml".into(),
            logs: "target/e2e".into(),
            report: None,
            length: Length::Full,
            ending: Ending::TakeDown,
            focus: None,
            only: Vec::new(),
            nodes: 2,
        };
        let mut rest = arguments.iter();
        while let Some(argument) = rest.next() {
            let mut value = || rest.next().with_context(|| format!("{argument} needs a value\n\n{USAGE}"));
            match *argument {
                "--quick" => options.length = Length::Quick,
                "--keep" => options.ending = Ending::Keep,
                "--focus" => options.focus = Some((*value()?).to_owned()),
                "--only" => options.only.push((*value()?).to_owned()),
                "--nodes" => options.nodes = nodes(value()?)?,
                "--report" => options.report = Some(value()?.into()),
                "--programs" => options.programs = value()?.into(),
                "--images" => options.images = value()?.into(),
                "--image" => options.image = value()?.into(),
                "--next" => options.next = Some(value()?.into()),
                "--manifest" => options.manifest = value()?.into(),
                "--logs" => options.logs = value()?.into(),
                other => bail!("I don't know the option {other}.\n\n{USAGE}"),
            }
        }
        Ok(options)
    }
}

fn nodes(text: &str) -> Result<u8> {
    match text.parse() {
        Ok(number @ 2..=9) => Ok(number),
        _ => bail!("{text}: two to nine nodes"),
    }
}
