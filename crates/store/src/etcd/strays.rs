//! Keys below the prefix that nobody of this version reads, counted by the folder at their top: pure.
//!
//! What always holds: one notice a folder, however many keys are in it, and a bounded number of folders. Whoever means a key to be read,
//! by its place, is warned, whatever else there is. What may be another version's, or other software's, is only told of, and rarely anew: other
//! software's keys may come and go all the time. Nothing of it can hold a fact: their values are never looked at.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};

use super::keys::Keys;
use super::wire::What;
use crate::store::Remark;
use crate::words::counted;

/// Folders that are told one by one; keys of others are counted together. Those that are warned of have room beside them.
const MOST_FOLDERS: usize = 20;
/// Bytes of a folder's name, and of a key, that are told.
const LONGEST: usize = 200;
/// Keys of a folder that are named, where it is warned of.
const FEW: usize = 3;
/// Where people may look for a network's key.
const NEAR_NETWORK: [&str; 2] = ["network", "networks"];
/// And for an object's: its resource or its kind. What stands in `nodes/` and `pods/` is nodes' to write.
const NEAR_OBJECTS: [&str; 14] = [
    "object",
    "objects",
    "node",
    "pod",
    "namespace",
    "namespaces",
    "service",
    "services",
    "endpoint",
    "endpoints",
    "endpointslice",
    "endpointslices",
    "servicecidr",
    "servicecidrs",
];

/// All of them.
#[derive(Debug, Default)]
pub(super) struct Strays {
    /// By the first part of their paths, in lower case where it is near one that is read; under nothing, those that are told together. A folder
    /// without keys stays until the next list, so that each key is counted in one place while it is there.
    folders: BTreeMap<String, Folder>,
    told: BTreeSet<String>,
    has_changed: bool,
}

#[derive(Debug, Default)]
struct Folder {
    count: usize,
    /// As many as there were at once, since the last list.
    most: usize,
    /// Some of them, as paths, where it is warned of.
    names: BTreeSet<String>,
}

/// Where a key was meant to be.
enum Meant {
    Network,
    Object,
}

impl Strays {
    /// These are all that there are, each without the prefix.
    pub fn list<'a>(&mut self, paths: impl Iterator<Item = &'a str>) {
        self.folders.clear();
        self.has_changed = true;
        paths.for_each(|path| self.one_more(path));
    }

    /// What became of a key; one that was only written anew is counted already.
    pub fn happened(&mut self, path: &str, what: What, is_new: bool) {
        match what {
            What::Put if is_new => self.one_more(path),
            What::Put => {}
            What::Delete => self.one_less(path),
        }
    }

    fn one_more(&mut self, path: &str) {
        self.has_changed = true;
        let name = self.folder_of(path);
        let is_warned_of = meant(&name).is_some();
        let folder = self.folders.entry(name.into_owned()).or_default();
        folder.count += 1;
        folder.most = folder.most.max(folder.count);
        if is_warned_of && folder.names.len() < FEW && path.len() <= LONGEST {
            folder.names.insert(path.to_owned());
        }
    }

    fn one_less(&mut self, path: &str) {
        self.has_changed = true;
        let name = self.folder_of(path);
        if let Some(folder) = self.folders.get_mut(&*name) {
            folder.count = folder.count.saturating_sub(1);
            folder.names.remove(path);
        }
    }

    /// Where a key is counted.
    fn folder_of<'a>(&self, path: &'a str) -> Cow<'a, str> {
        let (top, is_folder) = path.split_once('/').map_or((path, false), |(top, _)| (top, true));
        if meant(top).is_some() {
            return Cow::Owned(top.to_ascii_lowercase());
        }
        let has_room = self.folders.contains_key(top) || self.folders.len() < MOST_FOLDERS;
        let is_told = is_folder && top.len() <= LONGEST && has_room;
        Cow::Borrowed(if is_told { top } else { "" })
    }

    /// What there is to tell, where that may have changed: of each folder, and of those that are no more.
    pub fn drain(&mut self, keys: &Keys) -> Vec<(String, Option<Remark>)> {
        if !std::mem::take(&mut self.has_changed) {
            return Vec::new();
        }
        let standing = self.folders.iter().filter(|(name, folder)| folder.count > 0 || meant(name).is_none());
        let now: BTreeMap<String, Remark> = standing
            .map(|(name, folder)| (format!("{}{name}", keys.all()), folder.remark(name, keys)))
            .collect();
        let gone: Vec<_> = self.told.iter().filter(|about| !now.contains_key(*about)).cloned().collect();
        self.told = now.keys().cloned().collect();
        let gone = gone.into_iter().map(|about| (about, None));
        gone.chain(now.into_iter().map(|(about, remark)| (about, Some(remark)))).collect()
    }
}

