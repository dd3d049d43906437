//! Leases over every store: what is given, refused, freed, and what survives a crash, a reboot and host-local.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::net::IpAddr;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, SystemTime};

use proptest::prelude::{Strategy, prop_assert, prop_assert_eq, prop_oneof, proptest};
use weft_ipam::{
    Boot, DirectoryLeases, IpamError, Lease, LeaseError, LeaseOwner, LeaseStore, Leases, MemoryLeases, Pool,
    Reservation,
};
use weft_model::{AttachmentId, Family, IfName, NetworkName};

fn id(container: &str) -> AttachmentId {
    AttachmentId { container: container.into(), ifname: IfName::new("eth0").unwrap() }
}

fn boot(id: &str) -> Boot {
    Boot { id: id.to_owned(), began: SystemTime::UNIX_EPOCH }
}

fn pool(cidrs: &[&str]) -> Pool {
    Pool::new(cidrs.iter().map(|c| c.parse().unwrap()).collect())
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn directory(dir: &Path) -> Leases<DirectoryLeases> {
    Leases::open(DirectoryLeases::open(dir, &NetworkName::ordinary(), &boot("first")).unwrap().0).unwrap()
}

fn texts(addresses: &[IpAddr]) -> Vec<String> {
    addresses.iter().map(ToString::to_string).collect()
}

/// The same story over any store.
fn story<S: LeaseStore>(mut leases: Leases<S>) {
    let pool = pool(&["10.0.0.0/29", "fd00::/64"]);
    let (a, b) = (id("a"), id("b"));
    assert_eq!(texts(&leases.allocate(&a, &pool, &[]).unwrap()), ["10.0.0.1", "fd00::1"]);
    assert_eq!(texts(&leases.by_owner(&a)), ["10.0.0.1", "fd00::1"]);
    assert_eq!(texts(&leases.allocate(&b, &pool, &[ip("10.0.0.5")]).unwrap()), ["10.0.0.5", "fd00::2"]);

    let refused = |leases: &mut Leases<S>, requests: &[&str]| {
        let requests: Vec<IpAddr> = requests.iter().map(|a| ip(a)).collect();
        leases.allocate(&id("c"), &pool, &requests).unwrap_err().to_string()
    };
    for (requests, expected) in [
        (
            &["10.0.0.5"][..],
            "requested address 10.0.0.5 is held by b:eth0; request another, or delete that attachment first",
        ),
        (
            &["10.9.0.1"],
            "requested address 10.9.0.1 is not in this node's pod CIDRs (10.0.0.0/29, fd00::/64); request one that is",
        ),
        (
            &["10.0.0.7"],
            "requested address 10.0.0.7 is reserved (a network's, broadcast or gateway address, or services'); request another",
        ),
        (
            &["10.0.0.3", "10.0.0.4"],
            "requested addresses 10.0.0.3 and 10.0.0.4 are both IPv4; request one of each family",
        ),
        // The IPv4 address was taken before the IPv6 request failed: it must be free again.
        (
            &["fd00::2"],
            "requested address fd00::2 is held by b:eth0; request another, or delete that attachment first",
        ),
    ] {
        assert_eq!(refused(&mut leases, requests), expected);
        assert_eq!(leases.iter().count(), 4, "a refused request left something");
    }

    assert_eq!(texts(&leases.release(&a).unwrap()), ["10.0.0.1", "fd00::1"]);
    assert_eq!(leases.release(&a).unwrap(), Vec::<IpAddr>::new());
    // An address that was just freed rests.
    assert_eq!(texts(&leases.allocate(&a, &pool, &[]).unwrap()), ["10.0.0.3", "fd00::3"]);
    for name in ["d", "e", "f", "g"] {
        leases.allocate(&id(name), &pool, &[]).unwrap();
    }
    assert!(!leases.has_room(&pool));
    assert_eq!(
        refused(&mut leases, &[]),
        "no IPv4 address is free: all usable addresses of 10.0.0.0/29 are taken (6 leases); \
         delete pods, or give the node another pod CIDR"
    );
    let freed = leases.reconcile(|owner| owner.is(&a)).unwrap();
    assert_eq!(freed.len(), 10);
    assert_eq!(leases.iter().count(), 2);
    assert!(leases.has_room(&pool));
    assert!(matches!(leases.allocate(&b, &Pool::default(), &[]), Err(IpamError::NoCidrs)));
}

#[test]
fn every_store_tells_the_same_story() {
    story(Leases::open(MemoryLeases::default()).unwrap());
    let dir = tempfile::tempdir().unwrap();
    story(directory(dir.path()));
}

#[test]
fn files_are_as_host_local_writes_them() {
    let dir = tempfile::tempdir().unwrap();
    directory(dir.path()).allocate(&id("abc"), &pool(&["10.0.0.0/29", "fd00::/64"]), &[]).unwrap();
    let read = |name: &str| fs::read_to_string(dir.path().join("default").join(name)).unwrap();
    assert_eq!(read("10.0.0.1"), "abc\r\neth0");
    assert_eq!(read("fd00::1"), "abc\r\neth0");
    assert_eq!(read("last_reserved_ip.0"), "10.0.0.1");
    assert_eq!(read("last_reserved_ip.1"), "fd00::1");
    assert_eq!(read("boot_id"), "first");
    // A shorter address leaves nothing of a longer one.
    let mut leases = directory(dir.path());
    leases.allocate(&id("long"), &pool(&["10.100.100.0/30"]), &[]).unwrap();
    leases.allocate(&id("short"), &pool(&["10.0.0.0/29"]), &[]).unwrap();
    assert_eq!(read("last_reserved_ip.0"), "10.0.0.2");
}

#[test]
fn leases_of_one_attachment_are_one_file_and_go_one_by_one() {
    let dir = tempfile::tempdir().unwrap();
    let file = |name: &str| dir.path().join("default").join(name);
    let inode = |name: &str| fs::metadata(file(name)).unwrap().ino();
    let pool = pool(&["10.0.0.0/29", "fd00::/64"]);
    let mut leases = directory(dir.path());
    leases.allocate(&id("a"), &pool, &[]).unwrap();
    leases.allocate(&id("b"), &pool, &[]).unwrap();
    assert_eq!(inode("10.0.0.1"), inode("fd00::1"));
    assert_ne!(inode("10.0.0.1"), inode("10.0.0.2"));
    leases.release(&id("a")).unwrap();
    assert!(!file("10.0.0.1").exists() && !file("fd00::1").exists());
    assert_eq!(fs::read_to_string(file("fd00::2")).unwrap(), "b\r\neth0");

    // What has become another's between two leases is not linked to.
    let mut store = DirectoryLeases::open(dir.path(), &NetworkName::ordinary(), &boot("first")).unwrap().0;
    for (nobody, then) in [(ip("10.0.0.4"), None), (ip("10.0.0.5"), Some("other\r\neth0"))] {
        store.reserve(nobody, &id("c")).unwrap();
        fs::remove_file(file(&nobody.to_string())).unwrap();
        if let Some(text) = then {
            fs::write(file(&nobody.to_string()), text).unwrap();
        }
        store.reserve(ip("fd00::4"), &id("c")).unwrap();
        assert_eq!(fs::read_to_string(file("fd00::4")).unwrap(), "c\r\neth0");
        store.release(&Lease { address: ip("fd00::4"), owner: (&id("c")).into() }).unwrap();
    }
    // And what is taken stays so.
    store.reserve(ip("10.0.0.6"), &id("c")).unwrap();
    let taken = store.reserve(ip("fd00::2"), &id("c")).unwrap();
    assert!(matches!(taken, Reservation::Taken(holder) if holder.is(&id("b"))));
}

#[test]
fn a_leases_file_is_the_next_ones() {
    let dir = tempfile::tempdir().unwrap();
    let file = |name: &str| dir.path().join("default").join(name);
    let inode = |name: &str| fs::metadata(file(name)).unwrap().ino();
    let read = |name: &str| fs::read_to_string(file(name)).unwrap();
    let pool = pool(&["10.0.0.0/28", "fd00::/64"]);
    let mut leases = directory(dir.path());
    leases.allocate(&id("the-first-of-all"), &pool, &[]).unwrap();
    let first = inode("10.0.0.1");
    leases.release(&id("the-first-of-all")).unwrap();
    leases.allocate(&id("b"), &pool, &[]).unwrap();
    assert_eq!((inode("10.0.0.2"), inode("fd00::2")), (first, first));
    assert_eq!((read("10.0.0.2"), read("fd00::2")), ("b\r\neth0".into(), "b\r\neth0".into()));
    assert!(!file(".spare").exists());

    // Killed after the name was given, before the spare's was taken away: the lease stays as it is.
    fs::hard_link(file("10.0.0.2"), file(".spare")).unwrap();
    leases.allocate(&id("c"), &pool, &[]).unwrap();
    assert_eq!((read("10.0.0.2"), read("10.0.0.3")), ("b\r\neth0".into(), "c\r\neth0".into()));
    assert!(!file(".spare").exists());

    // Killed in the middle of writing it; and an address that is taken stays so, with a spare at hand.
    leases.release(&id("c")).unwrap();
    fs::write(file(".spare"), "half of a container's na").unwrap();
    let held = leases.allocate(&id("d"), &pool, &[ip("10.0.0.2")]).unwrap_err().to_string();
    assert!(held.contains("is held by b:eth0"), "{held}");
    assert_eq!(read("10.0.0.2"), "b\r\neth0");
    leases.allocate(&id("d"), &pool, &[ip("10.0.0.9")]).unwrap();
    assert_eq!(read("10.0.0.9"), "d\r\neth0");
    // What somebody else has put there is neither written nor waited for.
    let mut put = |what: &dyn Fn(), container: &str| {
        let _ = fs::remove_file(file(".spare"));
        what();
        let held = texts(&leases.allocate(&id(container), &pool, &[]).unwrap());
        assert_eq!(read(&held[0]), format!("{container}\r\neth0"));
        leases.release(&id(container)).unwrap();
    };
    let theirs = dir.path().join("theirs");
    fs::write(&theirs, "theirs").unwrap();
    put(&|| std::os::unix::fs::symlink(&theirs, file(".spare")).unwrap(), "e");
    assert_eq!(fs::read_to_string(&theirs).unwrap(), "theirs");
    let make = |program: &str| assert!(Command::new(program).arg(file(".spare")).status().unwrap().success());
    put(&|| make("mkfifo"), "f");
    put(&|| make("mkdir"), "g");
    fs::remove_dir(file(".spare")).unwrap();
    // It is nobody's lease.
    leases.release(&id("b")).unwrap();
    assert_eq!(directory(dir.path()).iter().count(), 2);
}

#[test]
fn what_host_local_wrote_meanwhile_is_respected() {
    let dir = tempfile::tempdir().unwrap();
    let mut leases = directory(dir.path());
    let file = |name: &str| dir.path().join("default").join(name);
    fs::write(file("10.0.0.1"), "theirs\r\neth0").unwrap();
    fs::write(file("10.0.0.2"), "old-layout").unwrap();
    let small = pool(&["10.0.0.0/29"]);
    assert_eq!(texts(&leases.allocate(&id("a"), &small, &[]).unwrap()), ["10.0.0.3"]);
    // What it freed can be had, though the index still believed it taken.
    fs::remove_file(file("10.0.0.1")).unwrap();
    assert_eq!(texts(&leases.allocate(&id("b"), &small, &[ip("10.0.0.1")]).unwrap()), ["10.0.0.1"]);
    for name in ["c", "d", "e"] {
        leases.allocate(&id(name), &small, &[]).unwrap();
    }
    fs::remove_file(file("10.0.0.2")).unwrap();
    assert_eq!(texts(&leases.allocate(&id("f"), &small, &[]).unwrap()), ["10.0.0.2"]);
    // A lease that changed hands is not removed with its former owner.
    fs::write(file("10.0.0.3"), "theirs\r\neth0").unwrap();
    leases.release(&id("a")).unwrap();
    assert!(file("10.0.0.3").exists());
}

#[test]
fn an_empty_file_is_a_killed_process_and_is_freed() {
    let dir = tempfile::tempdir().unwrap();
    let mut leases = directory(dir.path());
    let file = dir.path().join("default/10.0.0.1");
    fs::write(&file, "").unwrap();
    assert_eq!(texts(&leases.allocate(&id("a"), &pool(&["10.0.0.0/29"]), &[]).unwrap()), ["10.0.0.1"]);
    fs::write(dir.path().join("default/10.0.0.2"), "").unwrap();
    assert_eq!(directory(dir.path()).iter().count(), 1);
    assert!(!dir.path().join("default/10.0.0.2").exists());
}

#[test]
fn a_reboot_frees_what_is_older_than_it() {
    let dir = tempfile::tempdir().unwrap();
    let network = NetworkName::ordinary();
    let mut leases = directory(dir.path());
    leases.allocate(&id("old"), &pool(&["10.0.0.0/29"]), &[]).unwrap();
    let now = SystemTime::now();
    let second = Boot { id: "second".into(), began: now + Duration::from_secs(5) };
    // Given by host-local after the reboot, before Weft has looked.
    let fresh = dir.path().join("default/10.0.0.2");
    fs::write(&fresh, "theirs\r\neth0").unwrap();
    fs::File::options().write(true).open(&fresh).unwrap().set_modified(now + Duration::from_secs(9)).unwrap();

    let (store, freed) = DirectoryLeases::open(dir.path(), &network, &second).unwrap();
    assert_eq!(freed.iter().map(|l| l.address.to_string()).collect::<Vec<_>>(), ["10.0.0.1"]);
    assert_eq!(store.list().unwrap().len(), 1);
    // The same boot again, now with older files than it: nothing is freed.
    let later = Boot { id: "second".into(), began: now + Duration::from_secs(60) };
    assert_eq!(DirectoryLeases::open(dir.path(), &network, &later).unwrap().1, []);
}

#[test]
fn a_full_disk_is_a_clear_error_and_leaves_nothing() {
    // A file-size limit would hit the whole test process; /dev/full, as a lease's file, gives ENOSPC on the write.
    let dir = tempfile::tempdir().unwrap();
    let mounted = Command::new("mount")
        .args(["-t", "tmpfs", "-o", "size=4k,nr_inodes=8", "none"])
        .arg(dir.path())
        .output();
    if !mounted.is_ok_and(|o| o.status.success()) {
        println!("SKIPPED: a_full_disk_is_a_clear_error_and_leaves_nothing: mounting a tmpfs needs root");
        return;
    }
    let outcome = std::panic::catch_unwind(|| {
        let mut leases = directory(dir.path());
        fs::write(dir.path().join("fill"), [0; 4096]).unwrap_err();
        let error = leases.allocate(&id("a"), &pool(&["10.0.0.0/29"]), &[]).unwrap_err().to_string();
        assert!(error.contains("10.0.0.1") && error.contains("free some space"), "{error}");
        assert!(!dir.path().join("default/10.0.0.1").exists());
        assert_eq!(leases.iter().count(), 0);
    });
    let unmounted = Command::new("umount").arg(dir.path()).status().unwrap();
    assert!(unmounted.success());
    outcome.unwrap();
}

#[test]
fn two_processes_never_get_one_address() {
    let dir = tempfile::tempdir().unwrap();
    let given: Vec<Vec<IpAddr>> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..8)
            .map(|t| {
                let dir = dir.path();
                scope.spawn(move || {
                    let mut leases = directory(dir);
                    let pool = pool(&["10.0.0.0/24"]);
                    (0..25)
                        .map(|i| leases.allocate(&id(&format!("{t}-{i}")), &pool, &[]).unwrap()[0])
                        .collect()
                })
            })
            .collect();
        threads.into_iter().map(|t| t.join().unwrap()).collect()
    });
    let distinct: BTreeSet<_> = given.iter().flatten().collect();
    assert_eq!(distinct.len(), 200);
}

