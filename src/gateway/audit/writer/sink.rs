//! One output of audit lines: a file, or standard output. It keeps count of lost lines.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::FileTypeExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

/// Help for a path that cannot be an audit file.
const HELP: &str = "name a regular file, or use `audit-stdout` and redirect standard output";

pub(super) struct Sink {
    /// `None` for standard output, which cannot be reopened.
    path: Option<PathBuf>,
    file: File,
    /// Complete lines.
    pending: Vec<u8>,
    /// Bytes of `pending` that are written.
    written_bytes: usize,
    /// Lost lines that no written line has reported.
    lost: u64,
    /// Lost lines that the first pending line reports.
    reported: u64,
    /// Where the first pending line ends.
    first_end: usize,
    /// The file ends with an incomplete line.
    torn: bool,
    /// Lines written since the last [`Sink::take_written`].
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
        Self {
            path,
            file,
            pending: Vec::new(),
            written_bytes: 0,
            lost: 0,
            reported: 0,
            first_end: 0,
            torn: false,
            written: 0,
        }
    }

    /// Counts lines that were lost before they reached this sink.
    pub(super) fn count_lost(&mut self, lines: u64) {
        self.lost += lines;
    }

    /// Adds a line (a JSON object and its end of line) to the pending ones. The first one after a
    /// loss gets the field `lost`.
    pub(super) fn add(&mut self, line: &[u8]) {
        let first = self.pending.is_empty();
        match line.strip_suffix(b"}\n") {
            Some(object) if first && self.lost > 0 => {
                self.pending.extend_from_slice(object);
                self.pending.extend_from_slice(format!(",\"lost\":{}}}\n", self.lost).as_bytes());
                self.reported = std::mem::take(&mut self.lost);
            }
            _ => self.pending.extend_from_slice(line),
        }
        if first {
            self.first_end = self.pending.len();
        }
    }

    /// Writes the pending lines. After an error, the next call continues where this one stopped.
    pub(super) fn flush(&mut self) -> io::Result<()> {
        if self.torn && !self.pending.is_empty() {
            self.file.write_all(b"\n")?;
            self.torn = false;
        }
        while let Some(rest) =
            self.pending.get(self.written_bytes..).filter(|rest| !rest.is_empty())
        {
            match self.file.write(rest) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(bytes) => self.written_bytes += bytes,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        self.end_batch();
        Ok(())
    }

    /// Drops the pending lines. Returns how many are lost.
    pub(super) fn give_up(&mut self) -> u64 {
        let lost = lines(self.pending.get(self.written_bytes..).unwrap_or_default());
        self.torn |= self.line_start() != self.written_bytes;
        self.lost += lost + if self.written_bytes < self.first_end { self.reported } else { 0 };
        self.pending.truncate(self.written_bytes);
        self.end_batch();
        lost
    }

    /// Lines written since the last call.
    pub(super) fn take_written(&mut self) -> u64 {
        std::mem::take(&mut self.written)
    }

    /// Opens the file by its path again. A line that the old file has only in part is written to
    /// the new one as a whole.
    pub(super) fn reopen(&mut self) -> io::Result<()> {
        if let Some(path) = &self.path {
            self.file = open(path)?;
            self.written_bytes = self.line_start();
            self.torn = false;
        }
        Ok(())
    }

    /// Where the line begins that is written in part.
    fn line_start(&self) -> usize {
        let written = self.pending.get(..self.written_bytes).unwrap_or_default();
        written.iter().rposition(|byte| *byte == b'\n').map_or(0, |end| end + 1)
    }

    fn end_batch(&mut self) {
        self.written += lines(&self.pending);
        self.pending.clear();
        (self.written_bytes, self.reported, self.first_end) = (0, 0, 0);
    }
}

fn lines(bytes: &[u8]) -> u64 {
    bytes.iter().map(|byte| u64::from(*byte == b'\n')).sum()
}

/// Opens for appending. Does not wait for another process: without `O_NONBLOCK`, opening a pipe
/// waits for its reader (fifo(7)).
///
/// # Errors
/// The file cannot be opened, or is a directory, a socket, a block device, or a pipe without a
/// reader. The message names it.
fn open(path: &Path) -> io::Result<File> {
    open_appending(path).map_err(|error| {
        io::Error::new(error.kind(), format!("audit file `{}`: {error}", path.display()))
    })
}

