//! The images that a cluster's pods run, made from programs and Debian packages of this machine: nothing is pulled.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};

use super::Parts;
use crate::image::needs_a_loader;
use crate::oci::{Compression, Entry, Image, Layer};
use crate::shell;

const PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// What agnhost's image has beside agnhost, in Debian's words.
const PACKAGES: &str = "bind9-dnsutils,curl,wget,netcat-openbsd,iproute2,iperf,iputils-ping,bash";
const SUITE: &str = "bookworm";
const BUSYBOX: &str = "/bin/busybox";

/// Makes an archive.
type Maker = fn(&Parts, &Path) -> Result<()>;

/// Makes what is missing.
pub fn provide(parts: &Parts) -> Result<()> {
    let makers: [(&str, Maker); 3] =
        [("agnhost.tar", agnhost), ("busybox.tar", busybox), ("pause.tar", pause)];
    for (name, make) in makers {
        let archive = parts.images.join(name);
        if !archive.exists() {
            eprintln!("making the image {name} (once)…");
            make(parts, &archive)?;
        }
    }
    Ok(())
}

/// The tests' own program of many uses, in a small Debian with the tools that tests call.
fn agnhost(parts: &Parts, archive: &Path) -> Result<()> {
    let root = parts.images.join("agnhost-root");
    if root.exists() {
        fs::remove_dir_all(&root).with_context(|| format!("can't remove {}", root.display()))?;
    }
    shell::must(
        Command::new("debootstrap")
            .arg("--variant=minbase")
            .arg(format!("--include={PACKAGES}"))
            .arg(SUITE)
            .arg(&root)
            .args(mirror()),
    )
    .context("agnhost's image needs Debian's debootstrap, and a mirror")?;
    for folder in ["var/cache/apt", "var/lib/apt/lists", "usr/share/doc", "usr/share/locale"] {
        // What isn't there needn't go.
        let _ = fs::remove_dir_all(root.join(folder));
    }
    let (key, certificate) = (root.join("localhost.key"), root.join("localhost.crt"));
    shell::must(
        Command::new("openssl")
            .args([
                "req",
                "-x509",
                "-newkey",
                "rsa:2048",
                "-nodes",
                "-days",
                "3650",
                "-subj",
                "/CN=localhost",
            ])
            .args(["-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1", "-keyout"])
            .arg(key)
            .arg("-out")
            .arg(certificate)
            .stderr(std::process::Stdio::null()),
    )?;
    let program = fs::read(parts.programs.join("agnhost")).context("can't read agnhost")?;
    let entries = [
        ("", Entry::Tree(root.clone())),
        ("agnhost", Entry::Program(program)),
        ("agnhost-2", Entry::Link("agnhost".into())),
        ("uploads", Entry::Folder),
    ];
    let tests = "registry.k8s.io/e2e-test-images";
    let names =
        ["agnhost:2.63.0", "agnhost:2.55", "glibc-dns-testing:2.0.0"].map(|name| format!("{tests}/{name}"));
    write(archive, &names, &["/agnhost"], &["pause"], &entries)?;
    fs::remove_dir_all(&root).with_context(|| format!("can't remove {}", root.display()))
}

/// Where this machine gets packages of the suite from. Where it is no such Debian, debootstrap has its own idea.
fn mirror() -> Option<String> {
    let mut apt = Command::new("apt-get");
    let answer =
        apt.args(["indextargets", "--format", "$(CODENAME) $(REPO_URI)", "Created-By: Packages"]).output();
    mirror_of(SUITE, &String::from_utf8_lossy(&answer.ok()?.stdout))
}

/// The first of a suite's in lines of `SUITE MIRROR`.
fn mirror_of(suite: &str, lines: &str) -> Option<String> {
    let mut entries = lines.lines().filter_map(|line| line.split_once(' '));
    entries.find(|(name, _)| *name == suite).map(|(_, mirror)| mirror.trim().to_owned())
}

/// The one program of images without libraries.
fn static_busybox() -> Result<Vec<u8>> {
    let program = fs::read(BUSYBOX).context("install Debian's busybox-static")?;
    ensure!(
        !needs_a_loader(&program),
        "{BUSYBOX} wants shared libraries: install Debian's busybox-static instead"
    );
    Ok(program)
}

fn busybox(_: &Parts, archive: &Path) -> Result<()> {
    let program = static_busybox()?;
    let applets = shell::output(Command::new(BUSYBOX).arg("--list"))?;
    let applets = String::from_utf8_lossy(&applets).into_owned();
    let links: Vec<String> =
        applets.lines().filter(|name| *name != "busybox").map(|name| format!("bin/{name}")).collect();
    let mut entries =
        vec![("bin", Entry::Folder), ("bin/busybox", Entry::Program(program)), ("tmp", Entry::Folder)];
    entries.extend(links.iter().map(|link| (link.as_str(), Entry::Link("busybox".into()))));
    let names = ["registry.k8s.io/e2e-test-images/busybox:1.37.0-1", "docker.io/library/busybox:latest"];
    write(archive, &names.map(str::to_owned), &[], &["sh"], &entries)
}

/// The process that holds a pod's namespaces: busybox, asleep, and woken by the signals that should end it.
fn pause(_: &Parts, archive: &Path) -> Result<()> {
    let program = static_busybox()?;
    let script = b"#!/sh\ntrap 'exit 0' INT TERM\nwhile :; do sleep 2147483647 & wait $!; done\n".to_vec();
    let entries = [
        ("sh", Entry::Program(program)),
        ("sleep", Entry::Link("sh".into())),
        ("pause", Entry::Program(script)),
    ];
    let names = ["3.10.2", "3.10.1", "3.10"].map(|tag| format!("registry.k8s.io/pause:{tag}"));
    write(archive, &names, &["/pause"], &[], &entries)
}

fn write(
    archive: &Path,
    names: &[String],
    entrypoint: &[&str],
    arguments: &[&str],
    entries: &[(&str, Entry)],
) -> Result<()> {
    let folder = archive.parent().context("an archive lies in a folder")?;
    let layer = Layer::of(folder, Compression::None, entries)?;
    let image = Image { names, entrypoint, arguments, environment: &[PATH], labels: &[] };
    image.write(&layer, archive)
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_mirror_is_the_suites() {
        let lines = "bookworm-updates http://mirror.example/other/\nbookworm http://mirror.example/debian/\n";
        assert_eq!(super::mirror_of("bookworm", lines).as_deref(), Some("http://mirror.example/debian/"));
        assert_eq!(super::mirror_of("trixie", lines), None);
    }
}
