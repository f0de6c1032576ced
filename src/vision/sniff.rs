//! What a file is, by its content, never by a name or a media type.

use image::ImageFormat;

use super::decode::Format;
use super::raw;

/// What a file seems to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Image(Format),
    /// A camera's raw file.
    Raw,
    Avif,
    Video,
    /// Of a format that is known and not read.
    Other(ImageFormat),
    Unknown,
}

/// The kind of the file with these bytes, which may be the first ones only.
pub(super) fn kind(bytes: &[u8]) -> Kind {
    if raw::is_raw(bytes) {
        return Kind::Raw;
    }
    if bytes.get(4..8) == Some(b"ftyp") {
        return of_brands(bytes);
    }
    match image::guess_format(bytes) {
        Ok(ImageFormat::Jpeg) => Kind::Image(Format::Jpeg),
        Ok(ImageFormat::Png) => Kind::Image(Format::Png),
        Ok(ImageFormat::WebP) => Kind::Image(Format::WebP),
        Ok(ImageFormat::Gif) => Kind::Image(Format::Gif),
        Ok(ImageFormat::Bmp) => Kind::Image(Format::Bmp),
        Ok(ImageFormat::Tiff) => Kind::Image(Format::Tiff),
        Ok(ImageFormat::Pnm) => Kind::Image(Format::Pnm),
        Ok(other) => Kind::Other(other),
        Err(_) => Kind::Unknown,
    }
}

/// ISO base media files begin with a list of what they can be read as.
fn of_brands(bytes: &[u8]) -> Kind {
    let length = bytes.first_chunk().map_or(0, |length| u32::from_be_bytes(*length) as usize);
    let list = bytes.get(8..length.min(bytes.len())).unwrap_or_default();
    // The first brand, a version, the others.
    let brands = || list.as_chunks::<4>().0.iter();
    let has = |wanted: &[&[u8; 4]]| brands().any(|brand| wanted.contains(&brand));
    if has(&[b"avif", b"avis"]) {
        Kind::Avif
    } else if has(&[b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1"]) {
        Kind::Image(Format::Heic)
    } else {
        Kind::Video
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn brands(list: &[u8]) -> Kind {
        kind(&[&(list.len() as u32 + 8).to_be_bytes(), b"ftyp", list, b"\0\0\0\x08avif"].concat())
    }

    #[test]
    fn brands_tell_photos_from_videos() {
        let heic = Kind::Image(Format::Heic);
        assert_eq!(brands(b"heic\0\0\0\0mif1heicmiaf"), heic);
        assert_eq!(brands(b"mif1\0\0\0\0mif1heix"), heic);
        assert_eq!(brands(b"avif\0\0\0\0mif1miaf"), Kind::Avif);
        assert_eq!(brands(b"mif1\0\0\0\0avifmif1"), Kind::Avif);
        assert_eq!(brands(b"isom\0\0\0\0mp42"), Kind::Video);
        assert_eq!(brands(b"crx \0\0\0\x01crx isom"), Kind::Raw);
        assert_eq!(kind(b"\0\0\0\x18ftyp"), Kind::Video);
        assert_eq!(kind(b"hello"), Kind::Unknown);
    }
}
