//! The newest lines of a ledger, for an operator who looks now and then. Who wants every line reads the files.

use std::{
    collections::VecDeque,
    fs::{self, File},
    io::{self, BufRead, BufReader, Read},
    path::Path,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use serde::Serialize;

use crate::name::TenantName;

use super::{Line, ReadError};

/// Files that are looked at, the newest ones: with those of full length half a GiB.
const MAX_FILES: usize = 8;

/// Which lines are wanted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Selection {
    pub tenant: Option<TenantName>,
    /// Noted at this moment or later, in milliseconds since 1970.
    pub since: u64,
    /// Noted before this moment.
    pub until: u64,
    /// How many at most; the newest.
    pub limit: usize,
}

impl Selection {
    fn takes(&self, line: &Line) -> bool {
        let tenant = self.tenant.as_ref().is_none_or(|tenant| tenant.as_str() == line.tenant);
        tenant && (self.since..self.until).contains(&line.to)
    }
}

/// A line, and the start of a gateway that wrote it: within one, lines are numbered without a gap.
#[derive(Serialize)]
struct Told<'a> {
    instance: &'a str,
    #[serde(flatten)]
    line: Line,
}

/// The newest lines of a folder that are wanted, each as JSON, the oldest first: file by file, and as they were written. A
/// line that is not whole is left out.
///
/// # Errors
/// If a file cannot be read.
pub fn newest(folder: &Path, wanted: &Selection) -> Result<Vec<String>, ReadError> {
    let mut found = VecDeque::new();
    let since = UNIX_EPOCH.checked_add(Duration::from_millis(wanted.since));
    for (modified, file) in newest_files(folder)? {
        // What is older than the newest lines of a file is older than all that is written since.
        if found.len() >= wanted.limit || since.is_none_or(|since| modified < since) {
            break;
        }
        let read = lines(folder, &file, wanted, wanted.limit - found.len());
        let of_file = read.map_err(|reason| ReadError::Io { file, reason })?;
        found.extend(of_file.into_iter().rev());
    }
    Ok(found.into_iter().rev().collect())
}

fn newest_files(folder: &Path) -> Result<Vec<(SystemTime, String)>, ReadError> {
    let failed = |reason| ReadError::Io { file: ".".into(), reason };
    let entries = match fs::read_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.map_err(failed)?,
    };
    let mut files = Vec::new();
    for entry in entries {
        let entry = entry.map_err(failed)?;
        let Ok(file) = entry.file_name().into_string() else { continue };
        if file.ends_with(".jsonl") {
            files.push((entry.metadata().and_then(|metadata| metadata.modified()).map_err(failed)?, file));
        }
    }
    files.sort_by(|one, other| other.cmp(one));
    files.truncate(MAX_FILES);
    Ok(files)
}

/// The last lines of a file that are wanted.
fn lines(folder: &Path, file: &str, wanted: &Selection, limit: usize) -> io::Result<VecDeque<String>> {
    let instance = file.trim_end_matches(".jsonl").split('-').next().unwrap_or_default();
    let open = File::open(folder.join(file))?;
    let length = open.metadata()?.len();
    let mut text = BufReader::new(open.take(length));
    let mut found = VecDeque::new();
    let mut line = Vec::new();
    loop {
        line.clear();
        if text.read_until(b'\n', &mut line)? == 0 {
            return Ok(found);
        }
        // Torn by a crash, or being written now.
        let Ok(line) = serde_json::from_slice::<Line>(&line) else { continue };
        if wanted.takes(&line) {
            if found.len() == limit {
                found.pop_front();
            }
            found.push_back(serde_json::to_string(&Told { instance, line })?);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(folder: &Path, file: &str, lines: &[(u64, &str)], seconds: u64) {
        let text: String = lines
            .iter()
            .enumerate()
            .map(|(number, (to, tenant))| {
                let line = Line {
                    seq: number as u64 + 1,
                    from: *to,
                    to: *to,
                    tenant: (*tenant).to_owned(),
                    model: None,
                    outcome: "ok".into(),
                    calls: 1,
                    bytes_in: 0,
                    bytes_out: 0,
                    cpu_ns: 0,
                    peak_memory: 0,
                };
                serde_json::to_string(&line).expect("JSON") + "\n"
            })
            .collect();
        let path = folder.join(file);
        fs::write(&path, text + "{\"seq\":9,\"fr").expect("a writable folder");
        let modified = UNIX_EPOCH + Duration::from_secs(seconds);
        File::options().append(true).open(path).and_then(|file| file.set_modified(modified)).expect("a time");
    }

    fn noted(folder: &Path, tenant: Option<&str>, since: u64, until: u64, limit: usize) -> Vec<u64> {
        let tenant = tenant.map(|tenant| tenant.parse().expect("a name"));
        let lines = newest(folder, &Selection { tenant, since, until, limit }).expect("a ledger");
        let to = |line: &String| serde_json::from_str::<Line>(line).expect("a line").to;
        lines.iter().map(to).collect()
    }

    #[test]
    fn the_newest_lines_come_from_the_newest_files() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let folder = folder.path();
        assert!(noted(&folder.join("nothing"), None, 0, u64::MAX, 9).is_empty());
        write(folder, "00ff.jsonl", &[(1000, "a"), (2000, "b"), (3000, "a")], 3);
        write(folder, "aa00.jsonl", &[(4000, "a"), (5000, "b")], 5);
        write(folder, "aa00-0002.jsonl", &[(6000, "b"), (7000, "a")], 7);
        assert_eq!(noted(folder, None, 0, u64::MAX, 100), [1000, 2000, 3000, 4000, 5000, 6000, 7000]);
        assert_eq!(noted(folder, None, 0, u64::MAX, 3), [5000, 6000, 7000]);
        assert_eq!(noted(folder, Some("a"), 0, u64::MAX, 3), [3000, 4000, 7000]);
        assert_eq!(noted(folder, Some("a"), 0, 7000, 2), [3000, 4000]);
        assert_eq!(noted(folder, None, 3000, 5000, 100), [3000, 4000]);
        assert_eq!(noted(folder, Some("c"), 0, u64::MAX, 9), [0; 0]);
        let all = Selection { tenant: None, since: 0, until: u64::MAX, limit: 1 };
        assert!(newest(folder, &all).expect("a ledger")[0].starts_with("{\"instance\":\"aa00\",\"seq\":2,"));
    }
}
