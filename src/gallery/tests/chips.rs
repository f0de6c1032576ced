//! Chips are encrypted in the database, and their keys can be wrapped by master keys, anew and by others.

use super::*;
use crate::db::PageRequest;
use crate::gallery::{ChipsDone, KeysUnder};
use crate::sealing::{Keyring, MasterId, SealingError, is_sealed};

const FORMER: &str = "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f";
const NEWEST: &str = "ff0102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1eff";

fn id(key: &str) -> Option<MasterId> {
    Keyring::read(key).unwrap().newest()
}

async fn open(pools: &Pools, keys: &str) -> Result<Galleries, GalleryError> {
    Galleries::open(pools, if keys.is_empty() { Keyring::default() } else { Keyring::read(keys).unwrap() }).await
}

/// A new database as somebody sees it who is given these master keys.
async fn fixture(keys: &str) -> (Fixture, Pools) {
    let pools = database().await;
    let db = Fixture::on(pools.clone()).await;
    sqlx::query("update models set state = 'active'").execute(&db.pool).await.unwrap();
    let galleries = open(&pools, keys).await.unwrap();
    (Fixture { galleries, ..db }, pools)
}

impl Fixture {
    /// Faces of as many subjects.
    async fn enroll_some(&self, count: usize) -> Vec<FaceId> {
        let mut faces = Vec::new();
        for n in 0..count {
            faces.push(self.enroll("default", &format!("person {n}"), &axis(n)).await.face_id);
        }
        faces
    }

    async fn execute(&self, statement: &'static str, face: FaceId) {
        sqlx::query(statement).bind(face.0).execute(&self.pool).await.unwrap();
    }

    /// As it was stored before there were keys.
    async fn make_plain(&self, face: FaceId) {
        self.execute("delete from chip_keys where face_id = $1", face).await;
        self.execute("update faces set chip = 'plain' where id = $1", face).await;
    }

    async fn set_aside_chips(&self) -> Vec<FaceId> {
        let page = self.galleries.list_set_aside(PageRequest::default()).await.unwrap();
        let mut faces: Vec<FaceId> =
            page.items.iter().filter(|item| item.work == "chips").filter_map(|item| item.face).collect();
        faces.sort_unstable();
        faces
    }
}

/// Encrypts and wraps whatever is due, as the job does.
async fn bring_up_to_date(galleries: &Galleries) -> (u64, u64) {
    let plain = galleries.plain_chips(None).await.unwrap().0;
    let encrypted = galleries.encrypt_chips(&plain).await.unwrap().done;
    let mut wrapped = 0;
    for under in galleries.count_chip_keys().await.unwrap() {
        let mut after = None;
        while galleries.wraps_anew(under.master)
            && let Some(piece) = galleries.wrap_keys(under.master, &mut after).await.unwrap()
        {
            wrapped += piece.done;
        }
    }
    (encrypted, wrapped)
}

async fn under(galleries: &Galleries) -> Vec<(Option<MasterId>, u64)> {
    let counts = galleries.count_chip_keys().await.unwrap();
    counts.into_iter().map(|KeysUnder { master, keys }| (master, keys)).collect()
}

#[tokio::test]
async fn a_chip_is_stored_encrypted_and_its_key_goes_with_the_face() {
    for keys in ["", NEWEST] {
        let (db, _) = fixture(keys).await;
        let faces = db.enroll_some(2).await;
        let jpeg = b"\xff\xd8 not really a JPEG \xff\xd9";
        assert_eq!(db.galleries.chip(faces[0]).await.unwrap(), jpeg);
        let stored: Vec<Vec<u8>> = sqlx::query_scalar("select chip from faces").fetch_all(&db.pool).await.unwrap();
        assert!(stored.iter().all(|chip| is_sealed(chip) && !chip.windows(4).any(|part| part == b"JPEG")));
        assert!(stored[0] != stored[1], "of one JPEG, by two keys");
        let master = if keys.is_empty() { None } else { id(keys) };
        assert_eq!(under(&db.galleries).await, [(master, 2)]);
        // A face that moves, and a subject that is merged, keep it.
        db.galleries.move_face(faces[0], &name("somebody else")).await.unwrap();
        db.galleries.merge_small_subject("default", "somebody else", "person 1", &Expected::Any).await.unwrap();
        for face in &faces {
            assert_eq!(db.galleries.chip(*face).await.unwrap(), jpeg);
        }
        db.galleries.delete_face(faces[0]).await.unwrap();
        assert_eq!(db.rows("chip_keys").await, 1);
        db.erase_subject("default", "somebody else").await.unwrap();
        assert_eq!(db.rows("chip_keys").await, 0);
    }
}