fn open_appending(path: &Path) -> io::Result<File> {
    let refuse = |what: &str| {
        Err(io::Error::new(io::ErrorKind::InvalidInput, format!("is a {what}: {HELP}")))
    };
    let flags = OFlags::WRONLY
        | OFlags::APPEND
        | OFlags::CREATE
        | OFlags::NONBLOCK
        | OFlags::NOCTTY
        | OFlags::CLOEXEC;
    let file = match rustix::fs::open(path, flags, Mode::from_raw_mode(0o640)) {
        Ok(file) => File::from(file),
        Err(Errno::ISDIR) => return refuse("directory"),
        // open(2): a pipe without a reader, a socket, or a device that does not exist.
        Err(Errno::NXIO) => return refuse("pipe that no process reads, or a socket"),
        Err(error) => return Err(error.into()),
    };
    if file.metadata()?.file_type().is_block_device() {
        return refuse("disk");
    }
    // Writing waits for a slow pipe or terminal, as it does for a disk.
    rustix::fs::fcntl_setfl(&file, rustix::fs::fcntl_getfl(&file)? - OFlags::NONBLOCK)?;
    Ok(file)
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::os::fd::OwnedFd;
    use std::os::unix::net::UnixStream;

    use super::*;

    /// A sink that writes a part of a batch and then fails (`EAGAIN`), and the socket to read it
    /// from.
    fn limited_sink() -> (Sink, UnixStream) {
        let (ours, theirs) = UnixStream::pair().unwrap();
        ours.set_nonblocking(true).unwrap();
        theirs.set_nonblocking(true).unwrap();
        (Sink::new(None, File::from(OwnedFd::from(ours))), theirs)
    }

    fn drain(reader: &mut UnixStream) -> String {
        let mut bytes = Vec::new();
        if let Err(error) = reader.read_to_end(&mut bytes) {
            assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
        }
        String::from_utf8(bytes).unwrap()
    }

    fn fifo(path: &Path) {
        rustix::fs::mknodat(
            rustix::fs::CWD,
            path,
            rustix::fs::FileType::Fifo,
            Mode::from_raw_mode(0o600),
            0,
        )
        .unwrap();
    }

    fn add_thousands(sink: &mut Sink) -> String {
        let lines: Vec<_> = (0..20_000)
            .map(|id| format!("{{\"id\":{id},\"filler\":\"{}\"}}\n", "x".repeat(90)))
            .collect();
        lines.iter().for_each(|line| sink.add(line.as_bytes()));
        lines.concat()
    }

    #[test]
    fn a_retry_continues_where_the_first_attempt_stopped() {
        let (mut sink, mut reader) = limited_sink();
        let all = add_thousands(&mut sink);
        let mut text = String::new();
        let mut attempts = 0;
        while sink.flush().is_err() {
            text += &drain(&mut reader);
            attempts += 1;
        }
        text += &drain(&mut reader);
        assert!(attempts > 0);
        assert!(text == all, "{} of {} bytes", text.len(), all.len());
        assert_eq!(sink.take_written(), 20_000);
    }

    #[test]
    fn reports_lost_lines_and_ends_an_incomplete_line() {
        let (mut sink, mut reader) = limited_sink();
        sink.count_lost(5);
        let _ = add_thousands(&mut sink);
        assert!(sink.flush().is_err());
        let lost = sink.give_up();
        let mut text = drain(&mut reader);
        let whole = text.matches('\n').count() as u64;
        assert_eq!((whole + lost, sink.take_written()), (20_000, whole));
        assert!(!text.ends_with('\n'), "this test needs a torn line");
        sink.add(b"{\"id\":1}\n");
        sink.flush().unwrap();
        text += &drain(&mut reader);
        assert!(
            text.starts_with(&format!(
                "{{\"id\":0,\"filler\":\"{}\",\"lost\":5}}\n",
                "x".repeat(90)
            ))
        );
        assert!(text.ends_with(&format!("\n{{\"id\":1,\"lost\":{lost}}}\n")));
    }

    #[test]
    fn a_report_that_is_lost_is_repeated() {
        let mut sink =
            Sink::new(None, std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap());
        sink.count_lost(5);
        sink.add(b"{\"id\":1}\n");
        assert!(sink.flush().is_err());
        assert_eq!((sink.give_up(), sink.lost), (1, 6));
    }

    #[test]
    fn a_new_file_begins_with_a_complete_line() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("audit.json");
        let (mut sink, mut reader) = limited_sink();
        let all = add_thousands(&mut sink);
        assert!(sink.flush().is_err());
        sink.path = Some(path.clone());
        sink.reopen().unwrap();
        sink.flush().unwrap();
        let old = drain(&mut reader);
        let (whole, _torn) = old.rsplit_once('\n').unwrap();
        assert!(format!("{whole}\n{}", std::fs::read_to_string(path).unwrap()) == all);
    }

    #[test]
    fn refuses_files_that_are_not_writable_without_waiting() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        for pipe in ["pipe", "read"] {
            fifo(&at(pipe));
        }
        let _reader =
            rustix::fs::open(at("read"), OFlags::RDONLY | OFlags::NONBLOCK, Mode::empty()).unwrap();
        let _socket = std::os::unix::net::UnixListener::bind(at("socket")).unwrap();
        std::os::unix::fs::symlink(at("pipe"), at("link")).unwrap();
        for (name, what) in
            [("pipe", "pipe"), ("link", "pipe"), ("socket", "socket"), (".", "directory")]
        {
            let error = Sink::file(&at(name)).err().unwrap().to_string();
            let path = at(name).display().to_string();
            assert!(
                error.contains(&path) && error.contains(what) && error.ends_with(HELP),
                "{name}: {error}"
            );
        }
        for path in [at("file"), at("read"), "/dev/null".into()] {
            let mut sink = Sink::file(&path).unwrap();
            sink.add(b"{}\n");
            sink.flush().unwrap();
            let flags = rustix::fs::fcntl_getfl(&sink.file).unwrap();
            assert!(
                flags.contains(OFlags::APPEND) && !flags.contains(OFlags::NONBLOCK),
                "{flags:?}"
            );
        }
    }

    #[test]
    fn reopening_an_unread_pipe_keeps_the_old_file() {
        let folder = tempfile::tempdir().unwrap();
        let (path, old) = (folder.path().join("audit"), folder.path().join("old"));
        let mut sink = Sink::file(&path).unwrap();
        std::fs::rename(&path, &old).unwrap();
        fifo(&path);
        assert!(sink.reopen().is_err());
        sink.add(b"{}\n");
        sink.flush().unwrap();
        assert_eq!(std::fs::read_to_string(old).unwrap(), "{}\n");
    }
}
