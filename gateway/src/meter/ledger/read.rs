//! Reading a ledger: the sum of every line of every instance.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::{self, BufRead, BufReader, Read, Seek},
    path::Path,
};

use crate::{
    meter::{Figures, Key},
    name::NameError,
};

use super::Line;

/// Why a ledger has no sum that could be trusted.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    #[error("the ledger's file {file} cannot be read: {reason}")]
    Io { file: String, reason: io::Error },
    #[error("the ledger's file {file} is damaged at line {line}: {reason}")]
    Damaged { file: String, line: usize, reason: String },
}

/// Sums up all files of a folder. A folder that is not there has no usage.
///
/// The last line of an instance may be torn: by a crash, or because it is being written now; it is left out, with a line in
/// the log.
///
/// # Errors
/// If a file cannot be read, or a line is missing or not a line anywhere else: usage would be missing.
pub fn read(folder: &Path) -> Result<BTreeMap<Key, Figures>, ReadError> {
    let mut sum = BTreeMap::new();
    for (instance, parts) in instances(folder)? {
        let mut files = Vec::new();
        for file in parts.values() {
            files.push(Part::open(folder, file)?);
        }
        let mut reading = Reading { sum: &mut sum, seq: 0, torn: None };
        while !files.is_empty() {
            let file = files.remove(0);
            // What a later file begins with again was not durable in this one.
            let again = files.iter().filter_map(|later| later.first).min();
            reading.file(file, again)?;
        }
        if reading.torn.is_some() {
            tracing::warn!(instance, "the last line of this instance's ledger is torn and was left out");
        }
    }
    Ok(sum)
}

/// The files of each instance, by their number.
fn instances(folder: &Path) -> Result<BTreeMap<String, BTreeMap<u32, String>>, ReadError> {
    let failed = |reason| ReadError::Io { file: ".".into(), reason };
    let entries = match fs::read_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(BTreeMap::new()),
        entries => entries.map_err(failed)?,
    };
    let mut instances = BTreeMap::<String, BTreeMap<u32, String>>::new();
    for entry in entries {
        let Ok(file) = entry.map_err(failed)?.file_name().into_string() else { continue };
        let Some(stem) = file.strip_suffix(".jsonl") else { continue };
        let (instance, part) = match stem.split_once('-') {
            Some((instance, part)) => (instance, part.parse().ok()),
            None => (stem, Some(1)),
        };
        let is_instance = instance.len() == 32 && instance.bytes().all(|byte| byte.is_ascii_hexdigit());
        if let Some(part) = part.filter(|_| is_instance) {
            instances.entry(instance.to_owned()).or_default().insert(part, file);
        }
    }
    Ok(instances)
}

/// One file of an instance, as long as it was when it was opened. What is written while we read comes too late: half a line
/// of it would look like a torn one.
struct Part<'a> {
    name: &'a str,
    text: BufReader<io::Take<File>>,
    /// The number of its first line, if that is one.
    first: Option<u64>,
}

impl<'a> Part<'a> {
    fn open(folder: &Path, name: &'a str) -> Result<Self, ReadError> {
        let open = || {
            let mut file = File::open(folder.join(name))?;
            let length = file.metadata()?.len();
            let mut line = Vec::new();
            BufReader::new((&file).take(length)).read_until(b'\n', &mut line)?;
            file.rewind()?;
            let first = parse(&line).ok().map(|(seq, _, _)| seq);
            Ok(Self { name, text: BufReader::new(file.take(length)), first })
        };
        open().map_err(|reason| ReadError::Io { file: name.into(), reason })
    }
}

/// One instance, line by line.
struct Reading<'a> {
    sum: &'a mut BTreeMap<Key, Figures>,
    seq: u64,
    /// A line that is none; all is well as long as no other follows.
    torn: Option<ReadError>,
}

impl Reading<'_> {
    /// Adds up a file to its end, or to the number with which a later one begins again.
    fn file(&mut self, mut part: Part<'_>, again: Option<u64>) -> Result<(), ReadError> {
        let file = part.name;
        let failed = |reason| ReadError::Io { file: file.into(), reason };
        let mut line = Vec::new();
        for number in 1.. {
            line.clear();
            if again == Some(self.seq + 1) || part.text.read_until(b'\n', &mut line).map_err(failed)? == 0 {
                break;
            }
            if let Some(torn) = self.torn.take() {
                return Err(torn);
            }
            let damaged = |reason: String| ReadError::Damaged { file: file.into(), line: number, reason };
            match parse(&line) {
                Err(reason) => self.torn = Some(damaged(reason)),
                Ok((seq, _, _)) if seq != self.seq + 1 => {
                    return Err(damaged(format!("number {seq} follows number {}", self.seq)));
                }
                Ok((seq, key, figures)) => {
                    self.seq = seq;
                    self.sum.entry(key).or_default().add(&figures);
                }
            }
        }
        Ok(())
    }
}

fn parse(line: &[u8]) -> Result<(u64, Key, Figures), String> {
    let whole = line.strip_suffix(b"\n").ok_or("it has no end")?;
    let line: Line = serde_json::from_slice(whole).map_err(|error| error.to_string())?;
    let name = |error: NameError| error.to_string();
    let key = Key {
        tenant: line.tenant.parse().map_err(name)?,
        model: line.model.map(|model| model.parse()).transpose().map_err(name)?,
        outcome: line.outcome.into(),
    };
    let figures = Figures {
        calls: line.calls,
        bytes_in: line.bytes_in,
        bytes_out: line.bytes_out,
        cpu_nanos: line.cpu_ns,
        peak_memory_bytes: line.peak_memory,
        first_ms: line.from,
        last_ms: line.to,
    };
    Ok((line.seq, key, figures))
}
