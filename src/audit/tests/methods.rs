//! No change is forgotten: whatever writes to the tables of galleries, models, jobs and keys notes it, or is said here not to need it.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

/// Public methods that change something without an entry of their own.
const NOT_NOTED: [(&str, &[&str]); 6] = [
    ("the same chip as before, encrypted by the server itself", &["encrypt_chips"]),
    ("noted when it is finished", &["begin_enrolment"]),
    (
        "goes on with what was noted when it was accepted",
        &["erase_gallery_piece", "erase_subject_piece", "erase_piece_together"],
    ),
    ("of the job's own story, which is kept with it", &["advance", "explain", "give_back", "report", "keep", "claim"]),
    ("figures about a model, that of a job which is noted", &["set_verdict"]),
    ("how often keys are used", &["note_uses"]),
];

/// The tables whose changes count. What is derived of them, and what work in the background keeps, does not.
const TABLES: [&str; 7] = ["galleries", "subjects", "faces", "models", "jobs", "keys", "key_galleries"];

struct Function {
    is_public: bool,
    body: String,
}

fn functions(folder: &Path, found: &mut BTreeMap<String, Vec<Function>>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.file_name().unwrap().to_string_lossy().contains("test") {
            continue;
        }
        if path.is_dir() {
            functions(&path, found);
            continue;
        }
        let code = std::fs::read_to_string(&path).unwrap();
        let code = code.split("#[cfg(test)]\nmod tests {").next().unwrap();
        let starts: Vec<usize> = code.match_indices("fn ").map(|(at, _)| at).collect();
        for (number, start) in starts.iter().enumerate() {
            let line = &code[code[..*start].rfind('\n').map_or(0, |at| at + 1)..*start];
            let end = starts.get(number + 1).copied().unwrap_or(code.len());
            let body = &code[start + 3..end];
            let name: String = body.chars().take_while(|letter| letter.is_alphanumeric() || *letter == '_').collect();
            // Not a word of a comment.
            if line.contains("//") || name.is_empty() {
                continue;
            }
            let is_public = line.starts_with("    pub ");
            let function = Function { is_public, body: body[name.len()..].to_owned() };
            found.entry(name).or_default().push(function);
        }
    }
}

fn changes(body: &str) -> bool {
    let words: Vec<&str> = body.split(|letter: char| !(letter.is_alphanumeric() || letter == '_')).collect();
    words.windows(3).enumerate().any(|(at, window)| match window {
        ["insert", "into", table] | ["delete", "from", table] => TABLES.contains(table),
        ["update", table, _] => (at == 0 || words[at - 1] != "for") && TABLES.contains(table),
        _ => false,
    })
}

/// The functions of a folder that do something, themselves or by others that they call.
fn reaching(all: &BTreeMap<String, Vec<Function>>, does: impl Fn(&str) -> bool) -> BTreeSet<String> {
    let mut reached: BTreeSet<String> = BTreeSet::new();
    loop {
        let more: Vec<String> = all
            .iter()
            .filter(|(name, _)| !reached.contains(*name))
            .filter(|(_, functions)| {
                functions.iter().any(|function| does(&function.body) || calls(&function.body, &reached))
            })
            .map(|(name, _)| name.clone())
            .collect();
        if more.is_empty() {
            return reached;
        }
        reached.extend(more);
    }
}

fn calls(body: &str, names: &BTreeSet<String>) -> bool {
    let ends = body.match_indices('(').map(|(at, _)| at);
    let mut called = ends.map(|end| {
        let start =
            body[..end].rfind(|letter: char| !(letter.is_alphanumeric() || letter == '_')).map_or(0, |at| at + 1);
        &body[start..end]
    });
    called.any(|name| names.contains(name))
}

#[test]
fn whatever_changes_something_notes_it() {
    let exempt: BTreeSet<&str> = NOT_NOTED.iter().flat_map(|(_, methods)| *methods).copied().collect();
    let mut unused = exempt.clone();
    let mut noted = BTreeSet::new();
    for folder in ["gallery", "registry", "jobs", "access"] {
        let mut all = BTreeMap::new();
        functions(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src").join(folder), &mut all);
        let changing = reaching(&all, changes);
        let noting = reaching(&all, |body| body.contains("append("));
        for (name, functions) in &all {
            if !changing.contains(name) || functions.iter().all(|function| !function.is_public) {
                continue;
            }
            if exempt.contains(name.as_str()) {
                unused.remove(name.as_str());
            } else {
                assert!(noting.contains(name), "src/{folder}: {name} changes something, and no entry says so");
                noted.insert(name.clone());
            }
        }
    }
    assert!(unused.is_empty(), "these change nothing, or are noted: {unused:?}");
    for method in ["finish", "move_face", "store", "create", "revoke", "cancel", "import", "switch", "end_shadow"] {
        assert!(noted.contains(method), "{method} is not looked at: {noted:?}");
    }
}

/// The page tells of all that is noted, and of nothing else.
#[test]
fn the_page_has_all_actions() {
    let page = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/audit.md")).unwrap();
    let table = &page[page.find("| action |").unwrap()..];
    let rows = table.lines().skip(2).take_while(|line| line.starts_with('|'));
    let told: BTreeSet<&str> =
        rows.flat_map(|row| row.split('|').nth(1).unwrap().split('`').skip(1).step_by(2)).collect();
    let actions: BTreeSet<&str> = super::Action::ALL.iter().map(|action| action.as_str()).collect();
    assert_eq!(told, actions);
}
