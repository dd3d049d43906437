//! `weft-cni`, installed as `/opt/cni/bin/weft`: the plugin that container runtimes call.
//!
//! Standard output carries one line of JSON or nothing, even after a panic. All else is in [`weft_cni::plugin`]. A person may ask for
//! `--version`; runtimes pass no arguments.

use std::io::{IsTerminal, Read, Write};
use std::process::ExitCode;

use weft_cni::plugin::{self, Output};

fn main() -> ExitCode {
    std::panic::set_hook(Box::new(|panic| {
        let output = Output::defect(&panic.to_string());
        print(&output);
        std::process::exit(i32::from(output.exit));
    }));
    if std::env::args_os().nth(1).is_some_and(|word| word == "--version" || word == "-V") {
        println!("weft-cni {}", weft_cni::VERSION);
        return ExitCode::SUCCESS;
    }
    let env = |key: &str| std::env::var_os(key).map(|value| value.to_string_lossy().into_owned());
    let stdin = std::io::stdin();
    // A person who tries VERSION by hand has nothing to type.
    let limit = if stdin.is_terminal() { 0 } else { u64::MAX };
    let output = plugin::run(env, stdin.lock().take(limit));
    print(&output);
    ExitCode::from(output.exit)
}

fn print(output: &Output) {
    if !output.stdout.is_empty() {
        // A runtime that has closed the pipe is not there to be told.
        let _ = std::io::stdout().write_all(format!("{}\n", output.stdout).as_bytes());
    }
}
