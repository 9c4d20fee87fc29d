//! One place that lines go to, and what it has lost.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

pub(super) struct Sink {
    /// `None` for standard output, which is never opened again.
    path: Option<PathBuf>,
    file: File,
    /// Whole lines; those up to `done` are written.
    pending: Vec<u8>,
    done: usize,
    /// Lines lost since the last line that went out.
    lost: u64,
    /// What the first pending line says about losses, and where that line ends.
    told: u64,
    first_end: usize,
    /// The file ends in the middle of a line.
    torn: bool,
    written: u64,
}

impl Sink {
    pub(super) fn file(path: &Path) -> io::Result<Self> {
        Ok(Self::new(Some(path.to_owned()), open(path)?))
    }

    pub(super) fn stdout() -> io::Result<Self> {
        Ok(Self::new(None, File::from(io::stdout().as_fd().try_clone_to_owned()?)))
    }

    fn new(path: Option<PathBuf>, file: File) -> Self {
        Self { path, file, pending: Vec::new(), done: 0, lost: 0, told: 0, first_end: 0, torn: false, written: 0 }
    }

    /// Lines were lost before they came here.
    pub(super) fn lose(&mut self, lines: u64) {
        self.lost += lines;
    }

    /// Adds a line (a JSON object and its end of line) to what is to be written. The first one after a loss tells of it.
    pub(super) fn add(&mut self, line: &[u8]) {
        let first = self.pending.is_empty();
        match line.strip_suffix(b"}\n") {
            Some(object) if first && self.lost > 0 => {
                self.pending.extend_from_slice(object);
                self.pending.extend_from_slice(format!(",\"lost\":{}}}\n", self.lost).as_bytes());
                self.told = std::mem::take(&mut self.lost);
            }
            _ => self.pending.extend_from_slice(line),
        }
        if first {
            self.first_end = self.pending.len();
        }
    }

    /// Writes what is pending. After an error, a second call goes on where the first one ended.
    pub(super) fn flush(&mut self) -> io::Result<()> {
        if self.torn && !self.pending.is_empty() {
            self.file.write_all(b"\n")?;
            self.torn = false;
        }
        while let Some(rest) = self.pending.get(self.done..).filter(|rest| !rest.is_empty()) {
            match self.file.write(rest) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(bytes) => self.done += bytes,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        self.end_batch();
        Ok(())
    }

    /// Drops what is pending. Returns how many lines that loses.
    pub(super) fn give_up(&mut self) -> u64 {
        let lost = lines(self.pending.get(self.done..).unwrap_or_default());
        self.torn |= self.line_start() != self.done;
        self.lost += lost + if self.done < self.first_end { self.told } else { 0 };
        self.pending.truncate(self.done);
        self.end_batch();
        lost
    }

    /// Lines written since the last call.
    pub(super) fn take_written(&mut self) -> u64 {
        std::mem::take(&mut self.written)
    }

    /// Opens the file by its path again. A line that is half in the old file goes into the new one as a whole.
    pub(super) fn reopen(&mut self) -> io::Result<()> {
        if let Some(path) = &self.path {
            self.file = open(path)?;
            self.done = self.line_start();
            self.torn = false;
        }
        Ok(())
    }

    /// Where the line begins in which `done` stands.
    fn line_start(&self) -> usize {
        let written = self.pending.get(..self.done).unwrap_or_default();
        written.iter().rposition(|byte| *byte == b'\n').map_or(0, |end| end + 1)
    }

    fn end_batch(&mut self) {
        self.written += lines(&self.pending);
        self.pending.clear();
        (self.done, self.told, self.first_end) = (0, 0, 0);
    }
}

fn lines(bytes: &[u8]) -> u64 {
    bytes.iter().map(|byte| u64::from(*byte == b'\n')).sum()
}

fn open(path: &Path) -> io::Result<File> {
    let file = OpenOptions::new().append(true).create(true).mode(0o640).open(path);
    file.map_err(|error| io::Error::new(error.kind(), format!("audit file `{}`: {error}", path.display())))
}
