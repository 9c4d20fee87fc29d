//! One place that lines go to, and what it has lost.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::FileTypeExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

/// What an operator does about a file that cannot take audit lines.
const WHAT_TO_DO: &str = "name a regular file, or use `audit-stdout` and redirect standard output";

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
        Self {
            path,
            file,
            pending: Vec::new(),
            done: 0,
            lost: 0,
            told: 0,
            first_end: 0,
            torn: false,
            written: 0,
        }
    }

    /// Lines were lost before they came here.
    pub(super) fn lose(&mut self, lines: u64) {
        self.lost += lines;
    }

    /// Adds a line (a JSON object and its end of line) to what is to be written. The first one
    /// after a loss tells of it.
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

    /// Opens the file by its path again. A line that is half in the old file goes into the new one
    /// as a whole.
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

/// Opens for appending, without waiting for another process: opening a pipe waits for its reader
/// otherwise (fifo(7)).
///
/// # Errors
/// The file cannot be opened, or is a directory, a socket, a disk, or a pipe without a reader. The
/// message names it.
fn open(path: &Path) -> io::Result<File> {
    appending(path).map_err(|error| {
        io::Error::new(error.kind(), format!("audit file `{}`: {error}", path.display()))
    })
}

fn appending(path: &Path) -> io::Result<File> {
    let refuse = |what: &str| {
        Err(io::Error::new(io::ErrorKind::InvalidInput, format!("is a {what}: {WHAT_TO_DO}")))
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
        // open(2): nothing else has this error, but for a device that is not there.
        Err(Errno::NXIO) => return refuse("pipe that no process reads, or a socket"),
        Err(error) => return Err(error.into()),
    };
    if file.metadata()?.file_type().is_block_device() {
        return refuse("disk");
    }
    // A pipe or a terminal that is slow is waited for, as a disk is.
    rustix::fs::fcntl_setfl(&file, rustix::fs::fcntl_getfl(&file)? - OFlags::NONBLOCK)?;
    Ok(file)
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::os::fd::OwnedFd;
    use std::os::unix::net::UnixStream;

    use super::*;

    /// A sink that takes a part of a batch and then fails (`EAGAIN`), and its other end.
    fn narrow() -> (Sink, UnixStream) {
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
    fn a_second_attempt_goes_on_where_the_first_one_ended() {
        let (mut sink, mut reader) = narrow();
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
    fn what_is_given_up_is_told_of_and_a_torn_line_stands_alone() {
        let (mut sink, mut reader) = narrow();
        sink.lose(5);
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
    fn a_loss_whose_telling_is_lost_is_told_again() {
        let mut sink =
            Sink::new(None, std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap());
        sink.lose(5);
        sink.add(b"{\"id\":1}\n");
        assert!(sink.flush().is_err());
        assert_eq!((sink.give_up(), sink.lost), (1, 6));
    }

    #[test]
    fn a_new_file_begins_with_a_whole_line() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("audit.json");
        let (mut sink, mut reader) = narrow();
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
    fn what_no_line_can_be_written_to_is_refused_without_a_wait() {
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
                error.contains(&path) && error.contains(what) && error.ends_with(WHAT_TO_DO),
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
    fn an_unread_pipe_in_the_files_place_leaves_the_old_one() {
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