#[tokio::test]
async fn who_lacks_a_master_key_does_not_begin() {
    let (db, pools) = fixture(FORMER).await;
    let face = db.enroll_some(1).await[0];
    for keys in ["", NEWEST] {
        let refused = open(&pools, keys).await.unwrap_err();
        let said = refused.to_string();
        assert!(matches!(refused, GalleryError::OtherChipKeys { .. }) && said.contains("FACEID_CHIP_KEY"), "{said}");
        assert!(said.contains(&id(FORMER).unwrap().to_string()) && !said.contains(FORMER), "{said}");
    }
    // It came while they were there already.
    let without = Galleries::new(&pools);
    let error = without.chip(face).await.unwrap_err();
    let of_master = |error: &GalleryError| matches!(error, GalleryError::UnreadableChip { source: SealingError::OtherMaster(other), .. } if Some(*other) == id(FORMER));
    assert!(of_master(&error), "{error}");
    // Nothing is wrong with the face, so that it is not set aside.
    assert!(of_master(&without.chips_of(&[face]).await.unwrap_err()));
    assert!(of_master(&without.chips_to_embed(&[face]).await.unwrap_err()));
    assert!(of_master(&without.snapshot("default").await.unwrap().next(None, true).await.unwrap_err()));
    assert!(without.snapshot("default").await.unwrap().next(None, false).await.is_ok());
    assert_eq!(db.set_aside_chips().await, []);
    let both = open(&pools, &format!("{NEWEST}\n{FORMER}")).await.unwrap();
    assert_eq!(both.chip(face).await.unwrap(), db.galleries.chip(face).await.unwrap());
}

#[tokio::test]
async fn what_is_plain_or_under_a_former_key_is_brought_up_to_date() {
    let (db, pools) = fixture("").await;
    let faces = db.enroll_some(6).await;
    let jpeg = db.galleries.chip(faces[0]).await.unwrap();
    for face in &faces[..2] {
        db.make_plain(*face).await;
        assert_eq!(db.galleries.chip(*face).await.unwrap(), b"plain");
    }
    db.execute("update faces set chip = null where id = $1", faces[5]).await;
    db.execute("delete from chip_keys where face_id = $1", faces[5]).await;
    assert_eq!(db.galleries.count_plain_chips().await.unwrap(), 2);
    assert_eq!(db.galleries.plain_chips(None).await.unwrap(), (faces[..2].to_vec(), Some(faces[5])));
    assert_eq!(db.galleries.plain_chips(Some(faces[0])).await.unwrap().0, faces[1..2]);
    assert_eq!(db.galleries.plain_chips(Some(faces[5])).await.unwrap(), (vec![], None));
    // A photo is the same one before and after.
    for face in &faces[..2] {
        db.execute(
            "update faces set image_sha256 = null, subject_id = (select subject_id from faces limit 1) where id = $1",
            *face,
        )
        .await;
    }
    let photos = async |galleries: &Galleries| {
        let of = galleries.chips_of(&faces[..2]).await.unwrap();
        assert_eq!(galleries.training_stock(DEFAULT_GALLERY).await.unwrap().copies, 1);
        assert_eq!(of[0].photo, of[1].photo);
        of[0].photo
    };
    let before = photos(&db.galleries).await;

    let former = open(&pools, FORMER).await.unwrap();
    assert_eq!(bring_up_to_date(&former).await, (2, 3));
    assert_eq!(under(&former).await, [(id(FORMER), 5)]);
    assert_eq!((former.count_plain_chips().await.unwrap(), bring_up_to_date(&former).await), (0, (0, 0)));
    assert!(is_sealed(
        &sqlx::query_scalar::<_, Vec<u8>>("select chip from faces limit 1").fetch_one(&db.pool).await.unwrap()
    ));
    assert_eq!(photos(&former).await, before);

    let both = open(&pools, &format!("{NEWEST}\n{FORMER}")).await.unwrap();
    assert_eq!(bring_up_to_date(&both).await, (0, 5));
    let newest = open(&pools, NEWEST).await.unwrap();
    assert_eq!(under(&newest).await, [(id(NEWEST), 5)]);
    assert_eq!(newest.chip(faces[0]).await.unwrap(), b"plain");
    assert_eq!(newest.chip(faces[4]).await.unwrap(), jpeg);
    assert!(matches!(newest.chip(faces[5]).await, Err(GalleryError::NoChip(_))));
}

#[tokio::test]
async fn work_on_keys_waits_for_nobody() {
    let (db, pools) = fixture("").await;
    let faces = db.enroll_some(2).await;
    db.make_plain(faces[0]).await;
    let newest = open(&pools, NEWEST).await.unwrap();
    let mut held = db.pool.begin().await.unwrap();
    sqlx::query("select from faces for update").execute(&mut *held).await.unwrap();
    sqlx::query("select from chip_keys for update").execute(&mut *held).await.unwrap();
    assert_eq!(newest.encrypt_chips(&faces[..1]).await.unwrap(), ChipsDone::default());
    assert_eq!(newest.wrap_keys(None, &mut None).await.unwrap(), None);
    held.rollback().await.unwrap();
    assert_eq!(newest.encrypt_chips(&faces).await.unwrap(), ChipsDone { done: 1, set_aside: 0 });
    assert_eq!(newest.wrap_keys(None, &mut None).await.unwrap(), Some(ChipsDone { done: 1, set_aside: 0 }));
    assert_eq!(under(&newest).await, [(id(NEWEST), 2)]);
}

