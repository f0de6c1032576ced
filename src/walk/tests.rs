use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use proptest::prelude::*;

use super::*;

fn sorted(paths: &[&str]) -> Vec<Found<usize>> {
    sort(paths.iter().enumerate().map(|(key, path)| Entry::of_archive(key, (*path).to_owned())))
}

/// Photos as `person: path`, and what is left out as `code: path`.
fn told<K>(found: &[Found<K>]) -> Vec<String> {
    let who = |found: &Found<K>| found.photo.as_ref().map_or_else(|why| why.code().to_owned(), Name::to_string);
    found.iter().map(|found| format!("{}: {}", who(found), found.path)).collect()
}

#[test]
fn folders_name_people() {
    assert_eq!(
        told(&sorted(&["bob/1.jpg", "ada/2", "note.txt"])),
        ["ada: ada/2", "bob: bob/1.jpg", "beside_folders: note.txt"]
    );
    // One folder around them, whatever lies in it.
    assert_eq!(
        told(&sorted(&["set/ada/1.jpg", "set/note.txt", "x"])),
        ["ada: set/ada/1.jpg", "beside_folders: set/note.txt", "beside_folders: x"]
    );
    assert_eq!(told(&sorted(&["ada/1.jpg"])), ["ada: ada/1.jpg"]);
    assert_eq!(told(&sorted(&["C\\ada\\1.jpg", "./C/bob/1.jpg"])), ["ada: C\\ada\\1.jpg", "bob: ./C/bob/1.jpg"]);
    // A folder in a person's.
    assert_eq!(
        told(&sorted(&["ada/1.jpg", "ada/originals/2.jpg"])),
        ["ada: ada/1.jpg", "nested_folder: ada/originals/2.jpg"]
    );
    assert_eq!(
        told(&sorted(&["set/ada/1.jpg", "set/ada/2024/2.jpg", "set/bob/2024/1.jpg"])),
        ["ada: set/ada/1.jpg", "nested_folder: set/ada/2024/2.jpg", "nested_folder: set/bob/2024/1.jpg"]
    );
}

#[test]
fn everything_is_accounted_for_but_what_systems_write() {
    let silent = [
        "__MACOSX/ada/._1.jpg",
        "ada/.DS_Store",
        "ada/._1.jpg",
        "ada/Thumbs.db",
        "Desktop.ini",
        "ada/@eaDir/1.jpg/SYNOPHOTO_THUMB_S.jpg",
    ];
    assert!(sorted(&silent).is_empty());
    assert_eq!(
        told(&sorted(&[
            "1.jpg",
            "../ada/1.jpg",
            "ada/.1.jpg",
            ".git/x",
            "ada /1.jpg",
            "bob/1\u{7}.jpg",
            "Jos\u{fffd}/1.jpg",
            &format!("{}/1.jpg", "n".repeat(256)),
        ])),
        [
            "invalid_name: ../ada/1.jpg".to_owned(),
            "hidden: .git/x".to_owned(),
            "beside_folders: 1.jpg".to_owned(),
            "invalid_name: Jos\u{fffd}/1.jpg".to_owned(),
            "invalid_name: ada /1.jpg".to_owned(),
            "hidden: ada/.1.jpg".to_owned(),
            "invalid_name: bob/1\u{7}.jpg".to_owned(),
            format!("invalid_name: {}/1.jpg", "n".repeat(256)),
        ]
    );
}

#[test]
fn either_spelling_of_a_name_is_one_person() {
    let found = sorted(&["Jose\u{301}/2.jpg", "Jos\u{e9}/1.jpg"]);
    assert!(found.iter().all(|found| found.photo.as_ref().unwrap().as_str() == "Jos\u{e9}"));
}

#[test]
fn a_folder_on_disk_is_read_by_the_same_rule() {
    let root = tempfile::tempdir().unwrap();
    let at = |path: &[u8]| root.path().join(Path::new(OsStr::from_bytes(path)));
    for path in [
        &b"ada/1.jpg"[..],
        b"ada/.DS_Store",
        b"ada/old/2.jpg",
        b".git/objects/a",
        b"note.txt",
        b"Jos\xe9/1.jpg",
        b"bob/1\xff.jpg",
        b"back\\slash/1.jpg",
    ] {
        std::fs::create_dir_all(at(path).parent().unwrap()).unwrap();
        std::fs::write(at(path), path).unwrap();
    }
    std::os::unix::fs::symlink(root.path(), at(b"ada/round")).unwrap();
    std::os::unix::fs::symlink("nowhere", at(b"ada/broken.jpg")).unwrap();
    std::os::unix::fs::symlink(at(b"ada"), at(b"linked")).unwrap();
    let shown = root.path().to_str().unwrap();
    let found = folder(root.path()).unwrap();
    let told: Vec<String> = told(&found).into_iter().map(|line| line.replace(&format!("{shown}/"), "")).collect();
    assert_eq!(
        told,
        [
            "ada: ada/1.jpg",
            "back\\slash: back\\slash/1.jpg",
            "linked: linked/1.jpg",
            "hidden: .git",
            "unreadable_name: Jos\\xe9/1.jpg",
            "no_file: ada/broken.jpg",
            "nested_folder: ada/old/2.jpg",
            "no_file: ada/round",
            "unreadable_name: bob/1\\xff.jpg",
            "no_file: linked/broken.jpg",
            "nested_folder: linked/old/2.jpg",
            "no_file: linked/round",
            "beside_folders: note.txt",
        ]
    );
    assert!(found.iter().filter(|found| found.photo.is_ok()).all(|found| found.key.is_file()));
}

proptest! {
    #[test]
    fn any_paths_give_plain_names(paths in prop::collection::vec("(\\.|/|\\\\|a|é|__MACOSX|\0|[a-c]{1,2}|\\PC){0,12}", 0..12)) {
        let found = sort(paths.iter().cloned().enumerate().map(|(key, path)| Entry::of_archive(key, path)));
        for file in &found {
            prop_assert_eq!(&paths[file.key], &file.path);
            if let Ok(person) = &file.photo {
                prop_assert!(!person.as_str().starts_with('.') && !person.as_str().contains(['/', '\\']));
                prop_assert!(!file.path.split(['/', '\\']).any(|part| part == ".." || part == "__MACOSX"));
            }
        }
        let keys: BTreeSet<usize> = found.iter().map(|found| found.key).collect();
        prop_assert_eq!(keys.len(), found.len());
    }

    #[test]
    fn whatever_is_around_them_people_keep_their_photos(
        people in prop::collection::btree_map(
            "[a-zé]{1,8}", prop::collection::btree_set("[a-z0-9]{1,6}(\\.jpg)?", 1..4), 2..6
        ),
        top in prop::option::of("[a-z]{1,5}"),
        backslash in any::<bool>(),
    ) {
        let around = top.map(|top| format!("{top}/")).unwrap_or_default();
        let mut files = vec![format!("{around}readme.txt"), format!("{around}.hidden/x.jpg"), format!("__MACOSX/{around}a/._b")];
        for (person, photos) in &people {
            files.extend(photos.iter().map(|photo| format!("{around}{person}/{photo}")));
        }
        if backslash {
            files = files.into_iter().map(|path| path.replace('/', "\\")).collect();
        }
        let mut found: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        for file in sort(files.into_iter().enumerate().map(|(key, path)| Entry::of_archive(key, path))) {
            let name = file.path.rsplit(['/', '\\']).next().unwrap().to_owned();
            if let Ok(person) = file.photo {
                found.entry(person.to_string()).or_default().insert(name);
            }
        }
        prop_assert_eq!(found, people);
    }
}
