//! A folder as a disk would have it, replayed from the calls of a process.
//!
//! Knows of each file what was written and what is on disk for certain: what was written before the last sync of it began. Names
//! reach the disk in the order in which they were changed, and with every sync all that were changed before it, as
//! file systems with a journal do it.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs;
use std::path::{Path, PathBuf};

use crate::support::{files, folders};
use crate::trace::Call;
use crate::workload::Dice;

/// What disks write whole.
const SECTOR: usize = 512;

/// What a file has. Zeros at its end are not held.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Content {
    bytes: Vec<u8>,
    length: u64,
}

impl Content {
    fn apply(&mut self, change: &Change) {
        match change {
            Change::Write { at, bytes } => {
                let end = at + bytes.len();
                if self.bytes.len() < end {
                    self.bytes.resize(end, 0);
                }
                self.bytes[*at..end].copy_from_slice(bytes);
                self.length = self.length.max(end as u64);
            }
            Change::Length(length) => {
                self.bytes.truncate(*length as usize);
                self.length = *length;
            }
        }
    }

    fn sector(&self, at: usize) -> Vec<u8> {
        let bytes = self.bytes.get(at..self.bytes.len().min(at + SECTOR)).unwrap_or_default();
        let mut sector = bytes.to_vec();
        sector.resize(SECTOR, 0);
        sector
    }
}

#[derive(Clone, Debug)]
enum Change {
    Write { at: usize, bytes: Vec<u8> },
    Length(u64),
}

#[derive(Debug, Default)]
struct File {
    now: Content,
    durable: Content,
    /// What was done since the last sync, with the number of the call.
    pending: Vec<(usize, Change)>,
}

/// A change of names.
#[derive(Clone, Debug)]
enum Naming {
    Folder(PathBuf),
    File(PathBuf, usize),
    Rename(PathBuf, PathBuf),
    Remove(PathBuf),
}

/// Folders and files by their names.
#[derive(Clone, Debug, Default)]
struct Names {
    folders: BTreeSet<PathBuf>,
    files: BTreeMap<PathBuf, usize>,
}

impl Names {
    fn apply(&mut self, naming: &Naming) {
        match naming {
            Naming::Folder(path) => drop(self.folders.insert(path.clone())),
            Naming::File(path, file) => drop(self.files.insert(path.clone(), *file)),
            Naming::Rename(from, to) => {
                let file = self.files.remove(from).expect("files are renamed, folders are not");
                self.files.insert(to.clone(), file);
            }
            Naming::Remove(path) => {
                self.folders.remove(path);
                self.files.remove(path);
            }
        }
    }
}

/// What is left of changes that were not synced.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Fate {
    /// Nothing.
    Nothing,
    /// As many of them as were made before a moment, for each file another one.
    Earlier,
    /// Some sectors of each file, but of names those that were changed before a moment.
    Sectors,
}

/// The folder.
#[derive(Debug)]
pub(crate) struct Disk {
    root: PathBuf,
    names: Names,
    durable_names: Names,
    pending_names: Vec<(usize, Naming)>,
    files: Vec<File>,
    /// Of each open descriptor where it writes next; `None` at the end.
    positions: HashMap<i64, Option<usize>>,
    calls: usize,
}

impl Disk {
    /// The folder at `root` as it is now, all of it on disk.
    pub(crate) fn load(root: &Path) -> Self {
        let mut disk = Self {
            root: root.into(),
            names: Names::default(),
            durable_names: Names::default(),
            pending_names: Vec::new(),
            files: Vec::new(),
            positions: HashMap::new(),
            calls: 0,
        };
        for path in files(root) {
            let content = read(&path);
            disk.names.files.insert(disk.own(&path).expect("below it"), disk.files.len());
            let file = File { now: content.clone(), durable: content, pending: Vec::new() };
            disk.files.push(file);
        }
        disk.names.folders =
            folders(root).iter().map(|path| disk.own(path).expect("below it")).collect();
        disk.durable_names = disk.names.clone();
        disk
    }

