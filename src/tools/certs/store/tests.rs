use super::*;
use std::os::unix::fs::MetadataExt as _;
use zeroize::Zeroizing;

fn new_file(path: &str, content: &str) -> NewFile {
    NewFile {
        path: path.into(),
        content: Zeroizing::new(content.to_owned()),
        secret: path.ends_with(KEY_FILE),
        owner: None,
    }
}

fn open(folder: &Path) -> (Store, Option<Diagnostics>) {
    Store::open(folder).unwrap_or_else(|errors| panic!("{errors}"))
}

fn text(folder: &Path, path: &str) -> String {
    fs::read_to_string(folder.join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

fn set(content: &str) -> Vec<NewFile> {
    [CA_FILE, KEY_FILE, CERT_FILE]
        .map(|name| new_file(&format!("nodes/n1/cni/{name}"), content))
        .into()
}

#[test]
fn files_are_put_in_place_and_keys_are_private() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path().join("new/folder");
    let (store, note) = open(&folder);
    assert!(note.is_none());
    store.put(&set("1")).unwrap();
    store.put(&[new_file("nodes/n2/etcd-key", "2")]).unwrap();
    store.put(&set("3")).unwrap();
    assert_eq!(text(&folder, "nodes/n1/cni/etcd-key"), "3");
    assert_eq!(text(&folder, "nodes/n2/etcd-key"), "2");
    let mode = |path: &str| folder.join(path).metadata().unwrap().mode() & 0o777;
    assert_eq!(
        (mode("nodes/n1/cni/etcd-key"), mode("nodes/n1/cni"), mode("")),
        (0o600, 0o700, 0o700)
    );
    assert_eq!(fs::read_dir(&folder).unwrap().count(), 1, "nothing is left over");
}

/// Interrupts a run at each of its renames: all files are complete, and the next run finishes.
#[test]
fn an_interrupted_run_is_completed_by_the_next_one() {
    let old = [CA_FILE, KEY_FILE, CERT_FILE];
    for renames in 0..=old.len() {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path();
        open(folder).0.put(&set("old")).unwrap();
        let store = open(folder).0;
        store.stage(&set("new").iter().collect::<Vec<_>>()).map_err(|(_, error)| error).unwrap();
        fs::rename(folder.join(STAGED), folder.join(COMPLETE)).unwrap();
        for name in old.iter().take(renames) {
            let path = format!("nodes/n1/cni/{name}");
            fs::rename(folder.join(COMPLETE).join(&path), folder.join(&path)).unwrap();
        }
        for name in old {
            assert!(
                ["old", "new"].contains(&text(folder, &format!("nodes/n1/cni/{name}")).as_str())
            );
        }
        drop(store);
        let (_, note) = open(folder);
        assert!(note.unwrap().to_string().contains("an earlier run was interrupted"));
        for name in old {
            assert_eq!(text(folder, &format!("nodes/n1/cni/{name}")), "new");
        }
        assert!(!folder.join(COMPLETE).exists());
    }
}

#[test]
fn an_incomplete_staging_directory_is_removed() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path()).0;
    store.stage(&set("new").iter().collect::<Vec<_>>()).map_err(|(_, error)| error).unwrap();
    drop(store);
    assert!(open(folder.path()).1.is_none());
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
}

/// A user who may write to the directory must not make root write elsewhere, or put in place a file
/// that root has not written.
#[test]
fn a_staging_directory_of_another_user_is_refused() {
    let outside = tempfile::tempdir().unwrap();
    let planted = outside.path().join("planted");
    fs::create_dir(&planted).unwrap();
    fs::write(planted.join("etcd-cert"), "planted").unwrap();
    for name in [STAGED, COMPLETE] {
        let folder = tempfile::tempdir().unwrap();
        let at = folder.path().join(name);
        let refused = |why: &str| {
            let report = Store::open(folder.path()).unwrap_err().to_string();
            assert!(report.contains(why) && report.contains("inspect and remove it"), "{report}");
            assert!(
                !folder.path().join("etcd-cert").exists() && planted.join("etcd-cert").exists()
            );
        };
        std::os::unix::fs::symlink(&planted, &at).unwrap();
        refused("is a symbolic link");
        fs::remove_file(&at).unwrap();
        std::os::unix::fs::symlink("nowhere", &at).unwrap();
        refused("is a symbolic link");
        fs::remove_file(&at).unwrap();
        fs::create_dir(&at).unwrap();
        fs::set_permissions(&at, Permissions::from_mode(0o777)).unwrap();
        refused("with mode 0777");
        // A directory of this user that was renamed, as with `mv nodes
        // .etcd-warden-staged`.
        fs::set_permissions(&at, Permissions::from_mode(0o700)).unwrap();
        fs::write(at.join("etcd-key"), "mine").unwrap();
        refused("has no marker file");
        assert!(at.join("etcd-key").exists());
        fs::remove_file(at.join("etcd-key")).unwrap();
        // A directory of another user, if this test may change owners.
        if std::os::unix::fs::chown(&at, Some(65534), None).is_ok() {
            refused("belongs to user 65534");
        }
    }
}

