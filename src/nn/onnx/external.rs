//! Weights that an ONNX file keeps in files beside it, as exporters write large networks.
//!
//! Where a path is known they are read into one file, which can be stored and passed on. What the entries mean:
//! <https://onnx.ai/onnx/repo-docs/ExternalData.html>.

use std::collections::HashMap;
use std::fs::File;
use std::io::Read;
use std::path::{Component, Path};

use prost::Message;
use prost::bytes::Bytes;

use super::counts;
use super::load::malformed;
use super::proto::{GraphProto, ModelProto, TensorProto};
use crate::nn::error::NetworkError;

/// The content of the ONNX file at `path`, with what it keeps in other files of the same folder read into it. All together
/// may have at most `most` bytes. What is no ONNX file stays as it is, for the loader to say what is wrong with it.
pub fn self_contained(content: Vec<u8>, path: &Path, most: u64) -> Result<Vec<u8>, NetworkError> {
    let content = Bytes::from(content);
    if counts::check(&content).is_err() {
        return Ok(content.into());
    }
    let model = ModelProto::decode(content.clone()).ok();
    let Some(mut model) = model.filter(|model| model.graph.as_ref().and_then(first_outside).is_some()) else {
        return Ok(content.into());
    };
    let folder = path.parent().unwrap_or(Path::new(""));
    let mut files: HashMap<String, Bytes> = HashMap::new();
    // What is read and what is taken of it: several weights may be the same part of a file.
    let (mut unread, mut untaken) = (most, most.saturating_sub(content.len() as u64));
    for tensor in model.graph.iter_mut().flat_map(tensors_mut).filter(|tensor| is_outside(tensor)) {
        let place = Place::of(tensor)?;
        let file = match files.get(place.location) {
            Some(file) => file.clone(),
            None => {
                let file = read_beside(folder, &place, unread)?;
                unread = unread.saturating_sub(file.len() as u64);
                files.insert(place.location.to_owned(), file.clone());
                file
            }
        };
        let numbers = place.cut(&file)?;
        untaken = untaken
            .checked_sub(numbers.len() as u64)
            .ok_or_else(|| malformed(format!("with what it keeps in other files it has more than {most} bytes")))?;
        tensor.raw_data = numbers;
        tensor.external_data.clear();
        tensor.data_location = 0;
    }
    Ok(model.encode_to_vec())
}

/// Refuses a file that came without the files that its weights are in.
pub(super) fn check_whole(graph: &GraphProto) -> Result<(), NetworkError> {
    let Some(tensor) = first_outside(graph) else { return Ok(()) };
    let file = entry(tensor, "location").map_or_else(String::new, |location| format!(", {location:?}"));
    Err(malformed(format!(
        "its weights are in another file{file}, which did not come with it: `faceid models import` reads both, or make them \
         one file in Python: onnx.save_model(onnx.load(\"net.onnx\"), \"one-file.onnx\", save_as_external_data=False)"
    )))
}

fn is_outside(tensor: &TensorProto) -> bool {
    tensor.data_location != 0 || !tensor.external_data.is_empty()
}

fn first_outside(graph: &GraphProto) -> Option<&TensorProto> {
    let held = graph.node.iter().flat_map(|node| &node.attribute).filter_map(|attribute| attribute.t.as_ref());
    graph.initializer.iter().chain(held).find(|tensor| is_outside(tensor))
}

fn tensors_mut(graph: &mut GraphProto) -> impl Iterator<Item = &mut TensorProto> {
    let held = graph.node.iter_mut().flat_map(|node| &mut node.attribute).filter_map(|attribute| attribute.t.as_mut());
    graph.initializer.iter_mut().chain(held)
}

fn entry<'a>(tensor: &'a TensorProto, key: &str) -> Option<&'a str> {
    tensor.external_data.iter().find(|entry| entry.key == key).map(|entry| entry.value.as_str())
}

/// Where a weight is.
struct Place<'a> {
    weight: &'a str,
    /// The name of the file.
    location: &'a str,
    offset: usize,
    /// `None`: up to the end.
    length: Option<usize>,
}

impl<'a> Place<'a> {
    fn of(tensor: &'a TensorProto) -> Result<Self, NetworkError> {
        let weight = tensor.name.as_str();
        let number = |key: &str| {
            let parsed = entry(tensor, key).map(str::parse::<usize>).transpose();
            parsed.map_err(|_| malformed(format!("weight {weight:?}: its {key} in another file is no number")))
        };
        let location = entry(tensor, "location")
            .ok_or_else(|| malformed(format!("weight {weight:?} is in another file, and its name is missing")))?;
        Ok(Self { weight, location, offset: number("offset")?.unwrap_or(0), length: number("length")? })
    }

    fn cut(&self, file: &Bytes) -> Result<Bytes, NetworkError> {
        let Self { weight, location, offset, length } = *self;
        let end = length.map_or(Some(file.len()), |length| offset.checked_add(length));
        match end {
            Some(end) if offset <= end && end <= file.len() => Ok(file.slice(offset..end)),
            _ => Err(malformed(format!(
                "weight {weight:?} would be {} bytes at {offset} of {location:?}, which has {}",
                length.unwrap_or_default(),
                file.len()
            ))),
        }
    }
}

