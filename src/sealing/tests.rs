use super::*;

const ONE: &str = "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f";
const OTHER: &str = "/////////////////////////////////////////wA=";
const JPEG: &[u8] = b"\xff\xd8 as it came \xff\xd9";

fn keyring(text: &str) -> Keyring {
    Keyring::read(text).unwrap()
}

fn opened(keyring: &Keyring, face: FaceId, sealed: &SealedChip) -> Result<Vec<u8>, SealingError> {
    keyring.open(face, sealed.chip.clone(), Some(&sealed.key))
}

#[test]
fn what_is_sealed_opens_again_and_shows_nothing() {
    for keyring in [Keyring::default(), keyring(ONE)] {
        let face = FaceId::new();
        let sealed = keyring.seal(face, JPEG);
        assert_eq!(opened(&keyring, face, &sealed), Ok(JPEG.to_vec()));
        assert!(is_sealed(&sealed.chip) && !is_sealed(JPEG));
        assert!(!sealed.chip.windows(5).any(|part| JPEG.windows(5).any(|plain| plain == part)));
        assert_eq!(sealed.sha256, <[u8; 32]>::from(Sha256::digest(JPEG)));
        assert_eq!(sealed.key.master, keyring.newest());
        assert_eq!(sealed.key.bytes.len(), if keyring.newest().is_some() { 60 } else { 32 });
        // Never twice the same.
        let again = keyring.seal(face, JPEG);
        assert!(again.chip != sealed.chip && again.key.bytes != sealed.key.bytes);
        assert!(!format!("{sealed:?} {keyring:?}").contains(ONE));
    }
}

/// By another implementation: Python's cryptography, AESGCM(key).encrypt(bytes(12), b"chip", b"faceid chip 1" + bytes(16)).
#[test]
fn it_is_aes_256_gcm() {
    let key: Vec<u8> = (0..32).collect();
    let cipher = Aes256Gcm::new_from_slice(&key).unwrap();
    let face = FaceId(uuid::Uuid::nil());
    let sealed = encrypt(&cipher, &CHIP_NONCE, OF_CHIP, face, b"chip");
    assert_eq!(hex(&sealed), "6dd4dcae43f292de2be3beca988160a75ff7b736");
}

#[test]
fn nothing_opens_that_was_changed_or_is_of_another() {
    let keyring = keyring(ONE);
    let (ada, bob) = (FaceId::new(), FaceId::new());
    let [of_ada, of_bob] = [ada, bob].map(|face| keyring.seal(face, JPEG));
    for place in 0..of_ada.chip.len() {
        let mut changed = of_ada.clone();
        changed.chip[place] ^= 1;
        assert_eq!(opened(&keyring, ada, &changed), Err(SealingError::Chip), "{place}");
    }
    for place in 0..of_ada.key.bytes.len() {
        let mut changed = of_ada.clone();
        changed.key.bytes[place] ^= 1;
        assert_eq!(opened(&keyring, ada, &changed), Err(SealingError::Key), "{place}");
    }
    for length in 0..of_ada.chip.len() {
        assert_eq!(keyring.open(ada, of_ada.chip[..length].to_vec(), Some(&of_ada.key)), Err(SealingError::Chip));
    }
    for length in 0..of_ada.key.bytes.len() {
        let short = StoredKey { bytes: of_ada.key.bytes[..length].to_vec(), master: of_ada.key.master };
        assert_eq!(keyring.open(ada, of_ada.chip.clone(), Some(&short)), Err(SealingError::Key));
        let bare = StoredKey { master: None, ..short };
        assert!(keyring.open(ada, of_ada.chip.clone(), Some(&bare)).is_err());
    }
    // Of another face: the chip, the key, or both.
    let swapped = SealedChip { key: of_ada.key.clone(), ..of_bob.clone() };
    assert_eq!(opened(&keyring, ada, &swapped), Err(SealingError::Chip));
    assert_eq!(
        opened(&keyring, ada, &SealedChip { key: of_bob.key.clone(), ..of_ada.clone() }),
        Err(SealingError::Key)
    );
    assert_eq!(opened(&keyring, ada, &of_bob), Err(SealingError::Key));
    let bare = Keyring::default();
    assert_eq!(opened(&bare, ada, &bare.seal(bob, JPEG)), Err(SealingError::Chip));
    // A plain chip in the place of one that has a key, and one without its key.
    assert_eq!(keyring.open(ada, JPEG.to_vec(), Some(&of_ada.key)), Err(SealingError::Chip));
    assert_eq!(keyring.open(ada, of_ada.chip, None), Err(SealingError::NoKey));
    assert_eq!(keyring.open(ada, JPEG.to_vec(), None), Ok(JPEG.to_vec()));
}

