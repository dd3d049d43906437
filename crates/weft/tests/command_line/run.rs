//! Running the binary, and an agent's socket with answers made up by a test.

use std::path::Path;
use std::process::{Command, Output};
use std::sync::Arc;

use weft_agent::api::{ApiRequest, ApiResponse, ApiServer, Limits, RunDir};

/// What a run came to.
#[derive(Debug)]
pub struct Done {
    pub status: i32,
    pub out: String,
    pub err: String,
}

impl Done {
    /// Asserts an exit status and words on standard output.
    #[track_caller]
    pub fn says(&self, status: i32, words: &[&str]) -> &Self {
        assert_eq!(self.status, status, "{self:?}");
        words.iter().for_each(|word| assert!(self.out.contains(word), "{word:?} is not in {self:?}"));
        self
    }

    /// Asserts an exit status, silence on standard output, and one line on standard error with these words.
    #[track_caller]
    pub fn complains(&self, status: i32, words: &[&str]) {
        assert_eq!((self.status, self.out.as_str()), (status, ""), "{self:?}");
        assert_eq!(self.err.lines().count(), 1, "{self:?}");
        assert!(self.err.starts_with("weft: ") && !self.err.contains("Error {"), "{self:?}");
        words.iter().for_each(|word| assert!(self.err.contains(word), "{word:?} is not in {self:?}"));
    }
}

/// The binary with these arguments.
pub fn command(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_weft"));
    command.args(arguments).env("RUST_BACKTRACE", "1").env_remove("WEFT_LOG");
    command
}

impl From<Output> for Done {
    fn from(output: Output) -> Self {
        Self {
            status: output.status.code().unwrap_or(-1),
            out: String::from_utf8(output.stdout).unwrap(),
            err: String::from_utf8(output.stderr).unwrap(),
        }
    }
}

/// Runs it to its end.
pub fn weft(arguments: &[&str]) -> Done {
    command(arguments).output().unwrap().into()
}

/// Runs it on the agent of this run folder.
pub fn ask(run_dir: &Path, arguments: &[&str]) -> Done {
    command(arguments).arg("--run-dir").arg(run_dir).output().unwrap().into()
}

/// An agent's socket that answers as a test says.
pub struct FakeAgent {
    pub folder: tempfile::TempDir,
    _server: ApiServer,
    _run_dir: RunDir,
}

impl FakeAgent {
    pub fn new(answer: impl Fn(ApiRequest) -> ApiResponse + Send + Sync + 'static) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let run_dir = RunDir::claim(folder.path()).unwrap();
        let server = ApiServer::start(&run_dir, Limits::default(), Arc::new(answer)).unwrap();
        Self { folder, _server: server, _run_dir: run_dir }
    }

    pub fn ask(&self, arguments: &[&str]) -> Done {
        ask(self.folder.path(), arguments)
    }
}
