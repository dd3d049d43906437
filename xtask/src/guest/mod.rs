//! `cargo xtask test --guest`: the tests that ask a kernel something, on another kernel than this machine's. Debian's own boots
//! in a machine that QEMU emulates, from a file system in memory with this machine's programs and the tests that were built here.
//!
//! What always holds: nothing is installed in a guest or left of it; it has no network, no disk and no clock but its own, which
//! goes by the instructions that it has executed: waits cost nothing, and a slow host makes no deadline pass.
//! What it does not do: pure tests, benchmarks, and whatever needs a second processor.

mod archive;
mod console;
mod kernel;
mod suites;
mod userland;

use std::fs::File;
use std::io::{BufRead, BufReader, BufWriter};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use self::archive::Archive;
use self::console::{Console, Heard};
use self::kernel::Kernel;
use self::suites::{Built, SUITES, Suite};
use crate::test::Tally;
use crate::{packages, shell};

const EMULATOR: &str = "qemu-system-x86_64";
/// Of silence, and then the guest is taken for dead. The reachability matrix says nothing before its end.
const PATIENCE: Duration = Duration::from_secs(1800);
const INIT: &str = include_str!("init.sh");

const USAGE: &str = "\
Usage: cargo xtask test --guest [--only PART [TEST]]

  --only PART   only the test programs whose names have this part, such as dataplane/tables;
                of them only the tests whose names have the part TEST";

/// Builds, boots and counts.
///
/// # Errors
/// Where something can't be built or fetched, and where a test fails.
pub fn run(options: &[&str]) -> Result<()> {
    let (part, test) = match options {
        [] => ("", None),
        ["--only", part] => (*part, None),
        ["--only", part, test] => (*part, Some(*test)),
        _ => bail!("I don't know these options.\n\n{USAGE}"),
    };
    let chosen: Vec<Suite> = SUITES.into_iter().filter(|suite| suite.name().contains(part)).collect();
    if chosen.is_empty() {
        bail!("no test program has {part:?} in its name");
    }
    packages::provide_for_guest();
    if Command::new(EMULATOR).arg("--version").stdout(Stdio::null()).status().is_err() {
        println!("SKIPPED: the tests on Debian's kernel: there is no {EMULATOR}; install qemu-system-x86");
        println!("0 passed, 0 failed, 1 skipped");
        return Ok(());
    }
    let kernel = kernel::provide()?;
    let built = suites::build(&chosen)?;
    let words = |suite: &Suite| test.unwrap_or(suite.words).to_owned();
    let folder = shell::target().join("guest");
    std::fs::create_dir_all(&folder).with_context(|| format!("can't make {}", folder.display()))?;
    let files = folder.join(format!("files-{}", std::process::id()));
    let result = pack(&files, &kernel, &built, &words).and_then(|()| watch(&files, &kernel, &built, test));
    // Hundreds of megabytes that the next run makes anew.
    let _ = std::fs::remove_file(&files);
    result
}

/// Writes the guest's file system.
fn pack(files: &Path, kernel: &Kernel, built: &Built, words: &dyn Fn(&Suite) -> String) -> Result<()> {
    let file = File::create(files).with_context(|| format!("can't make {}", files.display()))?;
    let mut archive = Archive::new(BufWriter::new(file));
    userland::pack(&mut archive)?;
    userland::pack_modules(&mut archive, &kernel.modules, &kernel.version)?;
    let scratch = files.with_extension("stripped");
    let mut lines = String::new();
    for (suite, program) in &built.suites {
        userland::pack_stripped(&mut archive, program, &scratch)?;
        let (name, program) = (suite.name(), program.display());
        lines += &format!("{name} {} {} {program} {}\n", shell::root().display(), suite.cases, words(suite));
    }
    for program in &built.programs {
        userland::pack_stripped(&mut archive, program, &scratch)?;
    }
    archive.folder(&shell::root())?;
    archive.file(Path::new("/init"), 0o755, INIT.as_bytes())?;
    archive.file(Path::new("/suites"), 0o644, lines.as_bytes())?;
    archive.finish()?;
    Ok(())
}

/// The emulated machine; it ends with the value.
struct Machine(Child);

impl Drop for Machine {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Machine {
    /// Boots it. Its console comes line by line.
    fn boot(files: &Path, kernel: &Kernel) -> Result<(Self, Receiver<String>)> {
        let mut command = Command::new(EMULATOR);
        command
            // Each instruction takes a nanosecond of the guest's time, and what it sleeps passes at once.
            .args(["-accel", "tcg,thread=single", "-icount", "shift=0,sleep=off", "-rtc", "clock=vm"])
            .args(["-cpu", "max", "-smp", "1", "-m", "2048"])
            .args(["-nodefaults", "-no-user-config", "-display", "none", "-serial", "stdio", "-no-reboot"])
            .args(["-append", "console=ttyS0 quiet loglevel=3 panic=-1"]);
        command.arg("-kernel").arg(&kernel.image).arg("-initrd").arg(files);
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .with_context(|| format!("can't run {EMULATOR}"))?;
        let stdout = child.stdout.take();
        let machine = Self(child);
        let mut console = BufReader::new(stdout.context("the emulator has no output")?);
        let (said, lines) = channel();
        std::thread::spawn(move || {
            let mut line = Vec::new();
            while console.read_until(b'\n', &mut line).is_ok_and(|length| length > 0) {
                if said.send(String::from_utf8_lossy(&line).into_owned()).is_err() {
                    break;
                }
                line.clear();
            }
        });
        Ok((machine, lines))
    }
}

/// Boots the guest and tells what it says, until it has ended. `test` is the part of names that was asked for.
fn watch(files: &Path, kernel: &Kernel, built: &Built, test: Option<&str>) -> Result<()> {
    eprintln!("booting Linux {}…", kernel.version);
    let mut console = Console::new(built.suites.iter().map(|(suite, _)| suite.name()));
    let (machine, lines) = Machine::boot(files, kernel)?;
    let start = Instant::now();
    let mut begun = start;
    let mut idle = Vec::new();
    let mut ended = false;
    let seconds = |since: Instant| since.elapsed().as_secs();
    while !ended {
        let line = match lines.recv_timeout(PATIENCE) {
            Ok(line) => line,
            Err(RecvTimeoutError::Disconnected) => break,
            Err(RecvTimeoutError::Timeout) => {
                println!("nothing was heard for {} s", PATIENCE.as_secs());
                break;
            }
        };
        match console.hear(&line) {
            Heard::Booted(version) => println!("Linux {version} is up after {} s", seconds(start)),
            Heard::Begun(_) => begun = Instant::now(),
            Heard::Ended { name, tally } => {
                println!("{name:<24} {tally} ({} s)", seconds(begun));
                idle.extend((tally == Tally::default()).then_some(name));
            }
            Heard::Text(text) => println!("  {text}"),
            Heard::Done => ended = true,
            Heard::Nothing => {}
        }
    }
    drop(machine);
    let (tally, missing) = console.finish();
    println!("{tally}, on Linux {} in {} s", kernel.version, seconds(start));
    if !missing.is_empty() {
        bail!("the guest ended before {}", missing.join(", "));
    }
    if tally.failed > 0 {
        bail!("there are failures on Linux {}", kernel.version);
    }
    match test {
        None if !idle.is_empty() => bail!("no test has run of {}: their words choose none", idle.join(", ")),
        Some(part) if tally == Tally::default() => bail!("no test has {part:?} in its name"),
        _ => Ok(()),
    }
}
