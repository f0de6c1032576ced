//! How much memory the build of an index may take, and how much it needs.

use std::fs;

use nix::sys::statvfs::statvfs;
use sqlx::PgConnection;

/// Bytes of a template in the graph beside its numbers, with [`NEIGHBOURS`](super::NEIGHBOURS): pgvector 0.8.5 holds 22,655
/// templates of 128 numbers in 32 MiB, or 14,915 of 512.
const ELEMENT: u64 = 1230;

/// Templates from which on several processes build an index: fewer are done before it matters.
const PARALLEL_FROM: u64 = 10_000;

/// The least memory that a build takes: what Postgres gives to any such work by default.
const LEAST: u64 = 64 << 20;

/// The most that a build takes on another machine, of which little is known.
const MOST_REMOTE: u64 = 2 << 30;

/// Where Linux says how much memory a container may have: control groups of version 2, and of version 1.
const CONTAINER_LIMITS: [&str; 2] = ["/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"];

/// What a build may take, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Room {
    /// Of memory.
    pub memory: u64,
    /// Of memory that processes share; `None`: nobody knows.
    pub shared: Option<u64>,
}

/// How an index is built.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Effort {
    /// Bytes for the graph. What does not fit is added to the index on disk, which takes several times as long.
    pub memory: u64,
    /// By several processes, which take all of that memory from the shared one as they begin.
    pub is_parallel: bool,
}

impl Effort {
    /// For an index of so many templates.
    pub fn of(templates: u64, dimension: usize, room: Room) -> Self {
        let graph = templates.saturating_mul(ELEMENT + 2 * dimension as u64);
        // Some more templates may come before it is built.
        let needed = graph.saturating_add(graph / 8);
        let memory = needed.clamp(LEAST, room.memory.max(LEAST));
        let is_parallel = templates >= PARALLEL_FROM && room.shared.is_none_or(|shared| memory <= shared);
        Self { memory, is_parallel }
    }
}

/// The room on the machine of the database.
pub(super) async fn room(connection: &mut PgConnection) -> Result<Room, sqlx::Error> {
    let (is_here, cache, uses_files): (bool, i64, bool) = sqlx::query_as(
        "select inet_client_addr() is null, pg_size_bytes(current_setting('effective_cache_size')), \
         current_setting('dynamic_shared_memory_type') = 'posix'",
    )
    .fetch_one(connection)
    .await?;
    if is_here && let Some(available) = available_memory() {
        let shared = uses_files.then(free_shared_memory).flatten();
        return Ok(Room { memory: available / 4, shared });
    }
    // How much of the memory is the database's, its administrator has said.
    Ok(Room { memory: (cache.unsigned_abs() / 4).clamp(LEAST, MOST_REMOTE), shared: None })
}

/// Bytes that new work may take on this machine.
fn available_memory() -> Option<u64> {
    let available = available_of(&fs::read_to_string("/proc/meminfo").ok()?)?;
    let limits = CONTAINER_LIMITS.iter().filter_map(|path| fs::read_to_string(path).ok()?.trim().parse().ok());
    Some(limits.fold(available, u64::min))
}

/// What /proc/meminfo says (proc(5)).
fn available_of(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    let kilobytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kilobytes * 1024)
}

/// Bytes of shared memory that a build may take; the rest is for queries.
fn free_shared_memory() -> Option<u64> {
    let about = statvfs("/dev/shm").ok()?;
    Some(about.blocks_available() * about.fragment_size() / 4 * 3)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MB: u64 = 1 << 20;

    #[test]
    fn memory_follows_the_size_of_the_gallery_within_the_room() {
        let room = Room { memory: 4096 * MB, shared: Some(256 * MB) };
        let of = |templates, dimension| Effort::of(templates, dimension, room);
        // A small gallery needs little, and only one process.
        assert_eq!(of(1000, 128), Effort { memory: 64 * MB, is_parallel: false });
        // Several processes, as far as their memory reaches.
        let medium = of(100_000, 128);
        assert!((140 * MB..=200 * MB).contains(&medium.memory) && medium.is_parallel, "{medium:?}");
        let large = of(1_000_000, 512);
        assert!((2200 * MB..=3000 * MB).contains(&large.memory) && !large.is_parallel, "{large:?}");
        assert_eq!(of(u64::MAX, 512), Effort { memory: 4096 * MB, is_parallel: false });
    }

    #[test]
    fn where_memory_is_short_one_process_builds_with_the_least() {
        let room = Room { memory: MB, shared: Some(0) };
        assert_eq!(Effort::of(1_000_000, 512, room), Effort { memory: 64 * MB, is_parallel: false });
    }

    #[test]
    fn where_nobody_knows_of_shared_memory_it_is_tried() {
        let room = Room { memory: 1024 * MB, shared: None };
        assert_eq!(Effort::of(1_000_000, 512, room), Effort { memory: 1024 * MB, is_parallel: true });
    }

    #[test]
    fn available_memory_is_read() {
        let meminfo = "MemTotal:       24683424 kB\nMemFree:          642048 kB\nMemAvailable:   20960256 kB\n";
        assert_eq!(available_of(meminfo), Some(20_960_256 * 1024));
        assert_eq!(available_of("MemTotal: 1 kB\n"), None);
    }

    #[tokio::test]
    async fn the_room_of_a_database_is_found() {
        let pools = crate::db::testing::database().await;
        let found = room(&mut pools.beside.acquire().await.unwrap()).await.unwrap();
        assert!(found.memory > 0, "{found:?}");
    }
}
