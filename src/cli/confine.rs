//! What a process of the server's takes from the machine, where something else is to go first.

use rustix::process::{Resource, Rlimit, nice, setrlimit};

use super::CliError;

/// Lowers the priority by `niceness` and limits memory to `bytes`, of which more is refused to this process. Threads that
/// are started later have the same priority, so call it before there are any.
pub fn confine(niceness: Option<i32>, bytes: Option<u64>) -> Result<(), CliError> {
    if let Some(niceness) = niceness {
        nice(niceness).map_err(|error| CliError::io("cannot lower the priority")(error.into()))?;
    }
    if let Some(bytes) = bytes {
        // Of all that is written to, wherever it comes from; the code of libraries does not count.
        let limit = Rlimit { current: Some(bytes), maximum: Some(bytes) };
        setrlimit(Resource::Data, limit).map_err(|error| CliError::io("cannot limit the memory")(error.into()))?;
    }
    Ok(())
}

/// Ends this process by a signal once it has computed for so long, and lets a crash leave no core behind.
pub fn confine_time(seconds: u64) -> Result<(), CliError> {
    let failed = |error: rustix::io::Errno| CliError::io("cannot limit the time")(error.into());
    // The first signal can be told from others, the second cannot be ignored.
    let cpu = Rlimit { current: Some(seconds), maximum: Some(seconds + 1) };
    setrlimit(Resource::Cpu, cpu).map_err(failed)?;
    setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) }).map_err(failed)
}
