//! The directory of a store: what lies in it, who may use it, which format it has.
//!
//! Owns the lock, the file `FORMAT` and the decision whether a journal may be cut. Invariant: `FORMAT` is there if and
//! only if the rest of a new store is, so a first start that was cut short begins again. Reads no rows.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use crate::store::chain::{Link, MOST_PARTITIONS};
use crate::store::journal::{self, Begun, Survey, Tear};
use crate::store::manifests;
use crate::store::tail::{self, Mark, Tail};
use crate::store::tuning;
use crate::store::{OpenError, Room};

/// The format that is written, and the newest that is read.
const FORMAT: u32 = 1;
const FORMAT_NAME: &str = "causeway-store";

/// What a start may write before anything is freed.
const WRITTEN_AT_START: u64 = 4 << 20;

/// The locked directory.
#[derive(Debug)]
pub(super) struct Home {
    path: PathBuf,
    partitions: u16,
    /// Nobody else gets in as long as it is open.
    _lock: File,
}

/// Whether there was a store already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Found {
    Nothing,
    Store,
}

impl Home {
    /// Makes and locks the directory. `partitions` only matters to a new store, and if it is given to an old one that has
    /// another number of them.
    pub(super) fn enter(path: &Path, partitions: Option<u16>) -> Result<(Self, Found), OpenError> {
        fs::create_dir_all(path).map_err(|error| failed(path, &error))?;
        let lock = lock(path)?;
        let stored = stored_partitions(path)?;
        if stored.is_none() {
            clear_unfinished(path)?;
        }
        let count = stored.or(partitions).unwrap_or_default();
        if count == 0 || count > MOST_PARTITIONS {
            let what = format!("{count} partitions cannot be");
            return Err(OpenError::Format { path: shown(path), what });
        }
        if let Some(wanted) = partitions
            && wanted != count
        {
            return Err(OpenError::Partitions { path: shown(path), stored: count, wanted });
        }
        let found = if stored.is_some() { Found::Store } else { Found::Nothing };
        Ok((Self { path: path.into(), partitions: count, _lock: lock }, found))
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn partitions(&self) -> u16 {
        self.partitions
    }

    /// Where the database is.
    pub(super) fn rows(&self) -> PathBuf {
        rows(&self.path)
    }

    pub(super) fn create_tail(&self) -> Result<Tail, OpenError> {
        Tail::create(&self.path.join("tail")).map_err(|error| failed(&self.path, &error))
    }

    /// Everything is there: from now on this is a store.
    pub(super) fn finish(&self) -> Result<(), OpenError> {
        let write = || {
            let unfinished = self.path.join("FORMAT.new");
            let mut file = File::create(&unfinished)?;
            writeln!(file, "{FORMAT_NAME} {FORMAT}\npartitions {}", self.partitions)?;
            file.sync_all()?;
            fs::rename(&unfinished, self.path.join("FORMAT"))?;
            File::open(&self.path)?.sync_all()
        };
        write().map_err(|error: io::Error| failed(&self.path, &error))
    }

    /// Opens the tail of a store and cuts its journal after the last whole commit, if nothing that had been
    /// committed is lost by that. If much is in the journal and there is room to write it out, another one is begun, so
    /// that the next start need not read all of it again. Gives what was last committed as far as journals tell.
    pub(super) fn recover(&self, reserve_bytes: u64) -> Result<(Tail, Recovered), OpenError> {
        let path = self.path.join("tail");
        let (tail, mark) = Tail::open(&path).map_err(|error| failed(&path, &error))?;
        let Some(mark) = mark else {
            return Err(broken(&self.path, "the file `tail` cannot be read".into()));
        };
        self.check_lists()?;
        let rows = self.rows();
        let survey = journal::survey(&rows).map_err(|error| failed(&rows, &error))?;
        let required = mark.required(tail::boot());
        match judge(&survey, required) {
            Verdict::Sound => {}
            Verdict::Cut(tear) => {
                cut(&tear).map_err(|error| failed(&tear.journal, &error))?;
            }
            Verdict::CutAndSee(tear) => {
                set_aside(&tear).map_err(|error| failed(&tear.journal, &error))?;
                cut(&tear).map_err(|error| failed(&tear.journal, &error))?;
            }
            Verdict::Broken(what) => return Err(broken(&self.path, what)),
        }
        let much = survey.last.is_some() && survey.newest_bytes >= tuning::READ_ONCE;
        // It is written out, and the tables that it goes into may be, before it is removed.
        let needed = reserve_bytes.saturating_add(survey.newest_bytes.saturating_mul(2));
        if much && self.room(needed) == Room::Enough {
            let begun = journal::begin_another(&rows).map_err(|error| failed(&rows, &error))?;
            if let Begun::No(error) = begun {
                tracing::warn!(%error, "no further journal: the next start will read this one again");
            }
        }
        Ok((tail, Recovered { mark, required, last: survey.last }))
    }

    /// Whether there is as much free space as is to be left.
    pub(super) fn room(&self, reserve_bytes: u64) -> Room {
        let is_enough = free_bytes(&self.path).is_ok_and(|free| free >= reserve_bytes);
        if is_enough { Room::Enough } else { Room::Low }
    }

    fn check_lists(&self) -> Result<(), OpenError> {
        let rows = self.rows();
        match manifests::fault(&rows).map_err(|error| failed(&rows, &error))? {
            Some(fault) => Err(broken(&self.path, fault)),
            None => Ok(()),
        }
    }

    /// Cuts every journal at the first thing that cannot be read, after a copy of it was made.
    pub(super) fn cut_anyway(&self) -> Result<(), OpenError> {
        self.check_lists()?;
        let survey = journal::survey(&self.rows()).map_err(|error| failed(&self.rows(), &error))?;
        for tear in survey.tears {
            set_aside(&tear).map_err(|error| failed(&tear.journal, &error))?;
            cut(&tear).map_err(|error| failed(&tear.journal, &error))?;
        }
        Ok(())
    }
}

/// What is known of a store before its database is opened.
#[derive(Clone, Copy, Debug)]
pub(super) struct Recovered {
    /// What the tail says.
    pub(super) mark: Mark,
    /// The least commit that has to be there.
    pub(super) required: u64,
    /// The last commit in the journals, if there is any in them.
    pub(super) last: Option<Link>,
}

impl Recovered {
    /// Whether the row that the database has of the last commit is the right one.
    pub(super) fn check(&self, path: &Path, found: Option<Link>) -> Result<Link, OpenError> {
        let found = found.unwrap_or_default();
        if self.last.is_some_and(|last| last != found) || found.number < self.required {
            let expected = self.last.map_or(self.required, |last| last.number.max(self.required));
            let what =
                format!("its last commit should be {expected} or later and is {}", found.number);
            return Err(broken(path, what));
        }
        Ok(found)
    }
}

/// What to do about what the journals hold.
#[derive(Debug)]
enum Verdict {
    /// Everything can be read.
    Sound,
    /// The last write was cut short and had not been committed.
    Cut(Tear),
    /// The same, as far as can be told before the database is open.
    CutAndSee(Tear),
    /// Something that had been committed is not there.
    Broken(String),
}

fn judge(survey: &Survey, required: u64) -> Verdict {
    if let Some((before, after)) = survey.gap {
        return Verdict::Broken(format!(
            "commits between {} and {} are missing{}",
            before.number,
            after.number,
            places(&survey.tears)
        ));
    }
    // Older journals were complete and synced before the next was begun.
    if survey.tears.iter().any(|tear| !tear.newest) {
        return Verdict::Broken(format!("commits are missing{}", places(&survey.tears)));
    }
    if let Some(last) = survey.last
        && last.number < required
    {
        return Verdict::Broken(format!(
            "commits {} to {required} are missing{}",
            last.number + 1,
            places(&survey.tears)
        ));
    }
    match survey.tears.first() {
        None => Verdict::Sound,
        Some(tear) if survey.last.is_some() => Verdict::Cut(tear.clone()),
        Some(tear) => Verdict::CutAndSee(tear.clone()),
    }
}

fn places(tears: &[Tear]) -> String {
    tears
        .iter()
        .map(|tear| format!("; {} cannot be read from byte {}", shown(&tear.journal), tear.at))
        .collect()
}

fn cut(tear: &Tear) -> io::Result<()> {
    let file = OpenOptions::new().write(true).open(&tear.journal)?;
    file.set_len(tear.at)?;
    file.sync_all()
}

fn set_aside(tear: &Tear) -> io::Result<()> {
    let copy = tear.journal.with_extension("jnl.damaged");
    fs::copy(&tear.journal, copy).map(drop)
}

/// Where the database of the store at `path` is.
pub(super) fn rows(path: &Path) -> PathBuf {
    path.join("rows")
}

fn lock(path: &Path) -> Result<File, OpenError> {
    let place = path.join("lock");
    let file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .open(&place)
        .map_err(|error| failed(&place, &error))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(OpenError::InUse { path: shown(path) }),
        Err(TryLockError::Error(error)) => Err(failed(&place, &error)),
    }
}

