//! The project's own commands: `cargo xtask COMMAND`.
//!
//! What always holds: every command can be run from any folder of the checkout, says what it does, and its exit
//! status is 0 only where everything went well.

mod bench;
mod demo;
mod docker;
mod e2e;
mod guest;
mod image;
mod kubernetes;
mod oci;
mod packages;
mod plugin;
mod shell;
mod test;
mod tidy;

use std::process::ExitCode;

const USAGE: &str = "\
Usage: cargo xtask COMMAND

  demo [OPTION...]   build Weft and show a cluster of three nodes on this machine (--help for its options)
  bench NAME         measure beside peers: cni, dataplane, scale or services (--help for options)
  image [OPTION...]  a container image from scratch, as an OCI archive (--help for its options)
  e2e [OPTION...]    a real Kubernetes on this machine with Weft as its network (--help for its options)
  kubernetes         build Kubernetes and what it runs on, once: what e2e needs, and test uses where it is there
  test --guest       the tests in network namespaces on Debian's own kernel, in an emulated machine
  test [--churn]     tidy's checks, every test, and the tests in network namespaces; with --churn, 100,000
                     changes of endpoints under traffic instead of 5,000 (some minutes more)
  tidy               layout, licences, crate directions, text rules, rustfmt and clippy
  ci                 rustfmt and clippy, then test
";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let result = match words.as_slice() {
        ["demo", options @ ..] => demo::run(options),
        ["bench", options @ ..] => bench::run(options),
        ["image", options @ ..] => image::run(options),
        ["e2e", options @ ..] => e2e::run(options),
        ["kubernetes"] => kubernetes::provide(),
        ["test", "--guest", options @ ..] => guest::run(options),
        ["test"] => test::run(test::Churn::Short),
        ["test", "--churn"] => test::run(test::Churn::Week),
        ["tidy"] => tidy::run(),
        ["ci"] => tidy::format_and_lints().and_then(|()| test::run(test::Churn::Short)),
        ["help" | "--help" | "-h"] => {
            print!("{USAGE}");
            Ok(())
        }
        _ => Err(anyhow::anyhow!("I don't know this command.\n\n{USAGE}")),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("xtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}
