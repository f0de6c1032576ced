//! The code is built as docs/architecture.md says: which module uses which, which packages are for some alone, who writes which
//! table, and that only `config` reads the environment.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use proc_macro2::{Delimiter, TokenStream, TokenTree};

/// Of a module, what its code mentions.
#[derive(Default)]
struct Mentions {
    modules: BTreeSet<String>,
    packages: BTreeSet<String>,
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The rows of a table of the page: the names in its columns, by that in the first.
fn table(head: &str) -> BTreeMap<String, Vec<Vec<String>>> {
    let page = std::fs::read_to_string(root().join("docs/architecture.md")).unwrap();
    let at = page.find(head).unwrap_or_else(|| panic!("docs/architecture.md has no table {head}"));
    let rows = page[at..].lines().skip(2).take_while(|line| line.starts_with('|'));
    let names = |cell: &str| cell.split('`').skip(1).step_by(2).map(str::to_owned).collect::<Vec<_>>();
    let rows = rows.map(|row| row.trim_matches('|').split('|').map(names).collect::<Vec<_>>());
    rows.flat_map(|row| row[0].clone().into_iter().map(move |name| (name, row[1..].to_vec()))).collect()
}

fn rust_files(path: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(path).unwrap() {
        let path = entry.unwrap().path();
        let is_test = path.file_name().unwrap().to_string_lossy().contains("test");
        if path.is_dir() && !is_test {
            rust_files(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") && !is_test {
            found.push(path);
        }
    }
}

/// The files of src but for tests, with the names of their modules.
fn sources() -> Vec<(Vec<String>, String)> {
    let src = root().join("src");
    let mut files = Vec::new();
    rust_files(&src, &mut files);
    let module = |path: &PathBuf| {
        let names = path.strip_prefix(&src).unwrap().with_extension("");
        let names: Vec<String> = names.iter().map(|name| name.to_string_lossy().into_owned()).collect();
        names.into_iter().filter(|name| name != "mod").collect()
    };
    files.iter().map(|path| (module(path), std::fs::read_to_string(path).unwrap())).collect()
}

/// The module of the page that a path in the crate belongs to.
fn module_of(path: &[String], known: &BTreeSet<String>) -> String {
    let part = path.get(1).map(|part| format!("{}/{part}", path[0]));
    part.filter(|part| known.contains(part)).unwrap_or_else(|| path[0].clone())
}

/// All paths of two segments or more in some code, with everything that is nested in an import, but for modules of tests.
fn paths(tokens: TokenStream, inside: &[String], module: &mut Vec<String>, found: &mut Vec<Vec<String>>) {
    let mut tokens = tokens.into_iter().peekable();
    while let Some(token) = tokens.next() {
        let first = match token {
            TokenTree::Ident(first) => first.to_string(),
            TokenTree::Group(group) => {
                paths(group.stream(), &[], module, found);
                continue;
            }
            _ => continue,
        };
        if first == "mod"
            && let Some(TokenTree::Ident(name)) = tokens.next()
        {
            if let Some(TokenTree::Group(body)) = tokens.next()
                && !name.to_string().contains("test")
            {
                module.push(name.to_string());
                paths(body.stream(), &[], module, found);
                module.pop();
            }
            continue;
        }
        let mut path = [inside, &[first]].concat();
        let mut nested = None;
        while tokens.next_if(|token| matches!(token, TokenTree::Punct(colon) if colon.as_char() == ':')).is_some() {
            match tokens.peek() {
                Some(TokenTree::Punct(colon)) if colon.as_char() == ':' => continue,
                Some(TokenTree::Ident(next)) => path.push(next.to_string()),
                Some(TokenTree::Group(group)) if group.delimiter() == Delimiter::Brace => nested = Some(group.stream()),
                _ => break,
            }
            tokens.next();
        }
        match nested {
            Some(tree) => paths(tree, &path, module, found),
            None if path.len() > 1 => found.push(absolute(&path, module)),
            None => {}
        }
    }
}

/// From the root of the crate, or after an empty name for what lies outside.
fn absolute(path: &[String], module: &[String]) -> Vec<String> {
    let ups = path.iter().take_while(|name| *name == "super").count();
    match path[0].as_str() {
        "crate" => path[1..].to_vec(),
        "self" => [module, &path[1..]].concat(),
        "super" => [&module[..module.len() - ups], &path[ups..]].concat(),
        _ => [&[String::new()], path].concat(),
    }
}

fn mentions(known: &BTreeSet<String>) -> BTreeMap<String, Mentions> {
    let mut all: BTreeMap<String, Mentions> = BTreeMap::new();
    for (mut module, code) in sources() {
        if matches!(module[0].as_str(), "lib" | "main") {
            continue;
        }
        let own = module_of(&module, known);
        let mut found = Vec::new();
        paths(code.parse().unwrap(), &[], &mut module, &mut found);
        let mentions = all.entry(own.clone()).or_default();
        for path in found {
            if path[0].is_empty() {
                mentions.packages.insert(path[1].clone());
                continue;
            }
            let other = module_of(&path, known);
            // A module may use the one that it is a part of, and that one its parts.
            if !own.starts_with(&other) && !other.starts_with(&own) {
                mentions.modules.insert(other);
            }
        }
    }
    all
}

#[test]
fn modules_use_what_the_page_says() {
    let says = table("| module | holds | uses |");
    let known: BTreeSet<String> = says.keys().cloned().collect();
    let found = mentions(&known);
    assert_eq!(found.keys().collect::<Vec<_>>(), known.iter().collect::<Vec<_>>(), "the page names other modules");
    for (module, columns) in &says {
        let said: BTreeSet<String> = columns[1].iter().cloned().collect();
        assert_eq!(found[module].modules, said, "src/{module} uses, and the page says");
    }
}

/// Neither directly nor by way of others: there is no circle in what the page says.
#[test]
fn no_module_uses_its_callers() {
    let says = table("| module | holds | uses |");
    let mut left: BTreeSet<&String> = says.keys().collect();
    while !left.is_empty() {
        let free: Vec<&String> =
            left.iter().copied().filter(|module| !says[*module][1].iter().any(|used| left.contains(used))).collect();
        assert!(!free.is_empty(), "these use each other: {left:?}");
        free.iter().for_each(|module| _ = left.remove(*module));
    }
}

#[test]
fn packages_are_used_where_the_page_says() {
    let known: BTreeSet<String> = table("| module | holds | uses |").into_keys().collect();
    let found = mentions(&known);
    for (package, columns) in table("| package | only in |") {
        let users = found.iter().filter(|(_, mentions)| mentions.packages.contains(&package)).map(|(name, _)| name);
        let said: BTreeSet<&String> = columns[0].iter().collect();
        assert_eq!(users.collect::<BTreeSet<_>>(), said, "who uses {package}, and who the page says");
    }
}

#[test]
fn tables_are_written_by_their_owners() {
    let owners = table("| table | owner | holds |");
    let known: BTreeSet<String> = table("| module | holds | uses |").into_keys().collect();
    let mut written = BTreeSet::new();
    for (module, code) in sources() {
        let module = module_of(&module, &known);
        let code = code.split("#[cfg(test)]\nmod tests {").next().unwrap_or_default();
        let words: Vec<&str> = code.split(|letter: char| !(letter.is_alphanumeric() || letter == '_')).collect();
        for (at, window) in words.windows(3).enumerate() {
            let table = match window {
                ["insert", "into", table] | ["delete", "from", table] => table,
                // Not of `for update`, nor of `do update set`.
                ["update", table, _] if at > 0 && words[at - 1] != "for" && *table != "set" => table,
                _ => continue,
            };
            let Some(columns) = owners.get(*table) else { continue };
            assert_eq!(columns[0], std::slice::from_ref(&module), "{module} writes {table}");
            written.insert((*table).to_owned());
        }
    }
    let by_migrations: BTreeSet<&str> = ["change_run", "key_secrets"].into();
    let unwritten: Vec<&String> = owners.keys().filter(|table| !written.contains(*table)).collect();
    assert!(unwritten.iter().all(|table| by_migrations.contains(table.as_str())), "nobody writes {unwritten:?}");
}

#[test]
fn only_config_reads_the_environment() {
    for (module, code) in sources().into_iter().filter(|(module, _)| module[0] != "config") {
        let code = code.lines().map(|line| line.split("//").next().unwrap_or_default()).collect::<Vec<_>>().join("\n");
        let code = code.split("#[cfg(test)]").next().unwrap_or_default();
        assert!(!code.contains("env::var"), "{} must not read the environment", module.join("::"));
    }
}

/// What is of all galleries is used where it is made that of a caller, and by the server itself.
#[test]
fn what_is_of_nobody_is_seen_by_its_name() {
    let by_part = ["all_galleries", "all_jobs", "server_recognition", "server_models", "server_enrolment"];
    for (module, code) in sources() {
        let is_part = module.len() == 2 && module[0] == "service";
        // The table of keys has a column of that name.
        let is_of_keys = module[0] == "access";
        for name in by_part.iter().filter(|name| code.contains(**name)) {
            assert!(is_part || is_of_keys, "{} uses {name}, which is not as the caller sees it", module.join("::"));
        }
        let is_of_server = ["cli::serve", "http::health", "http::state"].contains(&&*module.join("::"));
        assert!(is_of_server || !code.contains("unscoped"), "{} uses what is not a caller's", module.join("::"));
    }
}

#[test]
fn nested_imports_are_seen() {
    let code =
        "use crate::{a::{self, B}, c::d}; fn f() { super::e::g(); vec![crate::h::I] } mod tests { use crate::j::k; }";
    let mut found = Vec::new();
    paths(code.parse().unwrap(), &[], &mut vec!["x".to_owned(), "y".to_owned()], &mut found);
    let found: Vec<String> = found.iter().map(|path| path.join("::")).collect();
    assert_eq!(found, ["a::self", "a::B", "c::d", "x::e::g", "h::I"]);
}
