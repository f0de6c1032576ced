//! Whom Postgres runs as. It refuses to run as root, so a root service lends it another account, and gives that
//! account what it needs: the cluster, the socket folder and an installation that it can reach.

use std::fs::{self, Metadata};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, lchown, symlink};
use std::path::{Path, PathBuf};

use nix::unistd::{User, geteuid};
use sha2::{Digest, Sha256};
use uuid::Uuid;

use super::DbError;

const EXECUTE: u32 = 0o1;
const READ_EXECUTE: u32 = 0o5;
const COPY_PREFIX: &str = "postgres-install-";

/// The account that Postgres is lent when we are root.
#[derive(Debug, Clone)]
pub(super) struct Account {
    pub name: String,
    pub uid: u32,
    pub gid: u32,
}

impl Account {
    /// `None` when we are not root: then Postgres runs as we do.
    pub fn for_postgres() -> Result<Option<Self>, DbError> {
        if !geteuid().is_root() {
            return Ok(None);
        }
        ["postgres", "nobody"]
            .into_iter()
            .find_map(|name| User::from_name(name).ok().flatten())
            .map(|user| Some(Self { name: user.name, uid: user.uid.as_raw(), gid: user.gid.as_raw() }))
            .ok_or(DbError::NoUserForPostgres)
    }

    /// Fails when we have no name: initdb asks for that of its user, and does without none.
    pub fn check_our_name() -> Result<(), DbError> {
        let uid = geteuid();
        match User::from_uid(uid) {
            Ok(None) => Err(DbError::NamelessUser { uid: uid.as_raw() }),
            _ => Ok(()),
        }
    }

    /// Lets the account through `data_dir` (not list it), if everything above lets it through.
    pub fn admit_to(&self, data_dir: &Path) -> Result<(), DbError> {
        for ancestor in data_dir.ancestors().skip(1) {
            let meta = fs::metadata(ancestor).map_err(DbError::io("look at", ancestor))?;
            if !self.may(&meta, EXECUTE) {
                return Err(DbError::DataDirUnreachable { ancestor: ancestor.to_owned(), user: self.name.clone() });
            }
        }
        let mode = fs::metadata(data_dir).map_err(DbError::io("look at", data_dir))?.mode();
        fs::set_permissions(data_dir, fs::Permissions::from_mode(mode & 0o7777 | EXECUTE))
            .map_err(DbError::io("change the mode of", data_dir))
    }

    /// Makes `path`, and everything below it if it belongs to somebody else, the account's own.
    pub fn own(&self, path: &Path) -> Result<(), DbError> {
        let meta = fs::symlink_metadata(path).map_err(DbError::io("look at", path))?;
        if meta.uid() == self.uid {
            return Ok(());
        }
        if meta.is_dir() {
            for entry in entries(path)? {
                self.own(&entry)?;
            }
        }
        // The folder last, so that a half-done pass is repeated by the next start.
        let change = if meta.is_symlink() { lchown } else { chown };
        change(path, Some(self.uid), Some(self.gid)).map_err(DbError::io("change the owner of", path))
    }

    /// `install_dir` if the account can run it where it is, else a copy of it below `data_dir`.
    pub fn reachable_install(&self, install_dir: &Path, data_dir: &Path) -> Result<PathBuf, DbError> {
        if self.can_run(&install_dir.join("bin/postgres"))? {
            return Ok(install_dir.to_owned());
        }
        let copy = data_dir.join(format!("{COPY_PREFIX}{}", fingerprint(install_dir)?));
        if !copy.exists() {
            remove_copies(data_dir)?;
            // Renamed when whole, so that a kill leaves nothing half-made under the final name.
            let half = data_dir.join(format!("{COPY_PREFIX}new-{}", Uuid::now_v7()));
            copy_tree(install_dir, &half)?;
            fs::rename(&half, &copy).map_err(DbError::io("rename", half))?;
        }
        Ok(copy)
    }

    fn can_run(&self, program: &Path) -> Result<bool, DbError> {
        let program = program.canonicalize().map_err(DbError::io("find", program))?;
        for (depth, path) in program.ancestors().enumerate() {
            let meta = fs::metadata(path).map_err(DbError::io("look at", path))?;
            if !self.may(&meta, if depth == 0 { READ_EXECUTE } else { EXECUTE }) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Whether the permission bits of the class that the account falls in (path_resolution(7)) hold `wanted`.
    fn may(&self, meta: &Metadata, wanted: u32) -> bool {
        let class = match meta {
            meta if meta.uid() == self.uid => 6,
            meta if meta.gid() == self.gid => 3,
            _ => 0,
        };
        meta.mode() >> class & wanted == wanted
    }
}

/// Copies a folder with its modes; symbolic links stay links, as binaries find their libraries through them.
pub(crate) fn copy_tree(from: &Path, to: &Path) -> Result<(), DbError> {
    fs::create_dir(to).map_err(DbError::io("create", to))?;
    for source in entries(from)? {
        let target = to.join(source.file_name().unwrap_or_default());
        let kind = fs::symlink_metadata(&source).map_err(DbError::io("look at", &source))?;
        if kind.is_dir() {
            copy_tree(&source, &target)?;
        } else if kind.is_symlink() {
            let link = fs::read_link(&source).map_err(DbError::io("read", &source))?;
            symlink(link, &target).map_err(DbError::io("create", &target))?;
        } else {
            fs::copy(&source, &target).map_err(DbError::io("copy", &source))?;
        }
    }
    // Whatever the umask: the account is neither owner nor group.
    fs::set_permissions(to, fs::Permissions::from_mode(0o755)).map_err(DbError::io("change the mode of", to))
}

/// Removes copies of other installations, and half-made ones.
fn remove_copies(data_dir: &Path) -> Result<(), DbError> {
    for path in entries(data_dir)? {
        if path.file_name().is_some_and(|name| name.as_bytes().starts_with(COPY_PREFIX.as_bytes())) {
            fs::remove_dir_all(&path).map_err(DbError::io("remove", path))?;
        }
    }
    Ok(())
}

/// Twelve hex digits that change when a file of the installation does (by path, size and time of change).
fn fingerprint(install_dir: &Path) -> Result<String, DbError> {
    let mut hash = Sha256::new();
    let mut folders = vec![install_dir.to_owned()];
    while let Some(folder) = folders.pop() {
        for path in entries(&folder)? {
            let meta = fs::symlink_metadata(&path).map_err(DbError::io("look at", &path))?;
            hash.update(path.as_os_str().as_bytes());
            if meta.is_dir() {
                folders.push(path);
            } else {
                hash.update(meta.size().to_le_bytes());
                hash.update(meta.mtime().to_le_bytes());
            }
        }
    }
    Ok(hash.finalize().iter().take(6).map(|byte| format!("{byte:02x}")).collect())
}

/// The sorted paths in a folder.
fn entries(folder: &Path) -> Result<Vec<PathBuf>, DbError> {
    let mut paths = fs::read_dir(folder)
        .and_then(|entries| entries.map(|entry| entry.map(|entry| entry.path())).collect::<Result<Vec<_>, _>>())
        .map_err(DbError::io("list", folder))?;
    paths.sort();
    Ok(paths)
}
