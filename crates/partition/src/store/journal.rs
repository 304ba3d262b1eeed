//! Reads the journals of fjall before fjall does, and begins another one for it.
//!
//! fjall takes the first thing it cannot read for the end of a journal and cuts the file there, whether that
//! is a write that was cut short or a flipped bit in the middle. This finds out which, by the
//! [chain](super::chain). Knows version 3 of the format; another one does not get here, for the
//! database names its version.

use std::fs::{self, File};
use std::io::{self, BufReader, ErrorKind, Read, Seek, SeekFrom};
use std::ops::Range;
use std::path::{Path, PathBuf};

use xxhash_rust::xxh3::Xxh3;

use crate::store::chain::{self, Link, Seal};

const START: u8 = 1;
const ITEM: u8 = 2;
const END: u8 = 3;
const PUT: u8 = 0;
const MAGIC: &[u8; 4] = b"FJL\x03";
/// Tag, kind, compression, keyspace, and the lengths of key, value and stored value.
const ITEM_HEAD: u64 = 21;

const BUFFER: usize = 256 * 1024;

/// What the journals hold.
#[derive(Debug, Default)]
pub(super) struct Survey {
    /// The last commit that can be read.
    pub(super) last: Option<Link>,
    /// Two commits that should follow each other and do not.
    pub(super) gap: Option<(Link, Link)>,
    /// Places where something stands that cannot be read, the first of each journal.
    pub(super) tears: Vec<Tear>,
    /// How many commits can be read.
    pub(super) commits: u64,
    /// So many bytes of the newest journal are commits.
    pub(super) newest_bytes: u64,
}

/// Something that cannot be read.
#[derive(Clone, Debug)]
pub(super) struct Tear {
    /// In which file.
    pub(super) journal: PathBuf,
    /// From which byte on.
    pub(super) at: u64,
    /// Whether the file is the one that was written last.
    pub(super) newest: bool,
}

/// Reads all journals in `folder`.
pub(super) fn survey(folder: &Path) -> io::Result<Survey> {
    let mut survey = Survey::default();
    // After a loss of power that left nothing of a new store's rows fjall begins with 0 again.
    let mut seqno = None;
    let journals = journals(folder)?;
    for (index, path) in journals.iter().enumerate() {
        let mut journal = Journal::open(path)?;
        let stopped_at = loop {
            let at = journal.position;
            match journal.commit() {
                // Else fjall would put it in another place.
                Ok(commit) if seqno.is_none_or(|before| commit.seqno > before) => {
                    seqno = Some(commit.seqno);
                    survey.add(commit.link);
                }
                Ok(_) => break at,
                Err(Stop::Unreadable) => break at,
                Err(Stop::Io(error)) => return Err(error),
            }
        };
        survey.newest_bytes = stopped_at;
        if !journal.is_blank_from(stopped_at)? {
            survey.tears.push(Tear {
                journal: path.clone(),
                at: stopped_at,
                newest: index + 1 == journals.len(),
            });
        }
    }
    Ok(survey)
}

/// The journal that is written to.
pub(super) fn newest(folder: &Path) -> io::Result<Option<PathBuf>> {
    Ok(journals(folder)?.pop())
}

/// Whether a journal was begun.
#[derive(Debug)]
pub(super) enum Begun {
    Yes,
    /// Everything is as it was.
    No(io::Error),
}

/// Begins a journal behind the newest one. fjall takes all before the last for complete: it writes out what is in
/// them when it opens, and removes them.
///
/// # Errors
/// The newest one cannot be synced, or the one behind it is neither there for sure nor away.
pub(super) fn begin_another(folder: &Path) -> io::Result<Begun> {
    let newest = numbered(folder)?.pop();
    let Some((number, newest)) = newest.filter(|(number, _)| *number < u64::MAX) else {
        return Ok(Begun::No(io::Error::other("there is no number for it")));
    };
    File::open(newest)?.sync_all()?;
    let place = folder.join(format!("{}.jnl", number + 1));
    let file = match File::create_new(&place) {
        Ok(file) => file,
        Err(error) => return Ok(Begun::No(error)),
    };
    match file.sync_all().and_then(|()| File::open(folder)?.sync_all()) {
        Ok(()) => Ok(Begun::Yes),
        Err(error) => {
            fs::remove_file(&place)?;
            Ok(Begun::No(error))
        }
    }
}

/// All journals, the oldest first.
fn journals(folder: &Path) -> io::Result<Vec<PathBuf>> {
    Ok(numbered(folder)?.into_iter().map(|(_, path)| path).collect())
}