    /// How many calls were replayed.
    pub(crate) fn calls(&self) -> usize {
        self.calls
    }

    fn own(&self, path: &Path) -> Option<PathBuf> {
        path.strip_prefix(&self.root).ok().map(Path::to_path_buf)
    }

    /// Replays a call. Gives whether it did anything to the folder.
    pub(crate) fn replay(&mut self, call: &Call) -> bool {
        let number = self.calls;
        self.calls += 1;
        match call.name.as_str() {
            "openat" => self.open(number, call),
            "write" | "writev" | "lseek" => self.write_here(number, call),
            "pwrite64" => self.change(number, call, |call| Change::Write {
                at: call.number(3) as usize,
                bytes: call.data(1)[..written(call)].to_vec(),
            }),
            "ftruncate" => self.change(number, call, |call| Change::Length(call.number(1))),
            "fsync" | "fdatasync" => self.sync(call),
            "rename" => {
                let (from, to) = (self.own(&call.path(0)), self.own(&call.path(1)));
                self.name(number, from.zip(to).map(|(from, to)| Naming::Rename(from, to)))
            }
            "renameat" => {
                let (from, to) = (self.own(&call.path(1)), self.own(&call.path(3)));
                self.name(number, from.zip(to).map(|(from, to)| Naming::Rename(from, to)))
            }
            "mkdir" => self.name(number, self.own(&call.path(0)).map(Naming::Folder)),
            "unlink" | "rmdir" => self.name(number, self.own(&call.path(0)).map(Naming::Remove)),
            "unlinkat" => self.name(number, self.own(&call.path(1)).map(Naming::Remove)),
            "sendto" => false,
            other => {
                let folder = self.root.to_str().expect("UTF-8");
                let folder: String = folder.bytes().map(|byte| format!("\\x{byte:02x}")).collect();
                let touches = call.arguments.iter().any(|argument| argument.contains(&folder));
                assert!(!touches, "{other} is not replayed");
                false
            }
        }
    }

    fn name(&mut self, number: usize, naming: Option<Naming>) -> bool {
        let Some(naming) = naming else { return false };
        self.names.apply(&naming);
        self.pending_names.push((number, naming));
        true
    }

    fn open(&mut self, number: usize, call: &Call) -> bool {
        let (descriptor, path) = Call::descriptor(&call.result);
        self.positions.remove(&descriptor);
        let Some(path) = self.own(&path) else { return false };
        let flags = &call.arguments[2];
        let append = flags.contains("O_APPEND");
        self.positions.insert(descriptor, (!append).then_some(0));
        match self.names.files.get(&path) {
            None if flags.contains("O_CREAT") => {
                self.files.push(File::default());
                self.name(number, Some(Naming::File(path, self.files.len() - 1)))
            }
            Some(file) if flags.contains("O_TRUNC") => {
                let file = &mut self.files[*file];
                file.now.apply(&Change::Length(0));
                file.pending.push((number, Change::Length(0)));
                true
            }
            _ => false,
        }
    }

    fn file(&self, call: &Call) -> Option<usize> {
        let path = self.own(&Call::descriptor(&call.arguments[0]).1)?;
        self.names.files.get(&path).copied()
    }

    fn change(&mut self, number: usize, call: &Call, change: fn(&Call) -> Change) -> bool {
        let Some(file) = self.file(call) else { return false };
        let change = change(call);
        self.files[file].now.apply(&change);
        self.files[file].pending.push((number, change));
        true
    }

