use std::fs;

use super::*;

const SETTLE: Duration = Duration::from_secs(5);

struct Folder {
    at: tempfile::TempDir,
    now: Instant,
}

impl Folder {
    fn new() -> Self {
        Self { at: tempfile::tempdir().unwrap(), now: Instant::now() }
    }

    fn path(&self) -> PathBuf {
        self.at.path().join("file")
    }

    fn write_in_place(&self, content: &str) {
        fs::write(self.path(), content).unwrap();
    }

    fn replace(&self, content: &str) {
        fs::write(self.at.path().join("new"), content).unwrap();
        fs::rename(self.at.path().join("new"), self.path()).unwrap();
    }

    fn read(&self) -> Files {
        let path: &Path = &self.path();
        Files::read([path], 1 << 20)
    }

    /// A check this many milliseconds after the previous one.
    fn after(&mut self, millis: u64, settling: &mut Settling) -> Change {
        self.now += Duration::from_millis(millis);
        settling.check(&self.read(), self.now, SETTLE)
    }
}

#[test]
fn a_file_written_in_place_must_settle() {
    let mut folder = Folder::new();
    folder.write_in_place("allow\ndeny\n");
    let mut settling = Settling::new(folder.read(), FileKind::Pem);
    assert_eq!(folder.after(1000, &mut settling), Change::None);
    folder.write_in_place("allow\n");
    let halves = [0, 1000, 1000, 1000, 1900].map(|millis| folder.after(millis, &mut settling));
    assert_eq!(halves, [Change::Unstable; 5]);
    folder.write_in_place("allow\ndeny more\n");
    assert_eq!(
        [0, 4900, 100].map(|millis| folder.after(millis, &mut settling)),
        [Change::Unstable, Change::Unstable, Change::Stable]
    );
    settling.used(folder.read(), true);
    assert_eq!(folder.after(0, &mut settling), Change::None);
}

#[test]
fn a_new_file_must_settle_unless_it_is_a_marked_policy() {
    for (kind, is_policy) in [(FileKind::Pem, false), (FileKind::Policy, true)] {
        let mut folder = Folder::new();
        folder.write_in_place("one");
        let mut settling = Settling::new(folder.read(), kind);
        folder.replace("one");
        assert_eq!(folder.after(1000, &mut settling), Change::None, "the same content");
        folder.replace("two\n...\n");
        assert_eq!(
            [0, 50].map(|millis| folder.after(millis, &mut settling)),
            [Change::Unstable; 2]
        );
        assert_eq!(
            folder.after(50, &mut settling),
            if is_policy { Change::Stable } else { Change::Unstable }
        );
        assert_eq!(folder.after(4900, &mut settling), Change::Stable);
        settling.used(folder.read(), true);
        folder.write_in_place("in place\n...\n");
        assert_eq!(
            [0, 4900].map(|millis| folder.after(millis, &mut settling)),
            [Change::Unstable; 2],
            "in place"
        );
    }
}

#[test]
fn half_a_policy_with_a_new_inode_must_settle() {
    let mut folder = Folder::new();
    folder.write_in_place("allow\ndeny\n");
    let mut settling = Settling::new(folder.read(), FileKind::Policy);
    // Held open, so that the new file cannot get the same inode.
    let _old = fs::File::open(folder.path()).unwrap();
    fs::remove_file(folder.path()).unwrap();
    folder.write_in_place("allow\n");
    assert_eq!(
        [0, 1000, 3900].map(|millis| folder.after(millis, &mut settling)),
        [Change::Unstable; 3]
    );
    folder.write_in_place("allow\ndeny more\n");
    assert_eq!(
        [0, 4900, 100].map(|millis| folder.after(millis, &mut settling)),
        [Change::Unstable, Change::Unstable, Change::Stable]
    );
}

