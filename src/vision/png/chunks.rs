//! What the chunks of a PNG say of the whole image. They may stand before or behind the pixels, and be packed: no more of
//! them is unpacked than is useful, as a few kilobytes can hold gigabytes.

use std::borrow::Cow;
use std::io::Read;

use flate2::read::ZlibDecoder;
use image::metadata::Orientation;

use crate::vision::{icc, orientation};

/// Of text that may hold an orientation: EXIF in hexadecimal, with a preview perhaps.
const MOST_TEXT: u64 = 1 << 20;

/// Names and contents of the chunks. Their checksums are the decoder's to check.
fn chunks(bytes: &[u8]) -> impl Iterator<Item = (&[u8; 4], &[u8])> {
    let mut rest = bytes.get(8..).unwrap_or_default();
    std::iter::from_fn(move || {
        let (length, after) = rest.split_first_chunk::<4>()?;
        let (name, after) = after.split_first_chunk::<4>()?;
        let length = u32::from_be_bytes(*length) as usize;
        let body = after.get(..length)?;
        rest = after.get(length + 4..).unwrap_or_default();
        Some((name, body))
    })
}

/// By EXIF in its own chunk, or as ImageMagick writes it into a text, or else by XMP.
pub(super) fn orientation(bytes: &[u8]) -> Option<Orientation> {
    let own = || chunks(bytes).filter(|(name, _)| *name == b"eXIf").map(|(_, body)| body);
    own().find_map(orientation::from_exif).or_else(|| texts(bytes).find_map(|text| text.exif())).or_else(|| {
        texts(bytes)
            .filter(|text| text.key == b"XML:com.adobe.xmp")
            .find_map(|text| orientation::from_xmp(&text.value()))
    })
}

/// Length of the colour profile as it says it itself, 0 if there is none.
pub(super) fn profile_length(bytes: &[u8]) -> usize {
    packed_profile(bytes).and_then(icc::length).unwrap_or(0)
}

/// The colour profile; `None` if there is none of RGB, or one that is too long.
pub(super) fn profile(bytes: &[u8]) -> Option<Vec<u8>> {
    icc::read(packed_profile(bytes)?)
}

fn packed_profile(bytes: &[u8]) -> Option<ZlibDecoder<&[u8]>> {
    let (_, body) = chunks(bytes).find(|(name, _)| *name == b"iCCP")?;
    // A name, a zero, and how it is packed.
    Some(ZlibDecoder::new(split(body)?.1.get(1..)?))
}

/// A key with a text.
struct Text<'a> {
    key: &'a [u8],
    body: &'a [u8],
    packed: bool,
}

/// The texts that may say something of the orientation.
fn texts(bytes: &[u8]) -> impl Iterator<Item = Text<'_>> {
    let read = |(name, body): (&[u8; 4], _)| {
        let (key, rest) = split(body)?;
        let text = match name {
            b"tEXt" => Text { key, body: rest, packed: false },
            b"zTXt" => Text { key, body: rest.get(1..)?, packed: true },
            // Whether and how it is packed, a language, the key in that language.
            b"iTXt" => {
                let (_, translated) = split(rest.get(2..)?)?;
                Text { key, body: split(translated)?.1, packed: rest[0] == 1 }
            }
            _ => return None,
        };
        (key.starts_with(b"Raw profile type ") || key.starts_with(b"XML:")).then_some(text)
    };
    chunks(bytes).filter_map(read)
}

impl Text<'_> {
    fn value(&self) -> Cow<'_, [u8]> {
        if !self.packed {
            return self.body.into();
        }
        let mut text = Vec::new();
        // What was unpacked until an error is a text as well.
        let _length = ZlibDecoder::new(self.body).take(MOST_TEXT).read_to_end(&mut text);
        text.into()
    }

    /// Of a profile in hexadecimal, behind its name and length.
    fn exif(&self) -> Option<Orientation> {
        if !matches!(self.key, b"Raw profile type exif" | b"Raw profile type APP1") {
            return None;
        }
        let text = self.value();
        let mut lines = text.trim_ascii_start().splitn(3, |byte| *byte == b'\n').skip(2);
        let digits = lines.next()?.iter().filter_map(|digit| char::from(*digit).to_digit(16)).map(|digit| digit as u8);
        let mut digits = digits.take(2 * MOST_TEXT as usize);
        let profile: Vec<u8> = std::iter::from_fn(|| Some(digits.next()? << 4 | digits.next()?)).collect();
        orientation::from_exif(&profile).or_else(|| orientation::from_xmp(&profile))
    }
}

