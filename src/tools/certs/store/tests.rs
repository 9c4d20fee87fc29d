use super::*;
use std::os::unix::fs::MetadataExt as _;
use zeroize::Zeroizing;

fn wanted(path: &str, content: &str) -> Wanted {
    Wanted {
        path: path.into(),
        content: Zeroizing::new(content.to_owned()),
        secret: path.ends_with(KEY_FILE),
        owner: None,
    }
}

fn open(folder: &Path) -> (Store, Option<Diagnostics>) {
    Store::open(folder).unwrap_or_else(|mistakes| panic!("{mistakes}"))
}

fn text(folder: &Path, path: &str) -> String {
    fs::read_to_string(folder.join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

fn set(content: &str) -> Vec<Wanted> {
    [CA_FILE, KEY_FILE, CERT_FILE]
        .map(|name| wanted(&format!("nodes/n1/cni/{name}"), content))
        .into()
}

#[test]
fn files_come_into_place_and_keys_are_their_owners_alone() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path().join("new/folder");
    let (store, note) = open(&folder);
    assert!(note.is_none());
    store.put(&set("1")).unwrap();
    store.put(&[wanted("nodes/n2/etcd-key", "2")]).unwrap();
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

/// A run is cut at each point of its renames: the next one finds whole files, and finishes.
#[test]
fn a_run_that_is_cut_leaves_whole_files_and_the_next_one_finishes_it() {
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
        assert!(note.unwrap().to_string().contains("an earlier run was cut"));
        for name in old {
            assert_eq!(text(folder, &format!("nodes/n1/cni/{name}")), "new");
        }
        assert!(!folder.join(COMPLETE).exists());
    }
}

#[test]
fn what_was_cut_before_it_was_complete_goes_away() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path()).0;
    store.stage(&set("new").iter().collect::<Vec<_>>()).map_err(|(_, error)| error).unwrap();
    drop(store);
    assert!(open(folder.path()).1.is_none());
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
}

/// Who may write to the folder must not get root to write elsewhere, or to put in place what root
/// has not written.
#[test]
fn what_another_hand_has_staged_is_refused() {
    let outside = tempfile::tempdir().unwrap();
    let planted = outside.path().join("planted");
    fs::create_dir(&planted).unwrap();
    fs::write(planted.join("etcd-cert"), "planted").unwrap();
    for name in [STAGED, COMPLETE] {
        let folder = tempfile::tempdir().unwrap();
        let at = folder.path().join(name);
        let refused = |why: &str| {
            let said = Store::open(folder.path()).unwrap_err().to_string();
            assert!(said.contains(why) && said.contains("look at it, and remove it"), "{said}");
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
        // One of this user's own that somebody has given the name, as `mv nodes
        // .etcd-warden-staged` does.
        fs::set_permissions(&at, Permissions::from_mode(0o700)).unwrap();
        fs::write(at.join("etcd-key"), "mine").unwrap();
        refused("holds no mark of one");
        assert!(at.join("etcd-key").exists());
        fs::remove_file(at.join("etcd-key")).unwrap();
        // Of another user, where this one may make that.
        if std::os::unix::fs::chown(&at, Some(65534), None).is_ok() {
            refused("belongs to user 65534");
        }
    }
}

#[test]
fn nobody_waits_for_a_pipe_where_a_file_was() {
    let folder = tempfile::tempdir().unwrap();
    let (store, _) = open(folder.path());
    let made = std::process::Command::new("mkfifo")
        .arg(folder.path().join("etcd-ca"))
        .status()
        .expect("mkfifo (coreutils) is needed for this test");
    assert!(made.success());
    store.put(&[wanted("etcd-ca", "1")]).unwrap();
    assert_eq!(text(folder.path(), "etcd-ca"), "1");
}

#[test]
fn nothing_is_put_in_place_behind_a_link() {
    let (folder, outside) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let elsewhere = outside.path().join("n1");
    fs::create_dir(&elsewhere).unwrap();
    let (store, _) = open(folder.path());
    std::os::unix::fs::symlink(outside.path(), folder.path().join("nodes")).unwrap();
    let places: Vec<PathBuf> = set("new").iter().map(|file| file.path.clone()).collect();
    assert!(
        obstacles(folder.path(), &places, true)
            .to_string()
            .contains("is a symbolic link, and nothing is written behind one")
    );
    assert!(store.put(&set("new")).is_err());
    assert_eq!(fs::read_dir(&elsewhere).unwrap().count(), 0);
    // One that is found only when the rest is in place: the target of a file.
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
fn one_run_at_a_time() {
    let folder = tempfile::tempdir().unwrap();
    let _first = open(folder.path());
    assert!(
        Store::open(folder.path()).unwrap_err().to_string().contains("another `etcd-warden certs`")
    );
}

#[test]
fn what_is_in_the_way_is_told_before_anything_is_written() {
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
        "`--force` replaces files, and no folder"
    );
    assert!(obstacles(&folder.join("etcd-cert"), &places, true).has_errors());
}

#[test]
fn a_renewed_file_keeps_its_mode_but_for_others() {
    let folder = tempfile::tempdir().unwrap();
    let (store, _) = open(folder.path());
    store.put(&[wanted("etcd-key", "1"), wanted("etcd-cert", "1")]).unwrap();
    let set = |path: &str, mode| {
        fs::set_permissions(folder.path().join(path), Permissions::from_mode(mode)).unwrap()
    };
    set("etcd-key", 0o644);
    set("etcd-cert", 0o444);
    let owner =
        |path: &str| folder.path().join(path).metadata().ok().map(|metadata| Owner::of(&metadata));
    let renewed = |path: &str| Wanted { owner: owner(path), ..wanted(path, "2") };
    store.put(&[renewed("etcd-key"), renewed("etcd-cert")]).unwrap();
    let mode = |path: &str| folder.path().join(path).metadata().unwrap().mode() & 0o777;
    assert_eq!((mode("etcd-key"), mode("etcd-cert")), (0o640, 0o444));
}

#[test]
fn what_holds_its_content_already_is_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    let (store, _) = open(folder.path());
    store.put(&[wanted("etcd-ca", "1"), wanted("etcd-cert", "1")]).unwrap();
    let inode = |path: &str| folder.path().join(path).metadata().unwrap().ino();
    let before = (inode("etcd-ca"), inode("etcd-cert"));
    store.put(&[wanted("etcd-ca", "1"), wanted("etcd-cert", "2")]).unwrap();
    assert_eq!(inode("etcd-ca"), before.0);
    assert_ne!(inode("etcd-cert"), before.1);
}
