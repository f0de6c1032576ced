//! What a name is: of a gallery, of a subject, at whatever door it comes in.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};
use unicode_normalization::{IsNormalized, UnicodeNormalization, is_nfc_quick};
use utoipa::ToSchema;

use super::InvalidValue;

/// The name of a gallery or a subject: 1 to 255 characters of Unicode, in the normal form C, so that whatever looks the same
/// to a reader in either spelling of its accents is the same name.
///
/// White space around it and control characters are refused rather than taken off: nobody sees them, and whoever sends them
/// does not mean to. So is U+FFFD, which says that somebody read the name by the wrong character set.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
#[serde(try_from = "String")]
#[schema(min_length = 1, max_length = 255)]
pub struct Name(String);

impl Name {
    /// Most characters of a name.
    pub const LONGEST: usize = 255;

    /// A name as the database has it, where it may be from a time with other rules.
    pub fn stored(name: String) -> Self {
        Self(name)
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for Name {
    type Error = InvalidValue;

    fn try_from(name: String) -> Result<Self, InvalidValue> {
        if name.starts_with(char::is_whitespace) || name.ends_with(char::is_whitespace) {
            return Err(InvalidValue::NameSpace);
        }
        composed(name).map(Self)
    }
}

/// With what names begin that are looked for. White space at its end is looked for as well: `Ada ` is the beginning of
/// `Ada Lovelace`, and not of `Adam`. Else it is as a [`Name`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(try_from = "String")]
#[schema(min_length = 1, max_length = 255)]
pub struct NamePrefix(String);

impl NamePrefix {
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for NamePrefix {
    type Error = InvalidValue;

    fn try_from(prefix: String) -> Result<Self, InvalidValue> {
        if prefix.starts_with(char::is_whitespace) {
            return Err(InvalidValue::PrefixSpace);
        }
        composed(prefix).map(Self)
    }
}

/// In the normal form C, if a name can hold these characters and as many.
fn composed(text: String) -> Result<String, InvalidValue> {
    for (at, character) in (1..).zip(text.chars()) {
        match character {
            '\u{fffd}' => return Err(InvalidValue::NameReplacement { at }),
            '\u{2028}' | '\u{2029}' => return Err(InvalidValue::NameControl { at, code: character.into() }),
            _ if character.is_control() => return Err(InvalidValue::NameControl { at, code: character.into() }),
            _ => {}
        }
    }
    let text = match nfc(&text) {
        Cow::Borrowed(_) => text,
        Cow::Owned(composed) => composed,
    };
    match text.chars().count() {
        1..=Name::LONGEST => Ok(text),
        length => Err(InvalidValue::NameLength(length)),
    }
}

impl std::fmt::Display for Name {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

/// A text in Unicode's normal form C, in which names are stored and compared.
pub fn nfc(text: &str) -> Cow<'_, str> {
    match is_nfc_quick(text.chars()) {
        IsNormalized::Yes => Cow::Borrowed(text),
        IsNormalized::No | IsNormalized::Maybe => Cow::Owned(text.nfc().collect()),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn name(text: &str) -> Result<String, InvalidValue> {
        Name::try_from(text.to_owned()).map(|name| name.to_string())
    }

    #[test]
    fn names_are_counted_in_characters() {
        assert!(name(&"é".repeat(255)).is_ok());
        assert_eq!(name(&"é".repeat(256)), Err(InvalidValue::NameLength(256)));
        assert_eq!(name(""), Err(InvalidValue::NameLength(0)));
        // Two characters each until they are composed.
        assert_eq!(name(&"e\u{301}".repeat(255)), Ok("é".repeat(255)));
    }

    #[test]
    fn either_spelling_is_one_name() {
        for (one, other) in
            [("Jos\u{e9}", "Jose\u{301}"), ("\u{212b}sa", "A\u{30a}sa"), ("각", "\u{1100}\u{1161}\u{11a8}")]
        {
            assert_eq!(name(one).unwrap(), name(other).unwrap());
        }
        // Compatible is not equal: these are different people.
        assert_ne!(name("ﬁn").unwrap(), name("fin").unwrap());
    }

    #[test]
    fn what_nobody_sees_is_refused() {
        for text in [" ", " Ada", "Ada ", "Ada\n", "\tAda", "\u{a0}Ada", "Ada\u{3000}", "\u{2028}Ada"] {
            assert_eq!(name(text), Err(InvalidValue::NameSpace), "{text:?}");
        }
        for (text, at, code) in
            [("A\0", 2, 0), ("Ada\tL", 4, 9), ("\u{7f}", 1, 0x7f), ("A\u{9b}a", 2, 0x9b), ("a\u{2029}b", 2, 0x2029)]
        {
            assert_eq!(name(text), Err(InvalidValue::NameControl { at, code }), "{text:?}");
        }
        assert_eq!(name("Jos\u{fffd}"), Err(InvalidValue::NameReplacement { at: 4 }));
        let told = InvalidValue::NameControl { at: 4, code: 9 }.to_string();
        assert!(told.contains("character 4 of this one is U+0009"), "{told}");
        for text in ["Ada Lovelace", "👩‍🚀", "a/b?c#d%2f", ".", "..", "O'Neil\\"] {
            assert_eq!(name(text).unwrap(), text);
        }
    }

    #[test]
    fn a_prefix_may_end_with_a_space() {
        let prefix = |text: &str| NamePrefix::try_from(text.to_owned()).map(|prefix| prefix.as_str().to_owned());
        for text in ["Ada ", "Ada", "Ada\u{3000}"] {
            assert_eq!(prefix(text).unwrap(), text);
        }
        assert_eq!(prefix("Jose\u{301} "), Ok("Jos\u{e9} ".to_owned()));
        for text in [" Ada", " ", "\u{a0}"] {
            assert_eq!(prefix(text), Err(InvalidValue::PrefixSpace), "{text:?}");
        }
        assert_eq!(prefix("Ada\n"), Err(InvalidValue::NameControl { at: 4, code: 10 }));
        assert_eq!(prefix("Jos\u{fffd}"), Err(InvalidValue::NameReplacement { at: 4 }));
        for (length, is_one) in [(0, false), (255, true), (256, false)] {
            assert_eq!(prefix(&"x".repeat(length)).is_ok(), is_one, "{length}");
        }
    }

    proptest! {
        #[test]
        fn a_name_is_a_name_again(text in "\\PC{0,30}") {
            if let Ok(once) = name(&text) {
                prop_assert_eq!(name(&once).unwrap(), once.clone());
                prop_assert_eq!(nfc(&text), once);
            }
        }
    }
}
