//! Memory of a process, and what the kernel has allocated for it.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::{Context, Result};

/// Where control groups are, with what a group's own kernel memory is called there (cgroup-v1/memory.rst, cgroup-v2.rst).
const HIERARCHIES: [(&str, &str, &str); 2] = [
    ("/sys/fs/cgroup/memory", ":memory:", "memory.kmem.usage_in_bytes"),
    ("/sys/fs/cgroup", "0::", "memory.stat"),
];

/// A control group for one process and those that it starts. The kernel charges rules, sets and elements to the group of
/// whoever makes them, beside some MB for sockets, stacks and page tables; tables of hash buckets go uncharged.
#[derive(Debug)]
pub struct Group {
    folder: PathBuf,
    file: &'static str,
}

impl Group {
    /// Makes a group below our own. Nothing where the system lets us have none.
    pub fn new() -> Option<Self> {
        static NUMBER: AtomicUsize = AtomicUsize::new(0);
        let own = std::fs::read_to_string("/proc/self/cgroup").ok()?;
        HIERARCHIES.iter().find_map(|(root, mark, file)| {
            let path = own.lines().find_map(|line| Some(line.split_once(mark)?.1))?;
            let number = NUMBER.fetch_add(1, Ordering::Relaxed);
            let name = format!("weft-bench-{}-{number}", std::process::id());
            let folder = Path::new(root).join(path.trim_start_matches('/')).join(name);
            std::fs::create_dir(&folder).ok()?;
            let group = Self { folder, file };
            group.kernel_mb().is_some().then_some(group)
        })
    }

    /// Puts a process into the group.
    pub fn take(&self, pid: i32) -> Result<()> {
        let path = self.folder.join("cgroup.procs");
        std::fs::write(&path, pid.to_string()).with_context(|| format!("can't write {}", path.display()))
    }

    /// The kernel's memory that is charged to it, in MB.
    pub fn kernel_mb(&self) -> Option<f64> {
        kernel_bytes(&std::fs::read_to_string(self.folder.join(self.file)).ok()?)
            .map(|bytes| bytes / 1024.0 / 1024.0)
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        // It stays, and costs nothing, where a process of it is still about to end.
        let _ = std::fs::remove_dir(&self.folder);
    }
}

/// A bare number, or the line `kernel` of `memory.stat`.
fn kernel_bytes(text: &str) -> Option<f64> {
    let number = text.lines().find_map(|line| line.strip_prefix("kernel ")).unwrap_or(text);
    number.trim().parse().ok()
}

/// Resident memory of a process, in MB.
pub fn of_process(pid: i32) -> Result<f64> {
    let path = format!("/proc/{pid}/status");
    let status = std::fs::read_to_string(&path).with_context(|| format!("can't read {path}"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let word = line.and_then(|line| line.split_whitespace().next());
    let kb: f64 = word.and_then(|word| word.parse().ok()).context("the kernel says no number")?;
    Ok(kb / 1024.0)
}

/// Processor time of all threads of a process, in milliseconds (proc_pid_stat(5): ticks of a hundredth of a second).
pub fn processor_ms(pid: i32) -> Result<f64> {
    let path = format!("/proc/{pid}/stat");
    let stat = std::fs::read_to_string(&path).with_context(|| format!("can't read {path}"))?;
    // The program's name, in brackets, may have spaces in it.
    let (_, rest) = stat.rsplit_once(')').context("the kernel says no state")?;
    let ticks = rest.split_whitespace().skip(11).take(2).map(str::parse::<f64>);
    Ok(ticks.sum::<Result<f64, _>>()? * 10.0)
}

#[cfg(test)]
mod tests {
    #[track_caller]
    fn check(text: &str, expected: Option<f64>) {
        assert_eq!(super::kernel_bytes(text), expected);
    }

    #[test]
    fn both_kinds_of_groups_are_read() {
        check("4096\n", Some(4096.0));
        check("anon 12\nfile 3\nkernel 8192\nkernel_stack 9\n", Some(8192.0));
        check("anon 12\n", None);
    }
}