/// The file of a place. Only one of the folder itself, and no link: whoever made the network must not choose what else of this
/// machine is read.
fn read_beside(folder: &Path, place: &Place, most: u64) -> Result<Bytes, NetworkError> {
    let Place { weight, location, .. } = place;
    let mut parts = Path::new(location).components();
    if !matches!((parts.next(), parts.next()), (Some(Component::Normal(name)), None) if name == *location) {
        return Err(malformed(format!("weight {weight:?} is in {location:?}, which is no file of the same folder")));
    }
    let path = folder.join(location);
    let failed = |source| NetworkError::Read { path: path.clone(), source };
    let known = path.symlink_metadata().map_err(failed)?;
    if !known.is_file() {
        return Err(malformed(format!(
            "weight {weight:?} is in {location:?}: a link or a folder; put the file itself there"
        )));
    }
    if known.len() > most {
        return Err(NetworkError::FileTooLarge { path: path.clone(), bytes: known.len(), limit: most });
    }
    let mut content = Vec::new();
    // The file may grow between the question and the reading.
    File::open(&path).map_err(failed)?.take(most).read_to_end(&mut content).map_err(failed)?;
    Ok(content.into())
}

#[cfg(test)]
mod tests {
    use super::super::proto::{StringStringEntryProto, data_type};
    use super::*;

    const MOST: u64 = 1 << 20;

    /// A file with one weight, which is in another.
    fn model(entries: &[(&str, &str)]) -> Vec<u8> {
        let entry = |(key, value): &(&str, &str)| StringStringEntryProto { key: (*key).into(), value: (*value).into() };
        let weight = TensorProto {
            name: "w".into(),
            dims: vec![2],
            data_type: data_type::FLOAT,
            external_data: entries.iter().map(entry).collect(),
            data_location: 1,
            ..TensorProto::default()
        };
        let graph = GraphProto { initializer: vec![weight], ..GraphProto::default() };
        ModelProto { graph: Some(graph), ..ModelProto::default() }.encode_to_vec()
    }

    fn folder() -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        let numbers: Vec<u8> = (0..4).flat_map(|n| (n as f32).to_le_bytes()).collect();
        std::fs::write(folder.path().join("net.data"), numbers).unwrap();
        folder
    }

    fn read(folder: &tempfile::TempDir, entries: &[(&str, &str)], most: u64) -> Result<Vec<u8>, String> {
        let path = folder.path().join("net.onnx");
        let content = self_contained(model(entries), &path, most).map_err(|error| error.to_string())?;
        let graph = ModelProto::decode(content.as_slice()).unwrap().graph.unwrap();
        assert!(check_whole(&graph).is_ok());
        Ok(graph.initializer[0].raw_data.to_vec())
    }

    #[test]
    fn weights_beside_the_file_are_read_into_it() {
        let folder = folder();
        let part = read(&folder, &[("location", "net.data"), ("offset", "8"), ("length", "8")], MOST).unwrap();
        assert_eq!(part, [2.0_f32.to_le_bytes(), 3.0_f32.to_le_bytes()].concat());
        assert_eq!(read(&folder, &[("location", "net.data")], MOST).unwrap().len(), 16);
        assert_eq!(read(&folder, &[("location", "net.data"), ("checksum", "?")], MOST).unwrap().len(), 16);
        assert_eq!(self_contained(b"no network".to_vec(), Path::new("x"), MOST).unwrap(), b"no network");
    }

    #[test]
    fn nothing_but_files_of_the_folder_is_read() {
        let folder = folder();
        std::fs::create_dir(folder.path().join("inner")).unwrap();
        std::os::unix::fs::symlink("/etc/hostname", folder.path().join("link")).unwrap();
        for location in
            ["../net.data", "/etc/hostname", "inner/x", "./net.data", "..", ".", "", "net.data/", "inner/../net.data"]
        {
            let refusal = read(&folder, &[("location", location)], MOST).unwrap_err();
            assert!(refusal.contains("no file of the same folder"), "{location}: {refusal}");
        }
        for location in ["link", "inner"] {
            let refusal = read(&folder, &[("location", location)], MOST).unwrap_err();
            assert!(refusal.contains("a link or a folder"), "{location}: {refusal}");
        }
        assert!(read(&folder, &[("location", "absent")], MOST).unwrap_err().contains("cannot read"));
    }

    #[test]
    fn lengths_are_those_of_the_file() {
        let folder = folder();
        for (offset, length) in [("0", "17"), ("9", "8"), ("17", "0"), ("18446744073709551615", "8")] {
            let entries = [("location", "net.data"), ("offset", offset), ("length", length)];
            let refusal = read(&folder, &entries, MOST).unwrap_err();
            assert!(refusal.contains("which has 16"), "{refusal}");
        }
        let refusal = read(&folder, &[("location", "net.data"), ("offset", "-1")], MOST).unwrap_err();
        assert!(refusal.contains("its offset in another file is no number"), "{refusal}");
        assert!(read(&folder, &[("location", "net.data")], 15).unwrap_err().contains("at most 15"));
        assert!(read(&folder, &[("location", "net.data")], 20).unwrap_err().contains("more than 20 bytes"));
        assert!(read(&folder, &[], MOST).unwrap_err().contains("its name is missing"));
    }
}
