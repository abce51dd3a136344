//! Ctrl-C, and being asked to end: what is under way comes to an orderly end.

use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use signal_hook::low_level::emulate_default_handler;

/// Whether somebody wants this to end.
#[derive(Debug, Default)]
pub(super) struct Interrupt {
    is_asked: Mutex<bool>,
    asked: Condvar,
}

impl Interrupt {
    /// Catches SIGINT and SIGTERM from now on. The second ends the process at once.
    ///
    /// # Errors
    /// When they can't be caught.
    pub(super) fn catch() -> std::io::Result<Arc<Self>> {
        let interrupt = Arc::new(Self::default());
        let mut signals = Signals::new([SIGINT, SIGTERM])?;
        let caught = Arc::clone(&interrupt);
        std::thread::Builder::new()
            .name("signals".to_owned())
            .spawn(move || {
                for signal in signals.forever() {
                    if caught.is_asked() {
                        // It ends here.
                        let _ = emulate_default_handler(signal);
                    }
                    caught.ask();
                }
            })?;
        Ok(interrupt)
    }

    fn ask(&self) {
        *self.is_asked.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.asked.notify_all();
    }

    pub(super) fn is_asked(&self) -> bool {
        *self.is_asked.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for so long, or until it is asked; returns whether it is.
    pub(super) fn wait(&self, time: Duration) -> bool {
        let is_asked = self.is_asked.lock().unwrap_or_else(PoisonError::into_inner);
        let waited = self
            .asked
            .wait_timeout_while(is_asked, time, |is_asked| !*is_asked);
        *waited.unwrap_or_else(PoisonError::into_inner).0
    }
}
