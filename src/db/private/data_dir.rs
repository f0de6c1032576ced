//! The data directory and the lock that makes it ours.

use std::fs::{DirBuilder, File, OpenOptions, TryLockError};
use std::io::{ErrorKind, Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use super::DbError;

/// `sun_path` has 108 bytes, one of them for the final NUL (unix(7)).
const SOCKET_PATH_MAX: usize = 107;

/// The folder of the socket in a data directory.
pub(super) const RUN: &str = "run";

/// The data directory, locked for this process until dropped.
#[derive(Debug)]
pub(super) struct DataDir {
    path: PathBuf,
    /// Closing the file releases the lock, even when we are killed.
    _lock: File,
}

impl DataDir {
    /// Makes the directory if needed (0700, its parents as usual) and takes its lock.
    pub fn open(path: &Path) -> Result<Self, DbError> {
        if let Some(parent) = path.parent().filter(|parent| !parent.as_os_str().is_empty()) {
            std::fs::create_dir_all(parent).map_err(DbError::io("create", parent))?;
        }
        match DirBuilder::new().mode(0o700).create(path) {
            Err(error) if error.kind() != ErrorKind::AlreadyExists => return Err(DbError::io("create", path)(error)),
            _ => {}
        }
        let path = path.canonicalize().map_err(DbError::io("find", path))?;
        let length = path.join("run/.s.PGSQL.5432").as_os_str().as_bytes().len();
        if length > SOCKET_PATH_MAX {
            return Err(DbError::SocketPathTooLong { path, length });
        }
        let lock = lock(&path)?;
        Ok(Self { path, _lock: lock })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    pub fn cluster(&self) -> PathBuf {
        self.path.join("postgres")
    }

    pub fn run(&self) -> PathBuf {
        self.path.join(RUN)
    }

    pub fn log(&self) -> PathBuf {
        self.path.join("postgres.log")
    }
}

fn lock(data_dir: &Path) -> Result<File, DbError> {
    let path = data_dir.join("lock");
    let mut file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(&path)
        .map_err(DbError::io("open", &path))?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            let mut holder = String::new();
            // The id only helps the reader of the message, so it may be missing.
            let pid = file.read_to_string(&mut holder).ok().and_then(|_| holder.trim().parse().ok());
            return Err(DbError::DataDirInUse { path: data_dir.to_owned(), pid });
        }
        Err(TryLockError::Error(source)) => return Err(DbError::Io { action: "lock", path, source }),
    }
    file.set_len(0).and_then(|()| writeln!(file, "{}", std::process::id())).map_err(DbError::io("write", path))?;
    Ok(file)
}
