//! Who is on the photos of an archive: whoever their folder is named after.

/// A photo of an archive.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct PhotoPath {
    /// The name of its folder.
    pub(super) person: String,
    /// As the archive says.
    pub(super) path: String,
    /// Its place in the archive.
    pub(super) index: usize,
    /// It lies in a folder within the person's, so nobody knows whether it is a photo of theirs.
    pub(super) nested: bool,
}

/// The photos among the files of an archive, by person and path.
///
/// A file in a folder is a photo of whoever the folder is named after. If all folders lie in one that has no photo itself, that
/// one is looked into instead. What lies deeper is nested. Files beside the folders are left out, and so is what is hidden: what
/// has a part that begins with a dot (`..` does) or is `__MACOSX`.
pub(super) fn photos(files: impl IntoIterator<Item = (usize, String)>) -> Vec<PhotoPath> {
    let files: Vec<(usize, String)> = files.into_iter().collect();
    let seen: Vec<(usize, &str, Vec<&str>)> =
        files.iter().filter_map(|(index, path)| Some((*index, path.as_str(), parts(path)?))).collect();
    let skipped = usize::from(has_top(seen.iter().map(|(_, _, parts)| parts.as_slice())));
    let mut photos: Vec<PhotoPath> = seen
        .into_iter()
        .filter_map(|(index, path, parts)| match parts.get(skipped..)? {
            [] | [_] => None,
            [person, inner @ ..] => {
                Some(PhotoPath { person: (*person).to_owned(), path: path.to_owned(), index, nested: inner.len() > 1 })
            }
        })
        .collect();
    photos.sort();
    photos
}

/// The names that a path is made of, by either kind of slash; `None` if it is hidden.
fn parts(path: &str) -> Option<Vec<&str>> {
    let parts = path.split(['/', '\\']).filter(|part| !part.is_empty() && *part != ".");
    parts.map(|part| (!part.starts_with('.') && part != "__MACOSX").then_some(part)).collect()
}

/// Whether all folders lie in one that is nobody's: no photo lies in it.
fn has_top<'a>(files: impl Iterator<Item = &'a [&'a str]>) -> bool {
    let mut in_folders = files.filter(|parts| parts.len() > 1).peekable();
    let Some(top) = in_folders.peek().map(|parts| parts[0]) else { return false };
    let mut is_deep = false;
    in_folders.all(|parts| {
        is_deep |= parts.len() > 2;
        parts[0] == top && (parts.len() > 2 || !is_named_as_photo(parts[1]))
    }) && is_deep
}

/// Whether a file is called what photos are called.
fn is_named_as_photo(name: &str) -> bool {
    const ENDINGS: [&str; 14] =
        ["jpg", "jpeg", "png", "webp", "heic", "heif", "bmp", "gif", "tif", "tiff", "pgm", "ppm", "pnm", "avif"];
    let ending = name.rsplit_once('.').map(|(_, ending)| ending.to_ascii_lowercase());
    ending.is_some_and(|ending| ENDINGS.contains(&ending.as_str()))
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use proptest::prelude::*;

    use super::*;

    fn of(paths: &[&str]) -> Vec<(String, String)> {
        let files = paths.iter().enumerate().map(|(index, path)| (index, (*path).to_owned()));
        photos(files).into_iter().filter(|photo| !photo.nested).map(|photo| (photo.person, photo.path)).collect()
    }

    fn nested(paths: &[&str]) -> Vec<(String, String)> {
        let files = paths.iter().enumerate().map(|(index, path)| (index, (*path).to_owned()));
        photos(files).into_iter().filter(|photo| photo.nested).map(|photo| (photo.person, photo.path)).collect()
    }

    #[test]
    fn folders_name_people() {
        let pair = |person: &str, path: &str| (person.to_owned(), path.to_owned());
        assert_eq!(of(&["bob/1.jpg", "ada/2", "note.txt"]), [pair("ada", "ada/2"), pair("bob", "bob/1.jpg")]);
        // One folder around them, whatever lies in it.
        assert_eq!(of(&["set/ada/1.jpg", "set/note.txt", "x"]), [pair("ada", "set/ada/1.jpg")]);
        assert_eq!(of(&["ada/1.jpg"]), [pair("ada", "ada/1.jpg")]);
        // A folder in a person's.
        assert_eq!(of(&["ada/1.jpg", "bob/raw/2.jpg"]), [pair("ada", "ada/1.jpg")]);
        assert_eq!(
            of(&["C\\ada\\1.jpg", "./C/bob/1.jpg"]),
            [pair("ada", "C\\ada\\1.jpg"), pair("bob", "./C/bob/1.jpg")]
        );
        let only = ["ada/1.jpg", "ada/originals/2.jpg"];
        assert_eq!((of(&only), nested(&only)), (vec![pair("ada", only[0])], vec![pair("ada", only[1])]));
        let years = ["set/ada/1.jpg", "set/ada/2024/2.jpg", "set/bob/2024/1.jpg"];
        assert_eq!(of(&years), [pair("ada", years[0])]);
        assert_eq!(nested(&years), [pair("ada", years[1]), pair("bob", years[2])]);
        assert!(of(&["1.jpg", "../ada/1.jpg", "__MACOSX/ada/1.jpg", "ada/.1.jpg", ".git/x", "/", ""]).is_empty());
    }

    proptest! {
        #[test]
        fn any_paths_give_plain_names(paths in prop::collection::vec("(\\.|/|\\\\|a|é|__MACOSX|\0|[a-c]{1,2}|\\PC){0,12}", 0..12)) {
            let files: Vec<(usize, String)> = paths.iter().cloned().enumerate().collect();
            let found = photos(files);
            prop_assert!(found.is_sorted());
            for photo in &found {
                prop_assert_eq!(&paths[photo.index], &photo.path);
                prop_assert!(!photo.person.is_empty() && !photo.person.starts_with('.'));
                prop_assert!(!photo.person.contains(['/', '\\']));
                prop_assert!(photo.path.split(['/', '\\']).any(|part| part == photo.person));
                prop_assert!(!photo.path.split(['/', '\\']).any(|part| part == ".." || part == "__MACOSX"));
            }
            let indexes: BTreeSet<usize> = found.iter().map(|photo| photo.index).collect();
            prop_assert_eq!(indexes.len(), found.len());
        }

        #[test]
        fn whatever_is_around_them_people_keep_their_photos(
            people in prop::collection::btree_map("[a-zé ]{1,8}", prop::collection::btree_set("[a-z0-9]{1,6}(\\.jpg)?", 1..4), 2..6),
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
            for photo in photos(files.into_iter().enumerate()) {
                let name = photo.path.rsplit(['/', '\\']).next().unwrap().to_owned();
                found.entry(photo.person).or_default().insert(name);
            }
            prop_assert_eq!(found, people);
        }
    }
}