/// Something that happens to a directory of leases.
#[derive(Debug, Clone)]
enum Step {
    Add(u8),
    Del(u8),
    /// Killed after the file was made and before it was filled.
    Crash(u8),
    /// A new process opens the directory.
    Restart,
    HostLocalAdd(u8),
    HostLocalDel(u8),
    /// Only containers below the number are alive.
    Reconcile(u8),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        (0..20u8).prop_map(Step::Add),
        (0..20u8).prop_map(Step::Add),
        (0..20u8).prop_map(Step::Del),
        (1..14u8).prop_map(Step::Crash),
        proptest::strategy::Just(Step::Restart),
        (1..14u8).prop_map(Step::HostLocalAdd),
        (1..14u8).prop_map(Step::HostLocalDel),
        (0..20u8).prop_map(Step::Reconcile),
    ]
}

proptest! {
    #[test]
    fn no_address_ever_has_two_owners(steps in proptest::collection::vec(step(), 1..60)) {
        let dir = tempfile::tempdir().unwrap();
        let pool = pool(&["10.0.0.0/28"]);
        let file = |n: u8| dir.path().join(format!("default/10.0.0.{n}"));
        let mut leases = directory(dir.path());
        // What must be true: address → container.
        let mut truth: BTreeMap<IpAddr, String> = BTreeMap::new();
        for step in steps {
            match step {
                Step::Add(n) => {
                    let owner = id(&format!("ours{n}"));
                    match leases.allocate(&owner, &pool, &[]) {
                        Ok(given) => {
                            let before = truth.insert(given[0], owner.container.to_string());
                            prop_assert_eq!(before, None, "{} given twice", given[0]);
                        }
                        Err(IpamError::Exhausted { .. }) => prop_assert_eq!(truth.len(), 14),
                        Err(other) => prop_assert!(false, "{}", other),
                    }
                }
                Step::Del(n) => {
                    leases.release(&id(&format!("ours{n}"))).unwrap();
                    truth.retain(|_, c| *c != format!("ours{n}"));
                }
                Step::Crash(n) if !file(n).exists() => fs::write(file(n), "").unwrap(),
                Step::Crash(_) => {}
                Step::Restart => leases = directory(dir.path()),
                Step::HostLocalAdd(n) if !file(n).exists() => {
                    fs::write(file(n), "theirs\r\neth0").unwrap();
                    truth.insert(ip(&format!("10.0.0.{n}")), "theirs".into());
                }
                Step::HostLocalAdd(_) => {}
                Step::HostLocalDel(n) => {
                    if truth.get(&ip(&format!("10.0.0.{n}"))).is_some_and(|c| c == "theirs") {
                        fs::remove_file(file(n)).unwrap();
                        truth.remove(&ip(&format!("10.0.0.{n}")));
                    }
                }
                Step::Reconcile(below) => {
                    let alive = |c: &str| c == "theirs" || c[4..].parse::<u8>().unwrap() < below;
                    leases.reconcile(|owner: &LeaseOwner| alive(&owner.container)).unwrap();
                    truth.retain(|_, c| alive(c));
                }
            }
            // What is remembered of the last look is no other answer.
            let taken = leases.iter().map(|lease| (lease.address, lease.owner)).collect();
            prop_assert_eq!(leases.has_room(&pool), pool.next(Family::V4, None, &taken).is_some());
        }
        let found: BTreeMap<IpAddr, String> =
            directory(dir.path()).iter().map(|l| (l.address, l.owner.container.to_string())).collect();
        prop_assert_eq!(found, truth);
    }
}