#[test]
fn a_pipe_in_place_of_a_file_does_not_block() {
    let folder = tempfile::tempdir().unwrap();
    let (store, _) = open(folder.path());
    let made = std::process::Command::new("mkfifo")
        .arg(folder.path().join("etcd-ca"))
        .status()
        .expect("mkfifo (coreutils) is needed for this test");
    assert!(made.success());
    store.put(&[new_file("etcd-ca", "1")]).unwrap();
    assert_eq!(text(folder.path(), "etcd-ca"), "1");
}

#[test]
fn files_are_not_written_through_links() {
    let (folder, outside) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let elsewhere = outside.path().join("n1");
    fs::create_dir(&elsewhere).unwrap();
    let (store, _) = open(folder.path());
    std::os::unix::fs::symlink(outside.path(), folder.path().join("nodes")).unwrap();
    let places: Vec<PathBuf> = set("new").iter().map(|file| file.path.clone()).collect();
    assert!(
        obstacles(folder.path(), &places, true)
            .to_string()
            .contains("is a symbolic link, and files are not written through links")
    );
    assert!(store.put(&set("new")).is_err());
    assert_eq!(fs::read_dir(&elsewhere).unwrap().count(), 0);
    // A link in place of a file is replaced, not followed.
    fs::remove_file(folder.path().join("nodes")).unwrap();
    drop(store);
    let (store, _) = open(folder.path());
    let kept = outside.path().join("kept");
    fs::write(&kept, "kept").unwrap();
    std::os::unix::fs::symlink(&kept, folder.path().join("nodes/n1/cni/etcd-ca.link")).unwrap();
    fs::rename(
        folder.path().join("nodes/n1/cni/etcd-ca.link"),
        folder.path().join("nodes/n1/cni/etcd-ca"),
    )
    .unwrap();
    store.put(&set("newer")).unwrap();
    assert_eq!(
        (
            fs::read_to_string(&kept).unwrap().as_str(),
            text(folder.path(), "nodes/n1/cni/etcd-ca").as_str()
        ),
        ("kept", "newer")
    );
}

#[test]
fn a_directory_is_locked_for_one_run() {
    let folder = tempfile::tempdir().unwrap();
    let _first = open(folder.path());
    assert!(
        Store::open(folder.path()).unwrap_err().to_string().contains("another `etcd-warden certs`")
    );
}

#[test]
fn obstacles_are_reported_before_anything_is_written() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    fs::write(folder.join("nodes"), "").unwrap();
    fs::create_dir_all(folder.join("etcd-key")).unwrap();
    fs::write(folder.join("etcd-cert"), "").unwrap();
    let places: Vec<PathBuf> =
        ["nodes/n1/etcd-cert", "etcd-key", "etcd-cert"].map(PathBuf::from).into();
    assert_eq!(obstacles(folder, &places, false).iter().count(), 3);
    assert_eq!(
        obstacles(folder, &places, true).iter().count(),
        2,
        "`--force` replaces files, but no directories"
    );
    assert!(obstacles(&folder.join("etcd-cert"), &places, true).has_errors());
}

#[test]
fn a_renewed_key_keeps_its_mode_except_for_others() {
    let folder = tempfile::tempdir().unwrap();
    let (store, _) = open(folder.path());
    store.put(&[new_file("etcd-key", "1"), new_file("etcd-cert", "1")]).unwrap();
    let set = |path: &str, mode| {
        fs::set_permissions(folder.path().join(path), Permissions::from_mode(mode)).unwrap();
    };
    set("etcd-key", 0o644);
    set("etcd-cert", 0o444);
    let owner =
        |path: &str| folder.path().join(path).metadata().ok().map(|metadata| Owner::of(&metadata));
    let renewed = |path: &str| NewFile { owner: owner(path), ..new_file(path, "2") };
    store.put(&[renewed("etcd-key"), renewed("etcd-cert")]).unwrap();
    let mode = |path: &str| folder.path().join(path).metadata().unwrap().mode() & 0o777;
    assert_eq!((mode("etcd-key"), mode("etcd-cert")), (0o640, 0o444));
}

#[test]
fn a_file_with_the_right_content_is_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    let (store, _) = open(folder.path());
    store.put(&[new_file("etcd-ca", "1"), new_file("etcd-cert", "1")]).unwrap();
    let inode = |path: &str| folder.path().join(path).metadata().unwrap().ino();
    let before = (inode("etcd-ca"), inode("etcd-cert"));
    store.put(&[new_file("etcd-ca", "1"), new_file("etcd-cert", "2")]).unwrap();
    assert_eq!(inode("etcd-ca"), before.0);
    assert_ne!(inode("etcd-cert"), before.1);
}
