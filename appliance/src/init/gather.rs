//! Gathers what roles write to standard error into `/run/godwit/log/<role>.log`, bounded: a full file becomes
//! `<role>.log.1` (which replaces the one before) and a new one begins.

use std::fs::{self, File, OpenOptions};
use std::io::{PipeReader, PipeWriter, Read, Write};
use std::path::{Path, PathBuf};

use model::limits::LOG_ROLE_BYTES_MAX;

use super::screen;

/// A pipe whose reading end is copied to the log `name` in `folder` until every writer is gone.
pub(super) fn into_log(folder: &Path, name: &str) -> std::io::Result<PipeWriter> {
    let (reader, writer) = std::io::pipe()?;
    let log = LogFile::open(folder.join(format!("{name}.log")))?;
    std::thread::Builder::new().name(format!("log {name}")).spawn(move || copy(reader, log))?;
    Ok(writer)
}

fn copy(mut reader: PipeReader, mut log: LogFile) {
    let mut buffer = [0_u8; 4096];
    loop {
        match reader.read(&mut buffer) {
            Ok(0) => return,
            // A full /run loses lines; it never stops the role that writes them.
            Ok(length) => {
                screen::pass_on(&buffer[..length]);
                drop(log.append(&buffer[..length]));
            }
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(_) => return,
        }
    }
}

/// A log file that knows its bound.
pub(super) struct LogFile {
    path: PathBuf,
    file: File,
    written: u64,
}

impl LogFile {
    pub(super) fn open(path: PathBuf) -> std::io::Result<Self> {
        let file = OpenOptions::new().create(true).append(true).open(&path)?;
        let written = file.metadata()?.len();
        Ok(Self { path, file, written })
    }

    pub(super) fn append(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        if self.written + bytes.len() as u64 > LOG_ROLE_BYTES_MAX {
            let mut old = self.path.clone().into_os_string();
            old.push(".1");
            fs::rename(&self.path, old)?;
            *self = Self::open(self.path.clone())?;
        }
        self.file.write_all(bytes)?;
        self.written += bytes.len() as u64;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_talkative_role_never_fills_memory() {
        let folder = std::env::temp_dir().join(format!("godwit-gather-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        let mut log = LogFile::open(folder.join("role.log")).unwrap();
        let line = [b'x'; 4000];
        for _ in 0..(5 * LOG_ROLE_BYTES_MAX / 4000) {
            log.append(&line).unwrap();
        }
        let sizes: Vec<u64> = fs::read_dir(&folder).unwrap().map(|e| e.unwrap().metadata().unwrap().len()).collect();
        assert_eq!(sizes.len(), 2, "the log and the one before");
        assert!(sizes.iter().all(|size| (1..=LOG_ROLE_BYTES_MAX).contains(size)), "{sizes:?}");
        fs::remove_dir_all(&folder).unwrap();
    }
}