impl Folder {
    fn remark(&self, name: &str, keys: &Keys) -> Remark {
        let prefix = keys.all();
        match meant(name) {
            Some(Meant::Network) => Remark::Warning(format!(
                "nobody reads {}; a network's key is {prefix}network/NAME",
                self.keys(prefix)
            )),
            Some(Meant::Object) => Remark::Warning(format!(
                "nobody reads {}; objects stand below {prefix}objects/, under any name",
                self.keys(prefix)
            )),
            // Without names, and of the most: keys that come and go say nothing new.
            None => Remark::Info(format!(
                "this version has no use for what stands here ({} when there were most)",
                amount(self.most)
            )),
        }
    }

    /// How many there are, with their names where these are few.
    fn keys(&self, prefix: &str) -> String {
        let amount = format!("{} here", amount(self.count));
        if self.names.len() < self.count {
            return amount;
        }
        let names: Vec<String> = self.names.iter().map(|path| format!("{prefix}{path}")).collect();
        format!("{amount} ({})", names.join(", "))
    }
}

/// What the keys of a folder were meant to be, where its name is near one that is read.
fn meant(name: &str) -> Option<Meant> {
    let is_one_of = |names: &[&str]| names.iter().any(|near| near.eq_ignore_ascii_case(name));
    if is_one_of(&NEAR_NETWORK) {
        Some(Meant::Network)
    } else if is_one_of(&NEAR_OBJECTS) {
        Some(Meant::Object)
    } else {
        None
    }
}

