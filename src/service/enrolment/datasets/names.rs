//! In which character set the names in an archive are.

use zip::System;
use zip::read::ZipFileEntry;

/// Letters of the first code page of DOS that are the same in those that its Western and Central European users had instead
/// (850 and 852).
const LETTERS: [(u8, char); 16] = [
    (0x81, 'ü'),
    (0x82, 'é'),
    (0x83, 'â'),
    (0x84, 'ä'),
    (0x87, 'ç'),
    (0x89, 'ë'),
    (0x8c, 'î'),
    (0x8e, 'Ä'),
    (0x90, 'É'),
    (0x93, 'ô'),
    (0x94, 'ö'),
    (0x99, 'Ö'),
    (0x9a, 'Ü'),
    (0xa0, 'á'),
    (0xa1, 'í'),
    (0xa2, 'ó'),
];

/// Small letters where code page 852 has capitals, which do not follow a small letter in a name.
const LETTERS_WITHIN: [(u8, char); 6] = [(0x8a, 'è'), (0x8d, 'ì'), (0x91, 'æ'), (0x95, 'ò'), (0x97, 'ù'), (0xa4, 'ñ')];

/// The path of an entry, or how it is shown if nobody knows in which character set it is.
///
/// A Unicode path beside the name comes first, as the reader of archives sees to. Then bytes that are UTF-8 are UTF-8, for many
/// programs write it without saying so. Others may be of DOS, if the archive was made there and they read like a name by it. A
/// wrong guess would give somebody another name, so everything else is refused.
pub(super) fn path(entry: &ZipFileEntry<'_>) -> Result<String, String> {
    let name = entry.name_raw();
    if let Ok(path) = std::str::from_utf8(name) {
        return Ok(path.to_owned());
    }
    let is_of_dos = entry.system() == System::Dos && !says_utf8(entry);
    let read = is_of_dos.then(|| of_dos(name)).flatten();
    read.ok_or_else(|| name.escape_ascii().to_string())
}

/// Bit 11 of the flags: what it says is not so, if its bytes are no UTF-8.
fn says_utf8(entry: &ZipFileEntry<'_>) -> bool {
    entry.flags().as_u16() & 1 << 11 != 0
}

/// A text in a code page of DOS, if it reads like names of Western Europe: letters among ASCII, one at a time, capitals at the
/// start of a word.
fn of_dos(bytes: &[u8]) -> Option<String> {
    let mut text = String::with_capacity(bytes.len());
    for (at, byte) in bytes.iter().enumerate() {
        if byte.is_ascii() {
            text.push((*byte).into());
            continue;
        }
        let before = at.checked_sub(1).map(|at| bytes[at]);
        let after = bytes.get(at + 1);
        let alone = [before.as_ref(), after].into_iter().flatten().all(u8::is_ascii);
        let follows_small = before.is_some_and(|byte| byte.is_ascii_lowercase());
        let follows_letter = before.is_some_and(|byte| byte.is_ascii_alphabetic());
        let before_small = after.is_some_and(u8::is_ascii_lowercase);
        let of = |letters: &[(u8, char)]| letters.iter().find(|(code, _)| code == byte).map(|(_, letter)| *letter);
        let letter = of(&LETTERS).or_else(|| of(&LETTERS_WITHIN).filter(|_| follows_small))?;
        let fits = match letter.is_uppercase() {
            true => !follows_letter && before_small,
            false => follows_letter || before_small,
        };
        text.push(Some(letter).filter(|_| alone && fits)?);
    }
    Some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_dos_are_read_and_nothing_is_guessed() {
        for (bytes, name) in [
            (&b"Ren\x82/1.jpg"[..], "René/1.jpg"),
            (b"J\x81rgen M\x94ller", "Jürgen Möller"),
            (b"\x90mile", "Émile"),
            (b"Mu\xa4oz", "Muñoz"),
            (b"Mich\x8ale", "Michèle"),
            (b"plain", "plain"),
        ] {
            assert_eq!(of_dos(bytes).as_deref(), Some(name));
        }
        for (bytes, what) in [
            (&b"Jos\xe9"[..], "é of Latin 1"),
            (b"Fran\xe7ois", "ç of Latin 1"),
            (b"\x85\xa2\xa0", "Ева of DOS in Russia"),
            (b"Micha\x88", "ł of code page 852"),
            (b"\x8aimon", "Š of Windows"),
            (b"\x93\x63\x92\x86", "Shift JIS"),
            (b"\x8eR\x93c", "Shift JIS"),
            (b"\xcd\xf5\xce\xb0", "GBK"),
            (b"Stra\xe1e", "ß of DOS or á of Latin 1"),
        ] {
            assert_eq!(of_dos(bytes), None, "{what}");
        }
    }
}
