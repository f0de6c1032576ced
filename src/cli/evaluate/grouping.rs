//! What is known of people, and the groups that it makes.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::{Path, PathBuf};

use super::super::CliError;
use crate::evaluation::Grouping;
use crate::types::{nfc, without_mark};

/// A field with more values is none that makes groups, such as a date.
const MOST_VALUES: usize = 50;

/// Flags that group the report.
#[derive(Debug, Default, clap::Args)]
pub struct GroupArgs {
    /// What is known of people: a CSV file with a header, whose first column is the name of a person's folder
    #[arg(long, conflicts_with_all = ["pairs", "against", "gallery"], value_name = "FILE")]
    groups: Option<PathBuf>,
    /// Report for each value of these fields, and say which is worst; fields of --groups, or of the metadata of a gallery's
    /// subjects [default: all fields of the file]
    #[arg(long, conflicts_with_all = ["pairs", "against"], value_delimiter = ',', value_name = "FIELD")]
    group_by: Vec<String>,
}

/// Who is evaluated.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Person {
    pub name: String,
    pub fields: BTreeMap<String, String>,
}

impl GroupArgs {
    /// The groups of the people, who are numbered by their order.
    pub fn groupings(&self, people: &[Person]) -> Result<Vec<Grouping>, CliError> {
        let Some(file) = &self.groups else {
            return self.group_by.iter().map(|field| grouping(field, people)).collect();
        };
        let text = std::fs::read_to_string(file).map_err(CliError::io(format!("cannot read {}", file.display())))?;
        let (header, known) = parse(&text).map_err(|what| CliError::Usage(format!("{}, {what}", file.display())))?;
        let mut people = people.to_vec();
        for person in &mut people {
            if let Some(fields) = known.get(&person.name) {
                person.fields = fields.clone();
            }
        }
        if people.iter().all(|person| person.fields.is_empty()) {
            let file = file.display();
            return Err(CliError::Usage(format!("{file}: nothing is known of anybody who has a folder here")));
        }
        let asked = if self.group_by.is_empty() { &header } else { &self.group_by };
        if let Some(unknown) = asked.iter().find(|field| !header.contains(field)) {
            let (file, header) = (file.display(), header.join(", "));
            return Err(CliError::Usage(format!("{file} has no field `{unknown}`; it has {header}")));
        }
        asked.iter().map(|field| grouping(field, &people)).collect()
    }

    /// Reads the file once before photos are, so that a mistake is told at once.
    pub fn check(&self, from_gallery: bool) -> Result<(), CliError> {
        match &self.groups {
            Some(file) => check_readable(file),
            None if self.group_by.is_empty() || from_gallery => Ok(()),
            None => Err(CliError::Usage("--group-by takes fields of a file: --groups FILE".to_owned())),
        }
    }
}

fn check_readable(file: &Path) -> Result<(), CliError> {
    let text = std::fs::read_to_string(file).map_err(CliError::io(format!("cannot read {}", file.display())))?;
    parse(&text).map(|_| ()).map_err(|what| CliError::Usage(format!("{}, {what}", file.display())))
}

fn grouping(field: &str, people: &[Person]) -> Result<Grouping, CliError> {
    let value = |person: &Person| person.fields.get(field).cloned();
    let values: Vec<String> = people.iter().filter_map(value).collect::<BTreeSet<_>>().into_iter().collect();
    if values.is_empty() {
        return Err(CliError::Usage(format!("nobody has a value of the field `{field}`")));
    }
    if values.len() > MOST_VALUES {
        let count = values.len();
        return Err(CliError::Usage(format!("`{field}` has {count} values; groups are made of {MOST_VALUES} at most")));
    }
    let of_subject = people.iter().map(|person| value(person).and_then(|value| values.binary_search(&value).ok()));
    Ok(Grouping { field: field.to_owned(), of_subject: of_subject.collect(), values })
}

type Known = HashMap<String, BTreeMap<String, String>>;

