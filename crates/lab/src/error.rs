//! What can go wrong while a lab is built, used or taken down.

use std::io;
use std::path::PathBuf;

/// A failed action of the lab; the text says what failed, on what, and what to do.
#[derive(Debug, thiserror::Error)]
pub enum LabError {
    /// Neither root nor a user namespace can be had.
    #[error(
        "no private namespaces ({0}): run as root, or allow user namespaces with `sysctl -w \
         kernel.unprivileged_userns_clone=1 kernel.apparmor_restrict_unprivileged_userns=0` (where the system \
         has these settings) and a `user.max_user_namespaces` above 0"
    )]
    Namespaces(io::Error),
    /// A program that the lab calls is not installed.
    #[error("`{program}` is missing: install it with `apt-get install {package}`")]
    Missing {
        /// The program.
        program: &'static str,
        /// Debian's package for it.
        package: &'static str,
    },
    /// A machine's namespaces couldn't be made.
    #[error("can't start machine {machine}: {why}")]
    Start {
        /// The machine.
        machine: String,
        /// What its init process said.
        why: String,
    },
    /// A machine isn't running.
    #[error("machine {0} is not running: start it with `Lab::start_machine`")]
    Down(String),
    /// No machine or pod has this name.
    #[error("no machine or pod is called {name}; there are: {known}")]
    Unknown {
        /// The name that was asked for.
        name: String,
        /// The names that exist.
        known: String,
    },
    /// Another lab has this name, and its process is alive.
    #[error("a lab called {name} is running (process {pid}): end that process, or choose another name")]
    Busy {
        /// The lab.
        name: String,
        /// Its process.
        pid: i32,
    },
    /// Entering a machine's namespaces failed.
    #[error("can't enter machine {machine}: {source}")]
    Enter {
        /// The machine.
        machine: String,
        /// The kernel's answer.
        source: io::Error,
    },
    /// A program in a machine failed.
    #[error("{command} failed on {machine}: {output}")]
    Command {
        /// The machine.
        machine: String,
        /// The program and its arguments.
        command: String,
        /// Its exit status and what it wrote to standard error.
        output: String,
    },
    /// A file of the lab couldn't be read or written.
    #[error("can't {action} {}: {source}", path.display())]
    File {
        /// What was tried, as a verb.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// The kernel's answer.
        source: io::Error,
    },
    /// A tool process answered something that can't be read.
    #[error("the lab's {tool} process gave no readable answer: {why}")]
    Tool {
        /// The tool's subcommand.
        tool: &'static str,
        /// What was wrong.
        why: String,
    },
    /// Something that was waited for didn't come.
    #[error("{what}: not within {} s; at last: {last}", patience.as_secs())]
    Late {
        /// What was waited for.
        what: String,
        /// For how long.
        patience: std::time::Duration,
        /// What was there instead.
        last: String,
    },
    /// Something of the lab outlived it.
    #[error("the lab left something behind: {0}")]
    Leftovers(String),
}

impl LabError {
    /// A [`LabError::File`] for use with `map_err`.
    pub fn file(action: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::File { action, path, source }
    }
}
