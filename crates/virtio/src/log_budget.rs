//! A limit on what a guest can make us log, without a clock.

use std::fmt;
use std::sync::atomic::{AtomicU32, Ordering};

/// How many messages pass.
const MESSAGES: u32 = 16;

/// Lets the first few messages of one source through, and says with the last that no more follow.
#[derive(Debug, Default)]
pub struct LogBudget(AtomicU32);

impl LogBudget {
    /// Logs a warning, if any of the budget is left.
    pub fn warn(&self, message: fmt::Arguments<'_>) {
        let spent = self
            .0
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |spent| {
                (spent < MESSAGES).then_some(spent + 1)
            });
        match spent {
            Ok(spent) if spent + 1 == MESSAGES => {
                log::warn!("{message} (further messages of this kind are not logged)");
            }
            Ok(_) => log::warn!("{message}"),
            Err(_) => {}
        }
    }
}