#[tokio::test]
async fn what_cannot_be_read_is_set_aside_and_nothing_else() {
    let (db, pools) = fixture(FORMER).await;
    let faces = db.enroll_some(6).await;
    // Damaged, with the chip of another, with the key of another, with a damaged key, without its key; and one that is well.
    db.execute("update faces set chip = set_byte(chip, 20, 255 - get_byte(chip, 20)) where id = $1", faces[0]).await;
    db.execute("update faces set chip = (select chip from faces order by id desc limit 1) where id = $1", faces[1])
        .await;
    db.execute(
        "update chip_keys set key = (select key from chip_keys order by face_id desc limit 1) where face_id = $1",
        faces[2],
    )
    .await;
    db.execute("update chip_keys set key = substring(key from 1 for 40) where face_id = $1", faces[3]).await;
    db.execute("delete from chip_keys where face_id = $1", faces[4]).await;
    for (face, expected) in faces.iter().zip([
        SealingError::Chip,
        SealingError::Chip,
        SealingError::Key,
        SealingError::Key,
        SealingError::NoKey,
    ]) {
        let error = db.galleries.chip(*face).await.unwrap_err();
        assert!(matches!(&error, GalleryError::UnreadableChip { source, .. } if *source == expected), "{error}");
        assert!(error.to_string().contains(&face.to_string()), "{error}");
    }
    let read = db.galleries.chips_to_embed(&faces).await.unwrap();
    assert_eq!((read.chips.len(), read.chips[0].0, read.unreadable.len()), (1, faces[5], 5));
    let mut snapshot = db.galleries.snapshot("default").await.unwrap();
    let records = snapshot.next(Some(db.model), true).await.unwrap();
    let chips = records.iter().filter(|record| record.face.as_ref().unwrap().chip.is_some()).count();
    assert_eq!((records.len(), chips, snapshot.unreadable.len()), (6, 1, 5));
    assert_eq!(db.set_aside_chips().await, []);

    // The job finds those whose keys are to blame; a training all of them.
    let both = open(&pools, &format!("{NEWEST}\n{FORMER}")).await.unwrap();
    assert_eq!(both.plain_chips(None).await.unwrap().0, faces[4..5]);
    assert_eq!(both.encrypt_chips(&faces[4..5]).await.unwrap(), ChipsDone { done: 0, set_aside: 1 });
    assert_eq!(both.wrap_keys(id(FORMER), &mut None).await.unwrap(), Some(ChipsDone { done: 3, set_aside: 2 }));
    assert_eq!(db.set_aside_chips().await, faces[2..5]);
    assert_eq!(both.plain_chips(None).await.unwrap().0, []);
    assert_eq!(both.count_plain_chips().await.unwrap(), 0);
    assert_eq!(both.wrap_keys(id(FORMER), &mut None).await.unwrap(), None);
    let chips = both.chips_of(&faces).await.unwrap();
    assert_eq!((chips.len(), chips[0].face), (1, faces[5]));
    assert_eq!(db.set_aside_chips().await, faces[..5]);
}

#[tokio::test]
async fn an_import_encrypts_and_an_export_does_not() {
    let (db, _) = fixture(NEWEST).await;
    let record = |n: usize| Record {
        subject: SubjectRecord {
            id: None,
            name: name(&format!("person {}", n / 2)),
            metadata: Metadata::default(),
            created_at: None,
            expires_at: None,
        },
        face: Some(FaceRecord {
            embedding: Some(StoredEmbedding::from(&axis(n % DIMENSION))),
            chip: (!n.is_multiple_of(3)).then(|| format!("chip {}", n / 2).into_bytes()),
            ..FaceRecord::default()
        }),
    };
    let records: Vec<Record> = (0..90).map(record).collect();
    let stored = db.galleries.intake(name("default"), None, Some(db.model), Ids::Keep).store(records).await.unwrap();
    assert_eq!((stored.faces, stored.chips), (90, 60));
    assert_eq!(under(&db.galleries).await, [(id(NEWEST), 60)]);
    let plain: i64 = sqlx::query_scalar("select count(*) from faces where position('\\x63686970'::bytea in chip) > 0")
        .fetch_one(&db.pool)
        .await
        .unwrap();
    assert_eq!(plain, 0);
    // Copies are known by their chips, as neither has a photo that is known.
    let stock = db.galleries.training_stock(DEFAULT_GALLERY).await.unwrap();
    assert_eq!((stock.without_chip, stock.copies), (30, 15));
    let mut snapshot = db.galleries.snapshot("default").await.unwrap();
    let mut chips = Vec::new();
    while let records = snapshot.next(Some(db.model), true).await.unwrap()
        && !records.is_empty()
    {
        chips.extend(records.into_iter().filter_map(|record| Some((record.subject.name, record.face?.chip?))));
    }
    assert_eq!(chips.len(), 60);
    assert!(chips.iter().all(|(name, chip)| name.as_str().replace("person", "chip").as_bytes() == chip.as_slice()));
}