/// So many keys: beyond ten roughly, so that what is told doesn't change with every key of very many.
fn amount(count: usize) -> String {
    match count {
        1 => "1 key".to_owned(),
        2..=10 => format!("{count} keys"),
        _ => format!("more than {} keys", counted(10_usize.pow((count - 1).ilog10()))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is told, in words.
    fn told(strays: &mut Strays) -> Vec<String> {
        let words = |(about, remark)| match remark {
            Some(Remark::Warning(text)) => format!("{about}: warning: {text}"),
            Some(Remark::Info(text)) => format!("{about}: {text}"),
            other => format!("{about}: {other:?}"),
        };
        strays.drain(&Keys::under("/weft")).into_iter().map(words).collect()
    }

    #[test]
    fn who_means_a_key_to_be_read_is_warned_and_others_are_told_of() {
        let check = |path: &str, expected: &str| {
            let mut strays = Strays::default();
            strays.list([path].into_iter());
            assert_eq!(told(&mut strays), [expected]);
        };
        let network = |top: &str, path: &str| {
            format!(
                "/weft/{top}: warning: nobody reads 1 key here (/weft/{path}); a network's key is /weft/network/NAME"
            )
        };
        let object = |top: &str, path: &str| {
            format!(
                "/weft/{top}: warning: nobody reads 1 key here (/weft/{path}); objects stand below /weft/objects/, under any name"
            )
        };
        let other = |top: &str| {
            format!("/weft/{top}: this version has no use for what stands here (1 key when there were most)")
        };
        let top = |path: &str| path.split('/').next().unwrap().to_ascii_lowercase();
        for path in ["networks/default", "network/a/b", "network", "Network/default"] {
            check(path, &network(&top(path), path));
        }
        for path in ["services/shop/web", "objects", "pod/web", "EndpointSlices/x"] {
            check(path, &object(&top(path), path));
        }
        for path in ["policies/deny", "keys/n1", "nodes/N_1", "pods/n1"] {
            check(path, &other(&top(path)));
        }
        // What stands beside all folders is told together.
        check("backup", &other(""));
    }

    #[test]
    fn a_warning_has_room_beside_any_number_of_folders() {
        let others: Vec<String> = (0..2 * MOST_FOLDERS).map(|i| format!("a{i:02}/x")).collect();
        let names: Vec<&str> = NEAR_NETWORK.into_iter().chain(NEAR_OBJECTS).collect();
        // In any writing, a name takes one place.
        let cased =
            names.iter().flat_map(|name| [format!("{name}/x"), format!("{}/x", name.to_ascii_uppercase())]);
        let all: Vec<String> = others.into_iter().chain(cased).collect();
        let mut strays = Strays::default();
        strays.list(all.iter().map(String::as_str));
        let told = told(&mut strays);
        assert_eq!(told.len(), MOST_FOLDERS + 1 + names.len());
        let warned: Vec<&String> = told.iter().filter(|line| line.contains(": warning: ")).collect();
        assert_eq!(warned.len(), names.len());
        let expected = "/weft/services: warning: nobody reads 2 keys here (/weft/SERVICES/x, /weft/services/x); \
                        objects stand below /weft/objects/, under any name";
        assert!(warned.iter().any(|line| *line == expected), "{warned:#?}");
    }

    /// Another program's locks: up to three at once, over and over.
    #[test]
    fn keys_that_come_and_go_are_told_a_few_times() {
        let mut strays = Strays::default();
        strays.list(["locks/old"].into_iter());
        let mut said = BTreeSet::new();
        for round in 0..1_000 {
            let keys: Vec<String> = (0..1 + round % 3).map(|i| format!("locks/{round}-{i}")).collect();
            for key in &keys {
                strays.happened(key, What::Put, true);
                said.extend(told(&mut strays));
            }
            for key in &keys {
                strays.happened(key, What::Delete, false);
                said.extend(told(&mut strays));
            }
        }
        strays.happened("locks/old", What::Delete, false);
        said.extend(told(&mut strays));
        let texts = ["2 keys", "3 keys", "4 keys"].map(|most| {
            format!("/weft/locks: this version has no use for what stands here ({most} when there were most)")
        });
        assert_eq!(said.into_iter().collect::<Vec<_>>(), texts);
        // The next list says what there is.
        strays.list([].into_iter());
        assert_eq!(told(&mut strays), ["/weft/locks: None"]);
    }

    #[test]
    fn a_folder_says_one_thing_however_many_keys_are_in_it() {
        let mut strays = Strays::default();
        let keys: Vec<String> = (0..100_000).map(|i| format!("x/{i:06}")).collect();
        strays.list(keys.iter().map(String::as_str));
        let text = |amount: &str| {
            format!(
                "/weft/x: this version has no use for what stands here (more than {amount} keys when there were most)"
            )
        };
        assert_eq!(told(&mut strays), [text("10,000")]);
        strays.happened("x/more", What::Put, true);
        assert_eq!(told(&mut strays), [text("100,000")]);
        let keys: Vec<String> = (0..1_000).map(|i| format!("node/{i:06}")).collect();
        strays.list(keys.iter().map(String::as_str));
        assert_eq!(strays.folders["node"].names.len(), FEW);
        let many: Vec<String> = (0..1_000)
            .flat_map(|i| [format!("f{i}/x"), format!("{i}"), format!("{}/x", "l".repeat(i))])
            .collect();
        strays.list(many.iter().map(String::as_str));
        assert_eq!(told(&mut strays).len(), 1 + MOST_FOLDERS);
        assert_eq!(strays.folders.values().map(|folder| folder.count).sum::<usize>(), many.len());
        for path in &many {
            strays.happened(path, What::Delete, false);
        }
        assert!(strays.folders.values().all(|folder| folder.count == 0));
        assert_eq!(told(&mut strays).len(), MOST_FOLDERS);
        strays.list([].into_iter());
        assert!(told(&mut strays).iter().all(|line| line.ends_with(": None")));
    }

    #[test]
    fn keys_are_counted_as_they_come_and_go() {
        let mut strays = Strays::default();
        strays.list(["pod/a"].into_iter());
        strays.happened("pod/a", What::Put, false);
        strays.happened("pod/b", What::Put, true);
        let both = "/weft/pod: warning: nobody reads 2 keys here (/weft/pod/a, /weft/pod/b); \
                    objects stand below /weft/objects/, under any name";
        assert_eq!(told(&mut strays), [both]);
        assert_eq!(told(&mut strays), [""; 0]);
        // Who has put them right is told so at once.
        strays.happened("pod/a", What::Delete, false);
        strays.happened("pod/b", What::Delete, false);
        assert_eq!(told(&mut strays), ["/weft/pod: None"]);
    }

    #[test]
    fn amounts_are_rough_where_they_are_large() {
        let check = |count: usize, expected: &str| assert_eq!(amount(count), expected);
        check(1, "1 key");
        check(10, "10 keys");
        check(11, "more than 10 keys");
        check(100, "more than 10 keys");
        check(101, "more than 100 keys");
    }
}