/// How many partitions the store at `path` has; `None` if there is no store.
pub(super) fn stored_partitions(path: &Path) -> Result<Option<u16>, OpenError> {
    let place = path.join("FORMAT");
    let text = match fs::read_to_string(&place) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(failed(&place, &error)),
    };
    let refuse = |what: String| OpenError::Format { path: shown(path), what };
    let mut words = text.split_whitespace();
    let mut number = |name: &str| {
        (words.next() == Some(name)).then(|| words.next()?.parse::<u32>().ok()).flatten()
    };
    match number(FORMAT_NAME) {
        Some(FORMAT) => {}
        Some(newer) if newer > FORMAT => {
            return Err(refuse(format!(
                "it has format {newer}, and this version reads {FORMAT}: use the version that made it, or a newer one"
            )));
        }
        _ => return Err(refuse("its file `FORMAT` cannot be read".into())),
    }
    match number("partitions").and_then(|count| u16::try_from(count).ok()) {
        Some(count) => Ok(Some(count)),
        None => Err(refuse("its file `FORMAT` names no number of partitions".into())),
    }
}

/// Takes away what a first start has left that did not come to its end.
fn clear_unfinished(path: &Path) -> Result<(), OpenError> {
    let tail = path.join("tail");
    let begun = Tail::read(&tail).ok().flatten().is_some_and(|mark| mark.number > 0);
    let mut names = fs::read_dir(path)
        .and_then(|entries| {
            entries.map(|entry| Ok(entry?.file_name())).collect::<io::Result<Vec<_>>>()
        })
        .map_err(|error| failed(path, &error))?;
    names.retain(|name| !["lock", "tail", "rows", "FORMAT.new"].iter().any(|own| name == own));
    if begun || !names.is_empty() {
        let what = match names.first() {
            Some(name) => format!("it is no store, and not empty: it has {}", name.display()),
            None => "its file `FORMAT` is missing".into(),
        };
        return Err(OpenError::Format { path: shown(path), what });
    }
    for place in [rows(path), tail] {
        let removed =
            if place.is_dir() { fs::remove_dir_all(&place) } else { fs::remove_file(&place) };
        match removed {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(failed(&place, &error));
            }
            _ => {}
        }
    }
    Ok(())
}

pub(super) fn shown(path: &Path) -> String {
    path.display().to_string()
}

/// Whether there is hardly any space left for what is written at a start.
pub(super) fn is_full(path: &Path) -> bool {
    free_bytes(path).is_ok_and(|free| free < WRITTEN_AT_START)
}

fn free_bytes(path: &Path) -> rustix::io::Result<u64> {
    let space = rustix::fs::statvfs(path)?;
    Ok(space.f_bavail.saturating_mul(space.f_frsize))
}

pub(super) fn failed(path: &Path, error: &dyn std::fmt::Display) -> OpenError {
    OpenError::Io { path: shown(path), error: error.to_string() }
}

pub(super) fn broken(path: &Path, what: String) -> OpenError {
    OpenError::Broken { path: shown(path), what }
}
