//! Which photos are evaluated, and whom they show.

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};

use super::super::CliError;
use super::super::people::{self, People};
use super::copies::originals;
use super::names::{LeftOut, Names};
use crate::types::without_mark;
use crate::walk;

/// Photos, and what is known of them. Each content is there once.
#[derive(Debug, Default)]
pub struct Source {
    pub photos: Vec<PathBuf>,
    /// Whom each photo shows, numbered from 0.
    pub subjects: Vec<usize>,
    /// The pairs to compare, as photos by number; all of them if `None`.
    pub pairs: Option<Vec<(usize, usize)>>,
    /// What was left out.
    pub copies: Copies,
    pub by_name: LeftOut,
    /// Files that are no photos of anybody.
    pub files: Vec<walk::LeftOut>,
    /// Names of those whom photos show, by number; none for pairs.
    pub people: Vec<String>,
}

/// What was left out because it was there already.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Copies {
    /// Photos that are the same as another one of the same person.
    pub photos: usize,
    /// Photos that are the same as one under another name: nobody knows whom they show.
    pub under_several_names: usize,
    /// Pairs of a photo and itself, those that were named before, and those that are different people because of such a photo
    /// alone.
    pub pairs: usize,
}

/// All photos of folders that have one folder for each person. Folders of one name show one person, wherever they are.
pub fn of_folders(folders: &[PathBuf]) -> Result<Source, CliError> {
    of_folders_without(folders, &Names::default())
}

/// As [`of_folders`], without what is to be left out by name.
pub fn of_folders_without(folders: &[PathBuf], names: &Names) -> Result<Source, CliError> {
    let (mut of_people, mut files) = (Vec::new(), Vec::new());
    for folder in folders {
        let People { photos, left_out } = people::read(folder)?;
        of_people.extend(photos.into_iter().map(|(name, photo)| (name.to_string(), photo)));
        files.extend(left_out);
    }
    let mut sieve = names.sieve(&of_people.iter().map(|(name, _)| name.clone()).collect());
    let mut source = Source { files, ..Source::default() };
    let mut people = HashMap::new();
    for (name, photo) in of_people {
        if !sieve.keeps(&name, &photo) {
            continue;
        }
        let subject = *people.entry(name).or_insert_with_key(|name| {
            source.people.push(name.clone());
            source.people.len() - 1
        });
        source.photos.push(photo);
        source.subjects.push(subject);
    }
    source.by_name = sieve.left_out();
    Ok(once(source))
}

/// Leaves out copies: of a person's identical photos all but the first, and of those under several names all.
fn once(source: Source) -> Source {
    let originals = originals(&source.photos);
    let mut names: HashMap<usize, HashSet<usize>> = HashMap::new();
    for (original, subject) in originals.iter().zip(&source.subjects) {
        names.entry(*original).or_default().insert(*subject);
    }
    let mut kept = Source { people: source.people, by_name: source.by_name, files: source.files, ..Source::default() };
    for (number, (photo, subject)) in source.photos.into_iter().zip(source.subjects).enumerate() {
        if names[&originals[number]].len() > 1 {
            kept.copies.under_several_names += 1;
        } else if originals[number] != number {
            kept.copies.photos += 1;
        } else {
            kept.photos.push(photo);
            kept.subjects.push(subject);
        }
    }
    kept
}