    fn write_here(&mut self, number: usize, call: &Call) -> bool {
        let Some(file) = self.file(call) else { return false };
        let descriptor = Call::descriptor(&call.arguments[0]).0;
        let position = self.positions.entry(descriptor).or_insert(Some(0));
        let result: usize = call.result.parse().expect("a number of bytes");
        let end = self.files[file].now.length as usize;
        if call.name == "lseek" {
            if position.is_some() {
                *position = Some(result);
            }
            return false;
        }
        let at = position.unwrap_or(end);
        if position.is_some() {
            *position = Some(at + result);
        }
        let change = Change::Write { at, bytes: call.data(1)[..result].to_vec() };
        self.files[file].now.apply(&change);
        self.files[file].pending.push((number, change));
        true
    }

    fn sync(&mut self, call: &Call) -> bool {
        let path = self.own(&Call::descriptor(&call.arguments[0]).1);
        let Some(path) = path else { return false };
        if let Some(file) = self.names.files.get(&path) {
            let File { durable, pending, .. } = &mut self.files[*file];
            let done = pending.iter().take_while(|(number, _)| *number < call.begun).count();
            pending.drain(..done).for_each(|(_, change)| durable.apply(&change));
        }
        let pending = &mut self.pending_names;
        let done = pending.iter().take_while(|(number, _)| *number < call.begun).count();
        let names = &mut self.durable_names;
        pending.drain(..done).for_each(|(_, naming)| names.apply(&naming));
        true
    }

    /// Writes to `target` what a process finds after the one of the calls was killed.
    pub(crate) fn after_kill(&self, target: &Path) {
        write_all(&self.names, target, |file| self.files[file].now.clone());
    }

    /// Writes to `target` what is found after a loss of power.
    pub(crate) fn after_power_loss(&self, target: &Path, fate: Fate, dice: &mut Dice) {
        let mut names = self.durable_names.clone();
        if !matches!(fate, Fate::Nothing) {
            let kept = dice.below(self.pending_names.len() as u64 + 1) as usize;
            self.pending_names[..kept].iter().for_each(|(_, naming)| names.apply(naming));
        }
        write_all(&names, target, |file| {
            let file = &self.files[file];
            let mut content = file.durable.clone();
            let kept = match fate {
                Fate::Nothing => 0,
                Fate::Earlier | Fate::Sectors => dice.below(file.pending.len() as u64 + 1) as usize,
            };
            file.pending[..kept].iter().for_each(|(_, change)| content.apply(change));
            if matches!(fate, Fate::Sectors) {
                lose_sectors(&mut content, file, kept, dice);
            }
            content
        });
    }
}

/// Takes some sectors back to what is on disk for certain, of those that were written since.
fn lose_sectors(content: &mut Content, file: &File, kept: usize, dice: &mut Dice) {
    let mut sectors = BTreeSet::new();
    for (_, change) in &file.pending[..kept] {
        if let Change::Write { at, bytes } = change {
            sectors.extend(at / SECTOR..(at + bytes.len()).div_ceil(SECTOR));
        }
    }
    for sector in sectors {
        let at = sector * SECTOR;
        if dice.below(2) == 0 && at < content.bytes.len() {
            let end = content.bytes.len().min(at + SECTOR);
            let old = file.durable.sector(at);
            content.bytes[at..end].copy_from_slice(&old[..end - at]);
        }
    }
}

fn written(call: &Call) -> usize {
    call.result.parse().expect("a number of bytes")
}

fn read(path: &Path) -> Content {
    let mut bytes = fs::read(path).expect("a file of the store");
    let length = bytes.len() as u64;
    while bytes.ends_with(&[0; 4096]) {
        bytes.truncate(bytes.len() - 4096);
    }
    Content { bytes, length }
}

fn write_all(names: &Names, target: &Path, mut content: impl FnMut(usize) -> Content) {
    fs::create_dir_all(target).expect("a folder");
    for folder in &names.folders {
        fs::create_dir_all(target.join(folder)).expect("a folder");
    }
    for (name, file) in &names.files {
        let content = content(*file);
        let path = target.join(name);
        fs::write(&path, &content.bytes).expect("a file");
        let file = fs::OpenOptions::new().write(true).open(path).expect("it is there");
        file.set_len(content.length).expect("a longer file");
    }
}