#[test]
fn a_swapped_link_needs_two_checks() {
    let mut folder = Folder::new();
    let link = |folder: &Folder, day: &str, content: &str| {
        fs::create_dir_all(folder.at.path().join(day)).unwrap();
        fs::write(folder.at.path().join(day).join("file"), content).unwrap();
        std::os::unix::fs::symlink(day, folder.at.path().join("tmp")).unwrap();
        fs::rename(folder.at.path().join("tmp"), folder.at.path().join("..data")).unwrap();
    };
    link(&folder, "monday", "one");
    std::os::unix::fs::symlink("..data/file", folder.path()).unwrap();
    let mut settling = Settling::new(folder.read(), FileKind::Pem);
    link(&folder, "tuesday", "two");
    assert_eq!(
        [0, 100].map(|millis| folder.after(millis, &mut settling)),
        [Change::Unstable, Change::Stable]
    );
    settling.used(folder.read(), true);
    link(&folder, "wednesday", "two");
    assert_eq!(folder.after(0, &mut settling), Change::None);
    folder.write_in_place("t");
    assert_eq!(
        [0, 4900].map(|millis| folder.after(millis, &mut settling)),
        [Change::Unstable; 2],
        "in place"
    );
    // Removed, and half of it written to a new file.
    fs::remove_file(folder.path()).unwrap();
    folder.write_in_place("w");
    assert_eq!(
        [0, 4900].map(|millis| folder.after(millis, &mut settling)),
        [Change::Unstable; 2],
        "a file where a link was"
    );
}

#[test]
fn a_file_that_did_not_exist_must_settle() {
    let mut folder = Folder::new();
    folder.write_in_place("one");
    let mut settling = Settling::new(folder.read(), FileKind::Pem);
    fs::remove_file(folder.path()).unwrap();
    assert_eq!(
        [0, 100].map(|millis| folder.after(millis, &mut settling)),
        [Change::Unstable, Change::Stable]
    );
    settling.used(folder.read(), false);
    folder.write_in_place("o");
    assert_eq!([0, 4900].map(|millis| folder.after(millis, &mut settling)), [Change::Unstable; 2]);
    folder.write_in_place("other");
    assert_eq!(
        [100, 5000].map(|millis| folder.after(millis, &mut settling)),
        [Change::Unstable, Change::Stable]
    );
}

#[test]
fn a_bundle_that_only_grows_needs_two_checks() {
    let pem =
        |name: &str| format!("-----BEGIN CERTIFICATE-----\n{name}\n-----END CERTIFICATE-----\n");
    let mut folder = Folder::new();
    folder.write_in_place(&(pem("a") + &pem("b")));
    let mut settling = Settling::new(folder.read(), FileKind::Pem);
    folder.write_in_place(&(pem("c") + &pem("b") + &pem("a")));
    assert_eq!(
        [0, 100].map(|millis| folder.after(millis, &mut settling)),
        [Change::Unstable, Change::Stable]
    );
    settling.used(folder.read(), true);
    for less in
        [pem("c") + &pem("a"), pem("c") + &pem("b") + &pem("a").replace("END", "EN"), String::new()]
    {
        folder.write_in_place(&less);
        assert_eq!(
            [0, 4900].map(|millis| folder.after(millis, &mut settling)),
            [Change::Unstable; 2],
            "{less}"
        );
    }
}

#[test]
fn without_reload_settle_a_change_is_used_immediately() {
    let folder = Folder::new();
    folder.write_in_place("one");
    let mut settling = Settling::new(folder.read(), FileKind::Pem);
    folder.write_in_place("two");
    assert_eq!(settling.check(&folder.read(), folder.now, Duration::ZERO), Change::Stable);
}

#[test]
fn a_policy_with_pem_in_it_must_settle() {
    let pem = "-----BEGIN CERTIFICATE-----\na\n-----END CERTIFICATE-----\n";
    let mut folder = Folder::new();
    folder.write_in_place(pem);
    let mut settling = Settling::new(folder.read(), FileKind::Policy);
    folder.write_in_place(&pem.repeat(2));
    assert_eq!(
        [0, 4900, 100].map(|millis| folder.after(millis, &mut settling)),
        [Change::Unstable, Change::Unstable, Change::Stable]
    );
}
