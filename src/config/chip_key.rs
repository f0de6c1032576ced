//! Where the master key of chips comes from: a variable, a file, or a command that asks a key management service. It is read when
//! the database is opened, not with the other settings, so that `--print-config` runs no command.

use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use tokio::process::Command;

use super::{ConfigError, Secret};

/// The variable that holds the key itself. There is no flag for it, which would show in the list of processes.
const VARIABLE: &str = "FACEID_CHIP_KEY";

/// How long a command may take.
const PATIENCE: Duration = Duration::from_secs(60);

/// Where the master key of chips comes from.
#[derive(Debug, Clone)]
pub enum ChipKeySource {
    Value(Secret),
    File(PathBuf),
    /// Of a shell; it prints the key.
    Command(String),
}

impl ChipKeySource {
    pub(super) fn new(
        value: Option<Secret>,
        file: Option<PathBuf>,
        command: Option<String>,
    ) -> Result<Option<Self>, ConfigError> {
        let said = [value.map(Self::Value), file.map(Self::File), command.map(Self::Command)];
        let mut said = said.into_iter().flatten();
        match (said.next(), said.next()) {
            (source, None) => Ok(source),
            _ => Err(ConfigError::SeveralChipKeys),
        }
    }

    /// The text that holds the keys.
    pub async fn read(&self) -> Result<Secret, ConfigError> {
        match self {
            Self::Value(value) => Ok(value.clone()),
            Self::File(path) => {
                let text = tokio::fs::read_to_string(path).await;
                let failed = |source| ConfigError::UnreadableChipKey { path: path.clone(), source };
                text.map(Secret::from).map_err(failed)
            }
            Self::Command(command) => printed(command).await,
        }
    }
}

/// What the error messages call it.
impl std::fmt::Display for ChipKeySource {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Value(_) => write!(f, "{VARIABLE}"),
            Self::File(path) => write!(f, "{}", path.display()),
            Self::Command(_) => write!(f, "what chip_key_command prints"),
        }
    }
}

/// The variable's value; one that is empty is none.
pub(super) fn variable() -> Option<Secret> {
    std::env::var(VARIABLE).ok().filter(|value| !value.is_empty()).map(Secret::from)
}

async fn printed(command: &str) -> Result<Secret, ConfigError> {
    let failed = |reason: String| ConfigError::ChipKeyCommand { reason };
    let mut shell = Command::new("/bin/sh");
    // What it says of a failure is for the log.
    shell
        .arg("-c")
        .arg(command)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::inherit())
        .kill_on_drop(true);
    let ended = tokio::time::timeout(PATIENCE, shell.output()).await;
    let output = ended.map_err(|_| failed(format!("it takes longer than {} s", PATIENCE.as_secs())))?;
    let output = output.map_err(|error| failed(error.to_string()))?;
    if !output.status.success() {
        return Err(failed(format!("it ended with {}", output.status)));
    }
    String::from_utf8(output.stdout).map(Secret::from).map_err(|_| failed("it prints no text".to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_key_comes_from_one_place() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("key");
        std::fs::write(&file, "of the file\n").unwrap();
        let source = |value: Option<&str>, file: Option<PathBuf>, command: Option<&str>| {
            ChipKeySource::new(value.map(|value| value.to_owned().into()), file, command.map(str::to_owned))
        };
        assert!(source(None, None, None).unwrap().is_none());
        for (one, expected) in [
            (source(Some("of the variable"), None, None), "of the variable"),
            (source(None, Some(file.clone()), None), "of the file\n"),
            (source(None, None, Some("echo of the $((1 + 1))nd command")), "of the 2nd command\n"),
        ] {
            let one = one.unwrap().unwrap();
            assert_eq!(one.read().await.unwrap().expose(), expected);
            assert!(!format!("{one:?} {one}").contains(expected));
        }
        let two = source(Some("of the variable"), Some(file.clone()), None);
        assert!(matches!(two, Err(ConfigError::SeveralChipKeys)));
        std::fs::remove_file(&file).unwrap();
        let missing = source(None, Some(file), None).unwrap().unwrap().read().await.unwrap_err();
        assert!(missing.to_string().contains("/key"), "{missing}");
        let failing = source(None, None, Some("echo secret; exit 3")).unwrap().unwrap().read().await.unwrap_err();
        assert!(failing.to_string().contains("exit status: 3") && !failing.to_string().contains("secret"), "{failing}");
    }
}
