//! Which way is up: the tag of EXIF, or what stands for it in XMP.
//!
//! Cameras and editors write the tag as they please; viewers take any whole number from 1 to 8.

use image::metadata::Orientation;

use super::ifd::Tags;

const TAG: u16 = 0x0112;
const XMP: u16 = 0x02bc;
/// Precedes EXIF in JPEG; some writers leave it there in other formats.
pub(super) const EXIF_PREFIX: &[u8] = b"Exif\0\0";

/// What EXIF, or a TIFF file, says.
pub(super) fn from_exif(exif: &[u8]) -> Option<Orientation> {
    let directory = Tags::new(exif.strip_prefix(EXIF_PREFIX).unwrap_or(exif))?.first()?;
    directory.value(TAG).and_then(known).or_else(|| from_xmp(directory.bytes(XMP)))
}

/// What XMP says, as an attribute (`tiff:Orientation="6"`) or an element (`<tiff:Orientation>6</tiff:Orientation>`).
pub(super) fn from_xmp(xmp: &[u8]) -> Option<Orientation> {
    let name = b"tiff:Orientation";
    let start = xmp.windows(name.len()).position(|window| window == name)? + name.len();
    let value = xmp[start..].iter().take(16).skip_while(|byte| !matches!(byte, b'"' | b'\'' | b'>')).nth(1)?;
    known(u64::from(value.checked_sub(b'0')?))
}

fn known(value: u64) -> Option<Orientation> {
    Orientation::from_exif(u8::try_from(value).ok()?)
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// EXIF with an orientation of this type, written `count` times in the order of bytes `order`.
    pub(in crate::vision) fn exif(order: &[u8; 2], kind: u16, count: u32, value: u32) -> Vec<u8> {
        let big = order == b"MM";
        let write = |value: u32, size: usize| {
            let bytes = value.to_be_bytes()[4 - size..].to_vec();
            if big { bytes } else { bytes.into_iter().rev().collect() }
        };
        let size = match kind {
            1 | 6 => 1,
            3 | 8 => 2,
            _ => 4,
        };
        let mut values: Vec<u8> = (0..count).flat_map(|_| write(value, size)).collect();
        let mut bytes = [order.as_slice(), &write(42, 2), &write(8, 4), &write(1, 2)].concat();
        bytes.extend([write(TAG.into(), 2), write(kind.into(), 2), write(count, 4)].concat());
        if values.len() <= 4 {
            values.resize(4, 0);
            bytes.extend([values, write(0, 4)].concat());
        } else {
            bytes.extend([write(26, 4), write(0, 4), values].concat());
        }
        bytes
    }

    #[test]
    fn the_tag_may_be_any_whole_number() {
        for order in [b"II", b"MM"] {
            for kind in [1, 3, 4, 6, 8, 9] {
                for count in [1, 2, 5] {
                    let found = from_exif(&exif(order, kind, count, 6));
                    assert_eq!(found, Some(Orientation::Rotate90), "{order:?} {kind} {count}");
                }
            }
        }
        let prefixed = [EXIF_PREFIX, &exif(b"MM", 3, 1, 8)].concat();
        assert_eq!(from_exif(&prefixed), Some(Orientation::Rotate270));
        for wrong in [exif(b"II", 5, 1, 6), exif(b"II", 3, 1, 0), exif(b"II", 3, 1, 9), exif(b"II", 4, 1, 1 << 16 | 6)]
        {
            assert_eq!(from_exif(&wrong), None);
        }
        for end in 0..26 {
            assert_eq!(from_exif(&exif(b"II", 3, 1, 6)[..end.min(19)]), None);
        }
    }

    #[test]
    fn xmp_is_an_attribute_or_an_element() {
        let upside_down = Some(Orientation::Rotate180);
        assert_eq!(from_xmp(b"<rdf:Description tiff:Orientation=\"3\" a=\"1\">"), upside_down);
        assert_eq!(from_xmp(b"<tiff:Orientation>3</tiff:Orientation>"), upside_down);
        assert_eq!(from_xmp(b"tiff:Orientation = '3'"), upside_down);
        for nothing in
            [&b"tiff:Orientation"[..], b"tiff:Orientation=\"", b"tiff:Orientation=\"0\"", b"exif:Flash=\"1\""]
        {
            assert_eq!(from_xmp(nothing), None);
        }
    }
}
