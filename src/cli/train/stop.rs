//! When a training is asked to end early.

use std::io::Read;

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

use super::super::CliError;

/// Whether somebody asked the program to end: by Ctrl-C, SIGTERM, or the end of standard input if that is listened to.
#[derive(Clone)]
pub struct Stop(watch::Receiver<bool>);

impl Stop {
    pub fn listen(to_stdin: bool) -> Result<Self, CliError> {
        let failed = || CliError::io("cannot listen to signals");
        let mut interrupt = signal(SignalKind::interrupt()).map_err(failed())?;
        let mut terminate = signal(SignalKind::terminate()).map_err(failed())?;
        let (asked, is_asked) = watch::channel(false);
        if to_stdin {
            let asked = asked.clone();
            // A thread of its own, for nothing waits for it when the program ends.
            std::thread::spawn(move || {
                let mut sink = [0; 256];
                while matches!(std::io::stdin().lock().read(&mut sink), Ok(1..)) {}
                asked.send_replace(true);
            });
        }
        tokio::spawn(async move {
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
            }
            asked.send_replace(true);
        });
        Ok(Self(is_asked))
    }

    pub fn is_asked(&self) -> bool {
        *self.0.borrow()
    }

    /// Returns once it is.
    pub async fn asked(&mut self) {
        if self.0.wait_for(|asked| *asked).await.is_err() {
            // Nobody is left who could ask.
            std::future::pending::<()>().await;
        }
    }
}
