//! Whether a program runs in this network namespace.

use std::fs;

/// The process of that name whose network is ours, if there is one.
pub(super) fn of_this_network(name: &str) -> Option<u32> {
    let own = fs::read_link("/proc/self/ns/net").ok()?;
    fs::read_dir("/proc").ok()?.flatten().find_map(|entry| {
        let pid: u32 = entry.file_name().to_str()?.parse().ok()?;
        let same = fs::read_to_string(entry.path().join("comm")).is_ok_and(|comm| comm.trim_end() == name)
            && fs::read_link(entry.path().join("ns/net")).is_ok_and(|net| net == own);
        same.then_some(pid)
    })
}