fn numbered(folder: &Path) -> io::Result<Vec<(u64, PathBuf)>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "jnl")
            && let Some(number) =
                path.file_stem().and_then(|stem| stem.to_str()?.parse::<u64>().ok())
        {
            found.push((number, path));
        }
    }
    found.sort_unstable();
    Ok(found)
}

impl Survey {
    fn add(&mut self, link: Link) {
        if let Some(last) = self.last
            && !link.follows(&last)
        {
            self.gap.get_or_insert((last, link));
        }
        self.last = Some(link);
        self.commits += 1;
    }
}

/// Why reading ended.
enum Stop {
    /// Here is no whole commit.
    Unreadable,
    /// The file cannot be read.
    Io(io::Error),
}

impl From<io::Error> for Stop {
    fn from(error: io::Error) -> Self {
        if error.kind() == ErrorKind::UnexpectedEof { Self::Unreadable } else { Self::Io(error) }
    }
}

struct Commit {
    /// By which fjall orders it.
    seqno: u64,
    link: Link,
}

/// Where in the bytes of an item its parts are.
struct Item {
    key: Range<usize>,
    /// `None`: the row is taken out.
    value: Option<Range<usize>>,
}

struct Journal {
    reader: BufReader<File>,
    length: u64,
    position: u64,
    item: Vec<u8>,
}

impl Journal {
    fn open(path: &Path) -> io::Result<Self> {
        let file = File::open(path)?;
        let length = file.metadata()?.len();
        let reader = BufReader::with_capacity(BUFFER, file);
        Ok(Self { reader, length, position: 0, item: Vec::new() })
    }

    /// The next commit. After an error the position is anywhere.
    fn commit(&mut self) -> Result<Commit, Stop> {
        let [tag] = self.bytes()?;
        if tag != START {
            return Err(Stop::Unreadable);
        }
        let items = u32::from_le_bytes(self.bytes()?);
        let seqno = u64::from_le_bytes(self.bytes()?);
        let mut written = Xxh3::new();
        let mut seal = Seal::new();
        let mut link = None;
        for _ in 0..items {
            let Item { key, value } = self.item()?;
            written.update(&self.item);
            let value = value.map(|value| &self.item[value]);
            if self.item[key.clone()] == *chain::KEY {
                link = value.and_then(Link::decode);
            } else {
                seal.row(&self.item[key], value);
            }
        }
        let [tag] = self.bytes()?;
        let checksum = u64::from_le_bytes(self.bytes()?);
        let magic: [u8; 4] = self.bytes()?;
        let whole = tag == END && checksum == written.digest() && magic == *MAGIC;
        match link {
            Some(link) if whole && link.can_have(seqno) && seal.close(link) == link => {
                Ok(Commit { seqno, link })
            }
            _ => Err(Stop::Unreadable),
        }
    }

    /// Reads an item and says where in it key and value are.
    fn item(&mut self) -> Result<Item, Stop> {
        self.item.clear();
        self.read(ITEM_HEAD)?;
        let head = &self.item;
        let key_length = usize::from(u16::from_le_bytes([head[11], head[12]]));
        let stored = u32::from_le_bytes([head[17], head[18], head[19], head[20]]);
        let (tag, kind, compression) = (head[0], head[1], head[2]);
        if tag != ITEM || compression != 0 {
            return Err(Stop::Unreadable);
        }
        self.read(key_length as u64 + u64::from(stored))?;
        let key = ITEM_HEAD as usize..ITEM_HEAD as usize + key_length;
        let value = (kind == PUT).then_some(key.end..self.item.len());
        Ok(Item { key, value })
    }

    /// Adds so many bytes to the item.
    fn read(&mut self, length: u64) -> Result<(), Stop> {
        // A damaged length must not become memory.
        if length > self.length.saturating_sub(self.position) {
            return Err(Stop::Unreadable);
        }
        let read = (&mut self.reader).take(length).read_to_end(&mut self.item)? as u64;
        self.position += read;
        if read == length { Ok(()) } else { Err(Stop::Unreadable) }
    }

    fn bytes<const N: usize>(&mut self) -> Result<[u8; N], Stop> {
        let mut bytes = [0; N];
        self.reader.read_exact(&mut bytes)?;
        self.position += N as u64;
        Ok(bytes)
    }

    /// Whether there are only zeros: journals are made longer than what is in them.
    fn is_blank_from(&mut self, at: u64) -> io::Result<bool> {
        self.reader.seek(SeekFrom::Start(at))?;
        let zeros = vec![0; BUFFER];
        let mut buffer = vec![0; BUFFER];
        loop {
            match self.reader.read(&mut buffer)? {
                0 => return Ok(true),
                read if buffer[..read] != zeros[..read] => return Ok(false),
                _ => {}
            }
        }
    }
}