/// Runs the real host-local over `dir`; `None` where it isn't installed.
fn host_local(dir: &Path, command: &str, container: &str) -> Option<String> {
    use std::io::Write as _;
    use std::process::{Command, Stdio};
    let config = format!(
        r#"{{"cniVersion":"0.4.0","name":"default","ipam":{{"type":"host-local","dataDir":{dir:?},
            "ranges":[[{{"subnet":"10.0.0.0/28"}}]]}}}}"#
    );
    let mut child = Command::new("/usr/lib/cni/host-local")
        .envs([("CNI_COMMAND", command), ("CNI_CONTAINERID", container), ("CNI_IFNAME", "eth0")])
        .envs([("CNI_NETNS", "/proc/self/ns/net"), ("CNI_PATH", "/usr/lib/cni")])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .ok()?;
    child.stdin.take()?.write_all(config.as_bytes()).ok()?;
    let output = child.wait_with_output().ok()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "host-local {command}: {text}");
    Some(text)
}

#[test]
fn the_real_host_local_shares_the_directory() {
    if !Path::new("/usr/lib/cni/host-local").exists() {
        println!("SKIPPED: the_real_host_local_shares_the_directory: install containernetworking-plugins");
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let pool = pool(&["10.0.0.0/28"]);
    let mut leases = directory(dir.path());
    // host-local takes .1 for a gateway, and goes on after the address that we gave last.
    assert_eq!(texts(&leases.allocate(&id("ours"), &pool, &[]).unwrap()), ["10.0.0.1"]);
    let result = host_local(dir.path(), "ADD", "theirs").unwrap();
    assert!(result.contains("10.0.0.2/28"), "{result}");
    assert_eq!(texts(&leases.allocate(&id("ours-too"), &pool, &[]).unwrap()), ["10.0.0.3"]);
    // Each can end what the other began.
    host_local(dir.path(), "DEL", "ours").unwrap();
    let mut leases = directory(dir.path());
    assert_eq!(
        leases.iter().map(|l| l.owner.to_string()).collect::<Vec<_>>(),
        ["theirs:eth0", "ours-too:eth0"]
    );
    assert_eq!(texts(&leases.release(&id("theirs")).unwrap()), ["10.0.0.2"]);
    // Its CHECK finds our lease, and its DEL leaves boot_id alone.
    host_local(dir.path(), "CHECK", "ours-too").unwrap();
    assert!(dir.path().join("default/boot_id").exists());
    // The spare names a container that is gone, and may come again.
    assert_eq!(fs::read_to_string(dir.path().join("default/.spare")).unwrap(), "theirs\r\neth0");
    let result = host_local(dir.path(), "ADD", "theirs").unwrap();
    assert!(result.contains("10.0.0.4/28"), "{result}");
    host_local(dir.path(), "CHECK", "theirs").unwrap();
    host_local(dir.path(), "DEL", "theirs").unwrap();
    assert_eq!(
        directory(dir.path()).iter().map(|l| l.owner.to_string()).collect::<Vec<_>>(),
        ["ours-too:eth0"]
    );
}

#[test]
fn a_lost_lease_is_restored_before_somebody_else_gets_the_address() {
    let dir = tempfile::tempdir().unwrap();
    let pool = pool(&["10.0.0.0/29"]);
    let (a, b) = (id("a"), id("b"));
    let addresses = directory(dir.path()).allocate(&a, &pool, &[]).unwrap();
    fs::remove_dir_all(dir.path()).unwrap();

    let mut leases = directory(dir.path());
    assert_eq!(leases.restore(&a, &addresses).unwrap(), addresses);
    assert_eq!(leases.restore(&a, &addresses).unwrap(), Vec::<IpAddr>::new());
    assert_eq!(texts(&leases.allocate(&b, &pool, &[]).unwrap()), ["10.0.0.2"]);
    let error = leases.restore(&b, &addresses).unwrap_err().to_string();
    assert!(error.contains("10.0.0.1 is held by a:eth0"), "{error}");

    // With the folder gone under a running agent, pods still come and go.
    fs::remove_dir_all(dir.path()).unwrap();
    leases.release(&b).unwrap();
    leases.allocate(&id("c"), &pool, &[]).unwrap();
}

#[test]
fn leases_that_vanished_are_an_error_until_all_is_said_again() {
    let dir = tempfile::tempdir().unwrap();
    let mut leases = directory(dir.path());
    let pool = pool(&["10.0.0.0/29"]);
    let mut given = Vec::new();
    while let Ok(addresses) = leases.allocate(&id(&format!("c{}", given.len())), &pool, &[]) {
        given.extend(addresses);
    }
    for nobody_is_asked in [true, false] {
        fs::remove_dir_all(dir.path()).unwrap();
        let error = if nobody_is_asked {
            leases.allocate(&id("late"), &pool, &[]).unwrap_err()
        } else {
            leases.reconcile(|_| true).unwrap_err()
        };
        assert!(matches!(error, IpamError::Lease(LeaseError::Vanished { .. })), "{error}");
        for (at, address) in given.iter().enumerate() {
            assert_eq!(leases.restore(&id(&format!("c{at}")), &[*address]).unwrap(), [*address]);
        }
        leases.confirm().unwrap();
        assert_eq!(leases.reconcile(|_| true).unwrap(), []);
        let error = leases.allocate(&id("late"), &pool, &[]).unwrap_err();
        assert!(matches!(error, IpamError::Exhausted { .. }), "{error}");
    }
}