/// The pairs of a file: in each line two paths, relative to the file's folder, and `same` or `different`. Separated by tabs
/// if there are any, else by spaces; lines that begin with # are comments.
///
/// Photos that are said to show the same person, directly or by way of others, show one subject.
pub fn of_pairs(file: &Path) -> Result<Source, CliError> {
    let text = std::fs::read_to_string(file).map_err(CliError::io(format!("cannot read {}", file.display())))?;
    let folder = file.parent().unwrap_or(Path::new(""));
    let bad = |line: usize, what: String| CliError::Usage(format!("{}, line {line}: {what}", file.display()));
    let mut numbers = HashMap::new();
    let mut groups = Groups(Vec::new());
    let (mut photos, mut pairs) = (Vec::new(), Vec::new());
    let lines = (1..)
        .zip(without_mark(&text).lines())
        .filter(|(_, line)| !line.trim().is_empty() && !line.trim().starts_with('#'));
    for (number, line) in lines {
        let (a, b, same) = parse(line).map_err(|what| bad(number, what))?;
        let [a, b] = [a, b].map(|path| {
            *numbers.entry(path.to_owned()).or_insert_with(|| {
                photos.push(folder.join(path));
                groups.add()
            })
        });
        for photo in [a, b] {
            if !photos[photo].is_file() {
                return Err(bad(number, format!("there is no photo {}", photos[photo].display())));
            }
        }
        if same {
            groups.join(a, b);
        }
        pairs.push((number, a, b, same));
    }
    let contradiction = pairs.iter().find(|(_, a, b, same)| !same && groups.of(*a) == groups.of(*b));
    if let Some((number, ..)) = contradiction {
        return Err(bad(*number, "`different`, but other lines say that these two show the same person".to_owned()));
    }
    let originals = originals(&photos);
    originals.iter().enumerate().for_each(|(photo, original)| groups.join(photo, *original));
    let (mut kept, mut seen, named) = (Vec::new(), HashSet::new(), pairs.len());
    for (_, a, b, same) in pairs {
        let is_told = same || groups.of(a) != groups.of(b);
        let (a, b) = (originals[a], originals[b]);
        if is_told && a != b && seen.insert((a.min(b), a.max(b))) {
            kept.push((a, b));
        }
    }
    let mut subjects = HashMap::new();
    let mut subject = |photo| {
        let next = subjects.len();
        *subjects.entry(groups.of(photo)).or_insert(next)
    };
    let subjects = (0..photos.len()).map(&mut subject).collect();
    let copies = Copies { pairs: named - kept.len(), ..Copies::default() };
    Ok(Source { photos, subjects, pairs: Some(kept), copies, ..Source::default() })
}

/// Two paths and whether they show the same person.
fn parse(line: &str) -> Result<(&str, &str, bool), String> {
    let fields: Vec<&str> = if line.contains('\t') {
        line.split('\t').map(str::trim).filter(|field| !field.is_empty()).collect()
    } else {
        line.split_whitespace().collect()
    };
    match fields[..] {
        [a, b, "same"] => Ok((a, b, true)),
        [a, b, "different"] => Ok((a, b, false)),
        [_, _, other] => Err(format!("`same` or `different` is expected, not `{other}`")),
        _ => Err(format!(
            "`path_a path_b same|different` is expected, not {} fields (paths with spaces need tabs between the fields)",
            fields.len()
        )),
    }
}

/// Photos that show the same person (union-find, Tarjan 1975).
struct Groups(Vec<usize>);

impl Groups {
    fn add(&mut self) -> usize {
        self.0.push(self.0.len());
        self.0.len() - 1
    }

    fn of(&self, mut photo: usize) -> usize {
        while self.0[photo] != photo {
            photo = self.0[photo];
        }
        photo
    }

