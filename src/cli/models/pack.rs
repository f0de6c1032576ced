//! An archive of several networks, such as InsightFace's packs: the one that embeds faces is found.

use std::io::{Cursor, Read};

use bytes::Bytes;
use zip::ZipArchive;

use super::super::CliError;
use crate::nn::onnx;
use crate::types::Chip;

/// No pack has more, and no network in one is larger.
const MOST_ENTRIES: usize = 64;
const MOST_BYTES: u64 = 1 << 30;

/// The embedder of an archive.
pub struct Found {
    /// Its file, without folders and ending.
    pub name: String,
    pub content: Bytes,
    /// Networks of the archive that take images of any size: detectors, if they are what such packs hold.
    pub detectors: Vec<String>,
}

/// The network in an archive that reads chips, `N x 3 x 112 x 112`; `None` if this is no archive of ONNX files (TorchScript is an
/// archive, too).
pub fn embedder(content: &[u8]) -> Result<Option<Found>, CliError> {
    let Ok(mut archive) = ZipArchive::new(Cursor::new(content)) else { return Ok(None) };
    // Names that are no text are those of no network that is looked for.
    let names = archive.file_names().filter_map(|name| Some(name.ok()?.into_owned()));
    let mut names: Vec<String> = names.filter(|name| name.to_ascii_lowercase().ends_with(".onnx")).collect();
    names.sort();
    if names.is_empty() {
        return Ok(None);
    }
    if names.len() > MOST_ENTRIES {
        return Err(CliError::Usage(format!(
            "the archive holds more than {MOST_ENTRIES} networks; unpack it and import one"
        )));
    }
    let (mut found, mut detectors, mut inputs) = (Vec::new(), Vec::new(), Vec::new());
    for name in &names {
        let network = read(&mut archive, name)?;
        let input = onnx::declared_input(network.clone()).unwrap_or_default();
        let side = Some(i64::from(Chip::SIDE));
        match input[..] {
            [_, Some(3), height, width] if (height, width) == (side, side) => found.push((name, network)),
            [_, Some(3), None, None] => detectors.push(name.clone()),
            _ => {}
        }
        let sides: Vec<_> = input.iter().map(|side| side.map_or("?".to_owned(), |side| side.to_string())).collect();
        inputs.push(format!(
            "{name} reads {}",
            if sides.is_empty() { "what it does not say".to_owned() } else { sides.join(" x ") }
        ));
    }
    match &found[..] {
        [(name, content)] => {
            let file = name.rsplit('/').next().unwrap_or(name);
            let name = file[..file.len() - ".onnx".len()].to_owned();
            Ok(Some(Found { name, content: content.clone(), detectors }))
        }
        several => Err(CliError::Usage(format!(
            "the archive holds {} networks that read N x 3 x 112 x 112, one is expected: {}; unpack it and import one",
            several.len(),
            inputs.join(", ")
        ))),
    }
}

fn read(archive: &mut ZipArchive<Cursor<&[u8]>>, name: &str) -> Result<Bytes, CliError> {
    let unreadable =
        |error: &dyn std::fmt::Display| CliError::Usage(format!("cannot read {name} of the archive: {error}"));
    let entry = archive.by_name(name).map_err(|error| unreadable(&error))?;
    let mut content = Vec::new();
    entry.take(MOST_BYTES + 1).read_to_end(&mut content).map_err(|error| unreadable(&error))?;
    if content.len() as u64 > MOST_BYTES {
        return Err(unreadable(&"it has more than 1 GiB"));
    }
    Ok(content.into())
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use zip::ZipWriter;
    use zip::write::SimpleFileOptions;

    use super::*;
    use crate::nn::onnx::Writer;

    /// A network that reads images of a side.
    fn network(side: i64) -> Vec<u8> {
        let (mut writer, input) = Writer::new(3, side);
        let value = writer.relu(&input);
        writer.finish(&value, 3)
    }

    fn archive(files: &[(&str, Vec<u8>)]) -> Vec<u8> {
        let mut zip = ZipWriter::new(Cursor::new(Vec::new()));
        for (name, content) in files {
            zip.start_file(*name, SimpleFileOptions::default()).unwrap();
            zip.write_all(content).unwrap();
        }
        zip.finish().unwrap().into_inner()
    }

    #[test]
    fn the_embedder_of_a_pack_is_known_by_its_input() {
        let files =
            [("p/2d106det.onnx", network(192)), ("p/det_10g.onnx", network(-1)), ("p/w600k.onnx", network(112))];
        let found = embedder(&archive(&files)).unwrap().unwrap();
        assert_eq!((found.name.as_str(), &found.content[..]), ("w600k", &files[2].1[..]));
        assert_eq!(found.detectors, ["p/det_10g.onnx"]);
    }

    #[test]
    fn packs_without_one_embedder_say_what_they_hold() {
        let refusal = |files: &[(&str, Vec<u8>)]| embedder(&archive(files)).err().unwrap().to_string();
        let none = refusal(&[("a.onnx", network(96)), ("b.onnx", b"?".to_vec())]);
        assert!(none.contains("holds 0 networks") && none.contains("a.onnx reads ? x 3 x 96 x 96"), "{none}");
        assert!(none.contains("b.onnx reads what it does not say"), "{none}");
        assert!(refusal(&[("a.onnx", network(112)), ("b.onnx", network(112))]).contains("holds 2 networks"));
    }

    #[test]
    fn other_files_are_no_packs() {
        assert!(embedder(b"no archive").unwrap().is_none());
        assert!(embedder(&network(112)).unwrap().is_none());
        assert!(embedder(&archive(&[("net/data.pkl", Vec::new())])).unwrap().is_none());
    }
}
