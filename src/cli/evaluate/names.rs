//! Which photos are left out by name: people who are there under two names, and photos of somebody else.

use std::collections::{BTreeSet, HashSet};
use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use super::super::CliError;
use crate::types::{nfc, without_mark};

/// Flags that leave photos out.
#[derive(Debug, Default, clap::Args)]
pub struct NameArgs {
    /// People who are there under two names: a file with the names of two folders in each line, of which the second is left
    /// out (separated by tabs or spaces; # begins a comment)
    #[arg(long, conflicts_with_all = ["pairs", "gallery"], value_name = "FILE")]
    alias: Option<PathBuf>,
    /// Photos to leave out, as those of somebody else: a file with the name of a photo in each line, without its extension
    #[arg(long, conflicts_with_all = ["pairs", "gallery"], value_name = "FILE")]
    exclude: Option<PathBuf>,
}

/// Names that were given.
#[derive(Debug, Default)]
pub struct Names {
    /// Two names of one person.
    alias: Vec<[String; 2]>,
    /// Photos, by file name without the extension.
    exclude: Vec<String>,
}

/// What was left out by name.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LeftOut {
    /// People under their second name, and photos of theirs.
    pub second_names: usize,
    pub of_second_names: usize,
    pub excluded: usize,
    /// Names that were given, but are not there.
    pub not_found: Vec<String>,
}

/// Decides photo by photo.
pub struct Sieve<'a> {
    second: HashSet<&'a str>,
    excluded: HashSet<&'a str>,
    not_found: BTreeSet<&'a str>,
    left_out: LeftOut,
}

impl NameArgs {
    pub fn read(&self) -> Result<Names, CliError> {
        let pair = |fields: Vec<String>| <[String; 2]>::try_from(fields).ok().filter(|[a, b]| a != b);
        let one = |fields: Vec<String>| <[String; 1]>::try_from(fields).ok().map(|[name]| name);
        Ok(Names {
            alias: read(self.alias.as_deref(), pair, "the names of two folders are expected")?,
            exclude: read(self.exclude.as_deref(), one, "the name of one photo is expected")?,
        })
    }
}

/// What the fields of each line say, which are separated by tabs if it has any, else by spaces.
fn read<T>(file: Option<&Path>, says: impl Fn(Vec<String>) -> Option<T>, expected: &str) -> Result<Vec<T>, CliError> {
    let Some(file) = file else { return Ok(Vec::new()) };
    let text = std::fs::read_to_string(file).map_err(CliError::io(format!("cannot read {}", file.display())))?;
    let fields = |line: &str| -> Vec<String> {
        let separated: Vec<&str> =
            if line.contains('\t') { line.split('\t').collect() } else { line.split_whitespace().collect() };
        separated.into_iter().map(str::trim).filter(|field| !field.is_empty()).map(|field| nfc(field).into()).collect()
    };
    let lines = (1..).zip(without_mark(&text).lines().map(without_comment)).filter(|(_, line)| !line.is_empty());
    let bad = |number: usize| CliError::Usage(format!("{}, line {number}: {expected}", file.display()));
    lines.map(|(number, line)| says(fields(line)).ok_or_else(|| bad(number))).collect()
}

/// A # that begins a line or follows a space begins a comment.
fn without_comment(line: &str) -> &str {
    let begins = |at: &usize| line[..*at].chars().next_back().is_none_or(char::is_whitespace);
    let comment = line.match_indices('#').map(|(at, _)| at).find(begins);
    line[..comment.unwrap_or(line.len())].trim()
}

impl Names {
    /// For a set in which these people are. Who is there under the second name only stays.
    pub fn sieve<'a>(&'a self, people: &HashSet<String>) -> Sieve<'a> {
        let both = self.alias.iter().filter(|pair| pair.iter().all(|name| people.contains(name)));
        let missing = self.alias.iter().flatten().filter(|name| !people.contains(*name));
        Sieve {
            second: both.map(|pair| pair[1].as_str()).collect(),
            excluded: self.exclude.iter().map(String::as_str).collect(),
            not_found: missing.chain(&self.exclude).map(String::as_str).collect(),
            left_out: LeftOut::default(),
        }
    }
}

impl Sieve<'_> {
    /// Whether a photo of a person counts.
    pub fn keeps(&mut self, person: &str, photo: &Path) -> bool {
        // A photo whose name is no text is none of anybody.
        let stem = nfc(photo.file_stem().and_then(OsStr::to_str).unwrap_or_default());
        self.not_found.remove(stem.as_ref());
        if self.second.contains(person) {
            self.left_out.of_second_names += 1;
        } else if self.excluded.contains(stem.as_ref()) {
            self.left_out.excluded += 1;
        } else {
            return true;
        }
        false
    }

    pub fn left_out(self) -> LeftOut {
        let not_found = self.not_found.into_iter().map(str::to_owned).collect();
        LeftOut { second_names: self.second.len(), not_found, ..self.left_out }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(alias: &str, exclude: &str) -> Result<Names, String> {
        let folder = tempfile::tempdir().unwrap();
        let file = |name: &str, text: &str| {
            std::fs::write(folder.path().join(name), text).unwrap();
            Some(folder.path().join(name))
        };
        let args = NameArgs { alias: file("alias.txt", alias), exclude: file("exclude.txt", exclude) };
        args.read().map_err(|error| error.to_string())
    }

    #[test]
    fn second_names_and_excluded_photos_are_left_out() {
        let names = names(
            "\u{feff}# two names\nAda Ada_L\nBob Bobby # since 2001\n\nEve  Eva\n",
            "\u{feff}ada_2\nzoe_1 # not there\n",
        )
        .unwrap();
        let people = ["Ada", "Ada_L", "Bobby", "Dan"].map(str::to_owned).into();
        let mut sieve = names.sieve(&people);
        let photos =
            [("Ada", "ada_1.jpg"), ("Ada", "ada_2.png"), ("Ada_L", "a.jpg"), ("Bobby", "b.jpg"), ("Dan", "d.jpg")];
        let kept = photos.map(|(person, photo)| sieve.keeps(person, Path::new(photo)));
        assert_eq!(kept, [true, false, false, true, true], "Bob is there under one name only");
        let not_found = ["Bob", "Eva", "Eve", "zoe_1"].map(str::to_owned).to_vec();
        assert_eq!(sieve.left_out(), LeftOut { second_names: 1, of_second_names: 1, excluded: 1, not_found });
    }

    #[test]
    fn a_bad_line_is_named() {
        let spaces = names("Ada L\tAda\n", "a#1 # b").unwrap();
        assert_eq!(spaces.alias, [["Ada L".to_owned(), "Ada".to_owned()]]);
        assert_eq!(spaces.exclude, ["a#1"]);
        for (alias, exclude, what) in [
            ("Ada\n", "", "alias.txt, line 1: the names of two"),
            ("#\nAda Ada\n", "", "alias.txt, line 2: "),
            ("", "a b\n", "exclude.txt, line 1: the name of one photo"),
        ] {
            let error = names(alias, exclude).unwrap_err();
            assert!(error.contains(what), "{error}");
        }
    }
}