    fn join(&mut self, a: usize, b: usize) {
        let (a, b) = (self.of(a), self.of(b));
        self.0[a.max(b)] = a.min(b);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pairs(text: &str) -> Result<Source, String> {
        let folder = tempfile::tempdir().unwrap();
        for photo in ["a.jpg", "b.jpg", "c c.jpg", "d.jpg"] {
            std::fs::write(folder.path().join(photo), photo).unwrap();
        }
        std::fs::write(folder.path().join("a-again.jpg"), "a.jpg").unwrap();
        let file = folder.path().join("pairs.txt");
        std::fs::write(&file, text).unwrap();
        of_pairs(&file).map_err(|error| error.to_string())
    }

    #[test]
    fn same_goes_by_way_of_others() {
        let source =
            pairs("\u{feff}# who\na.jpg b.jpg same\n\nb.jpg\tc c.jpg\tsame\n d.jpg   a.jpg different\n").unwrap();
        assert_eq!(source.subjects, [0, 0, 0, 1]);
        assert_eq!(source.pairs.unwrap(), [(0, 1), (1, 2), (3, 0)]);
        assert!(source.photos[2].ends_with("c c.jpg"));
    }

    #[test]
    fn a_photo_counts_once() {
        let root = tempfile::tempdir().unwrap();
        for (person, photo, content) in [
            ("ada", "1.jpg", "x"),
            ("ada", "2.jpg", "x"),
            ("ada", "3.jpg", "y"),
            ("ada", "4.jpg", "shared"),
            ("bob", "1.jpg", "shared"),
            ("bob", "2.jpg", "z"),
        ] {
            std::fs::create_dir_all(root.path().join(person)).unwrap();
            std::fs::write(root.path().join(person).join(photo), content).unwrap();
        }
        let source = of_folders(&[root.path().to_owned()]).unwrap();
        let names: Vec<_> = source.photos.iter().map(|path| path.strip_prefix(root.path()).unwrap()).collect();
        assert_eq!(names, ["ada/1.jpg", "ada/3.jpg", "bob/2.jpg"].map(Path::new));
        assert_eq!((source.copies.photos, source.copies.under_several_names), (1, 2));
    }

    #[test]
    fn a_pair_counts_once_and_none_is_of_one_photo() {
        let lines = ["a.jpg b.jpg same", "b.jpg a-again.jpg same", "a.jpg a-again.jpg same", "a.jpg d.jpg different"];
        let source = pairs(&lines.join("\n")).unwrap();
        assert_eq!((source.subjects, source.copies.pairs), (vec![0, 0, 0, 1], 2));
        assert_eq!(source.pairs.unwrap(), [(0, 1), (0, 3)]);
        // All four are one person by way of the two files, so the last line says nothing that is known.
        let source = pairs("a.jpg b.jpg same\na-again.jpg d.jpg same\nb.jpg d.jpg different\n").unwrap();
        assert_eq!((source.subjects, source.copies.pairs), (vec![0; 4], 1));
        assert_eq!(source.pairs.unwrap(), [(0, 1), (0, 3)]);
    }

    #[test]
    fn a_bad_line_is_named() {
        for (text, line, what) in [
            ("a.jpg b.jpg same\na.jpg b.jpg", 2, "2 fields"),
            ("# c\n\na.jpg b.jpg maybe", 3, "`maybe`"),
            ("a.jpg e.jpg same", 1, "e.jpg"),
            ("a.jpg b.jpg same\nb.jpg d.jpg same\nd.jpg a.jpg different", 3, "other lines"),
        ] {
            let error = pairs(text).unwrap_err();
            assert!(error.contains(&format!("line {line}: ")) && error.contains(what), "{error}");
        }
    }

    #[test]
    fn folders_of_one_name_are_one_person() {
        let root = tempfile::tempdir().unwrap();
        let folders = ["x", "y"].map(|folder| root.path().join(folder));
        for (folder, person, photo) in
            [(0, "ada", "1.jpg"), (0, "bob", "1.jpg"), (1, "ada", "2.jpg"), (1, "ada", ".3.jpg")]
        {
            std::fs::create_dir_all(folders[folder].join(person)).unwrap();
            std::fs::write(folders[folder].join(person).join(photo), format!("{person} {photo}")).unwrap();
        }
        let source = of_folders(&folders).unwrap();
        assert_eq!((source.subjects, source.copies), (vec![0, 1, 0], Copies::default()));
        let empty = root.path().join("x/ada");
        assert!(of_folders(&[empty]).unwrap_err().to_string().contains("one folder for each person"));
    }
}
