//! What a training takes from the machine, where something else is to go first.

use rustix::process::{Resource, Rlimit, nice, setrlimit};

use super::super::CliError;

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