/// What stands before and behind the first zero.
fn split(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let end = memchr::memchr(0, bytes)?;
    Some((&bytes[..end], &bytes[end + 1..]))
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use flate2::Compression;
    use flate2::write::ZlibEncoder;

    use super::*;
    use crate::vision::orientation::tests::exif;

    fn png(chunks: &[(&[u8; 4], &[u8])]) -> Vec<u8> {
        let mut bytes = b"\x89PNG\r\n\x1a\n".to_vec();
        for (name, body) in chunks {
            bytes.extend([&(body.len() as u32).to_be_bytes(), name.as_slice(), body, &[0; 4]].concat());
        }
        bytes
    }

    fn packed(text: &[u8]) -> Vec<u8> {
        let mut encoder = ZlibEncoder::new(Vec::new(), Compression::fast());
        encoder.write_all(text).unwrap();
        encoder.finish().unwrap()
    }

    #[test]
    fn orientation_is_found_wherever_it_is() {
        let exif = exif(b"MM", 3, 1, 6);
        let prefixed = [orientation::EXIF_PREFIX, &exif].concat();
        let hex: String = prefixed.iter().map(|byte| format!("{byte:02x}")).collect();
        let raw = format!("\nexif\n{:>8}\n{}\n{}\n", prefixed.len(), &hex[..36], &hex[36..]);
        let named = |key: &str, middle: &[u8], text: &[u8]| [key.as_bytes(), middle, text].concat();
        let xmp = b"<x tiff:Orientation='6'/>".as_slice();
        for chunk in [
            (b"eXIf", exif.clone()),
            (b"eXIf", prefixed),
            (b"tEXt", named("Raw profile type exif", b"\0", raw.as_bytes())),
            (b"zTXt", named("Raw profile type APP1", b"\0\0", &packed(raw.as_bytes()))),
            (b"iTXt", named("Raw profile type exif", b"\0\x01\0en\0\0", &packed(raw.as_bytes()))),
            (b"iTXt", named("XML:com.adobe.xmp", b"\0\0\0\0\0", xmp)),
            (b"iTXt", named("XML:com.adobe.xmp", b"\0\x01\0\0\0", &packed(xmp))),
        ] {
            let chunk = (chunk.0, chunk.1.as_slice());
            for file in [png(&[(b"IHDR", b""), chunk, (b"IDAT", b"")]), png(&[(b"IDAT", b""), chunk, (b"IEND", b"")])] {
                assert_eq!(orientation(&file), Some(Orientation::Rotate90), "{:?}", chunk.0);
            }
        }
    }

    #[test]
    fn texts_that_unpack_to_anything_are_bounded() {
        let bomb = [b"Raw profile type exif\0\0".as_slice(), &packed(&vec![b'a'; 64 << 20])].concat();
        assert_eq!(orientation(&png(&[(b"zTXt", &bomb)])), None);
        let texts: Vec<usize> = texts(&png(&[(b"zTXt", &bomb)])).map(|text| text.value().len()).collect();
        assert_eq!(texts, [MOST_TEXT as usize]);
    }

    #[test]
    fn odd_chunks_are_passed_over() {
        for (name, body) in [(b"iTXt", &b"XML:\0\x01"[..]), (b"zTXt", b"no zero"), (b"tEXt", b""), (b"eXIf", b"II")] {
            assert_eq!(orientation(&png(&[(name, body)])), None);
        }
        assert_eq!(orientation(&png(&[])[..4]), None);
    }
}