#[test]
fn keys_are_wrapped_anew_and_chips_stay() {
    let face = FaceId::new();
    let (bare, former, both, new) =
        (Keyring::default(), keyring(ONE), keyring(&format!("# new\n{OTHER}\n\n {ONE} \n{OTHER}")), keyring(OTHER));
    assert_eq!(both.ids().collect::<Vec<_>>(), [new.newest().unwrap(), former.newest().unwrap()]);
    let sealed = bare.seal(face, JPEG);
    let under_former = SealedChip { key: former.wrap_anew(face, &sealed.key).unwrap(), ..sealed.clone() };
    let under_new = SealedChip { key: both.wrap_anew(face, &under_former.key).unwrap(), ..sealed };
    assert_eq!((under_former.key.master, under_new.key.master), (former.newest(), new.newest()));
    for keyring in [&former, &both] {
        assert_eq!(opened(keyring, face, &under_former), Ok(JPEG.to_vec()));
    }
    for keyring in [&new, &both] {
        assert_eq!(opened(keyring, face, &under_new), Ok(JPEG.to_vec()));
    }
    let wrong = SealingError::OtherMaster(former.newest().unwrap());
    assert!(wrong.is_of_master() && !SealingError::Key.is_of_master());
    for keyring in [&new, &bare] {
        assert_eq!(opened(keyring, face, &under_former), Err(wrong.clone()));
        assert_eq!(keyring.wrap_anew(face, &under_former.key), Err(wrong.clone()));
    }
    let replaced = |keyring: &Keyring| [None, former.newest(), new.newest()].map(|master| keyring.replaces(master));
    assert_eq!(replaced(&bare), [false, false, false]);
    assert_eq!(replaced(&former), [true, false, false]);
    assert_eq!(replaced(&both), [true, true, false]);
    // Of a key that says to be under another master.
    let lying = StoredKey { master: new.newest(), ..under_former.key };
    assert_eq!(both.wrap_anew(face, &lying), Err(SealingError::Key));
}

#[test]
fn keys_are_read_as_programs_print_them() {
    let id = keyring(ONE).newest().unwrap();
    for same in [
        ONE.to_uppercase(),
        format!("{ONE}\r\n"),
        "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=".to_owned(),
        "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8".to_owned(),
    ] {
        assert_eq!(keyring(&same).newest(), Some(id), "{same}");
    }
    assert_eq!(keyring(&OTHER.replace('/', "_")).newest(), keyring(OTHER).newest());
    assert_eq!(MasterId::try_from(id.as_bytes()), Ok(id));
    assert_eq!(id.to_string().len(), 16);
    for (text, said) in [
        ("", "no key"),
        ("# nothing\n\n", "no key"),
        ("a password", "key 1"),
        (&format!("{ONE}\n{}", &ONE[2..]), "key 2"),
        (&format!("{ONE}00"), "key 1"),
        (&"zz".repeat(32), "key 1"),
        (&"+1".repeat(32), "key 1"),
        (&"ä".repeat(32), "key 1"),
    ] {
        let error = Keyring::read(text).unwrap_err().to_string();
        assert!(error.contains(said) && !error.contains("0001"), "{error}");
    }
}