/// The fields of a file, and what it says of each person; an empty value says nothing.
fn parse(text: &str) -> Result<(Vec<String>, Known), String> {
    let mut lines = (1..).zip(without_mark(text).lines()).filter(|(_, line)| !line.trim().is_empty());
    let header = lines.next().ok_or("line 1: a header is expected, such as `person,field`")?.1;
    let fields = split(header).map_err(|what| format!("line 1: {what}"))?.split_off(1);
    if fields.is_empty() {
        return Err("line 1: a header is expected, such as `person,field`".to_owned());
    }
    let mut known = Known::new();
    for (number, line) in lines {
        let mut values = split(line).map_err(|what| format!("line {number}: {what}"))?;
        if values.len() != fields.len() + 1 {
            return Err(format!("line {number}: {} values for {} fields", values.len(), fields.len() + 1));
        }
        let of_fields = values.split_off(1);
        let told = fields.iter().cloned().zip(of_fields).filter(|(_, value)| !value.is_empty()).collect();
        let person = nfc(&values.swap_remove(0)).into_owned();
        if known.insert(person.clone(), told).is_some() {
            return Err(format!("line {number}: `{person}` is there twice"));
        }
    }
    Ok((fields, known))
}

/// The values of a line, as of RFC 4180: one in quotes may have commas, and two quotes for one.
fn split(line: &str) -> Result<Vec<String>, String> {
    let (mut values, mut value, mut quoted) = (Vec::new(), String::new(), false);
    let mut letters = line.chars().peekable();
    while let Some(letter) = letters.next() {
        match letter {
            '"' if quoted && letters.peek() == Some(&'"') => {
                letters.next();
                value.push('"');
            }
            '"' if quoted || value.trim().is_empty() => quoted = !quoted,
            ',' if !quoted => values.push(std::mem::take(&mut value).trim().to_owned()),
            _ => value.push(letter),
        }
    }
    if quoted {
        return Err("a quote is not closed".to_owned());
    }
    values.push(value.trim().to_owned());
    Ok(values)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn people(names: &[&str]) -> Vec<Person> {
        names.iter().map(|name| Person { name: (*name).to_owned(), ..Person::default() }).collect()
    }

    fn groupings(text: &str, by: &[&str]) -> Result<Vec<Grouping>, String> {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("people.csv");
        std::fs::write(&file, text).unwrap();
        let args = GroupArgs { groups: Some(file), group_by: by.iter().map(|field| (*field).to_owned()).collect() };
        args.check(false)
            .and_then(|()| args.groupings(&people(&["Ada", "Bob", "Eve"])))
            .map_err(|error| error.to_string())
    }

    #[test]
    fn a_file_groups_people() {
        let text = "\u{feff}person, sex ,town\nBob,m,\"Bath, \"\"the\"\" city\"\r\nAda,f,\nZoe,f,Rome\n";
        let both = groupings(text, &[]).unwrap();
        assert_eq!(both[0].field, "sex");
        assert_eq!(
            (both[0].values.as_slice(), both[0].of_subject.as_slice()),
            (["f".to_owned(), "m".to_owned()].as_slice(), [Some(0), Some(1), None].as_slice())
        );
        assert_eq!(
            (both[1].values.as_slice(), both[1].of_subject[0]),
            (["Bath, \"the\" city".to_owned()].as_slice(), None)
        );
        assert_eq!(groupings(text, &["town"]).unwrap(), both[1..]);
    }

    #[test]
    fn what_is_wrong_is_said() {
        for (text, by, what) in [
            ("", vec![], "line 1: a header is expected"),
            ("person\nAda\n", vec![], "line 1: a header is expected"),
            ("person,sex\nAda\n", vec![], "line 2: 1 values for 2 fields"),
            ("person,sex\nAda,f\n\nAda,m\n", vec![], "line 4: `Ada` is there twice"),
            ("person,sex\nAda,\"f\n", vec![], "line 2: a quote is not closed"),
            ("person,sex\nZoe,f\n", vec![], "nothing is known of anybody"),
            ("person,sex\nAda,f\n", vec!["age"], "has no field `age`; it has sex"),
        ] {
            let error = groupings(text, &by).unwrap_err();
            assert!(error.contains(what), "{error}");
        }
        let person = |n: usize| Person { name: n.to_string(), fields: [("born".to_owned(), n.to_string())].into() };
        let many: Vec<Person> = (0..51).map(person).collect();
        assert!(grouping("born", &many).unwrap_err().to_string().contains("51 values"));
    }
}
