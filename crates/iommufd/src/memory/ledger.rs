//! Accounts of pinned memory.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use crate::caller::PAGE_SIZE;
use crate::{Errno, Process, ProcessId};

/// What is accounted to a process, in pages of 4 KiB.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pins {
    /// Pages that are pinned (`VmPin` of `/proc/PID/status`).
    pub pinned_pages: u64,
    /// Pages of them that count as locked (`VmLck`).
    pub locked_pages: u64,
}

/// Against which limit pinned pages count (Linux `IOPT_PAGES_ACCOUNT_*`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Account {
    /// None: the process may lock what it likes.
    Nothing,
    /// That of the user, over all its processes.
    User,
    /// That of the process.
    Process,
}

/// Who has pinned how much.
#[derive(Debug, Default)]
pub(crate) struct Ledger(Mutex<Books>);

#[derive(Debug, Default)]
struct Books {
    processes: HashMap<ProcessId, Pins>,
    users: HashMap<u32, u64>,
}

impl Ledger {
    /// Adds pages to an account.
    ///
    /// # Errors
    /// [`Errno::ENOMEM`] if that passes the limit.
    pub(crate) fn charge(
        &self,
        account: Account,
        process: &Arc<dyn Process>,
        pages: u64,
    ) -> Result<(), Errno> {
        let limit = process.memlock_limit() / PAGE_SIZE;
        let (id, user) = (process.id(), process.user());
        let mut books = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let fits = |locked: u64| locked.checked_add(pages).is_some_and(|sum| sum <= limit);
        let pins = books.processes.get(&id).copied().unwrap_or_default();
        match account {
            Account::Nothing => {}
            Account::User => {
                let locked = books.users.get(&user).copied().unwrap_or_default();
                if !fits(locked) {
                    return Err(Errno::ENOMEM);
                }
                books.users.insert(user, locked + pages);
            }
            Account::Process if !fits(pins.locked_pages) => return Err(Errno::ENOMEM),
            Account::Process => {}
        }
        let pins = books.processes.entry(id).or_default();
        pins.pinned_pages += pages;
        if account == Account::Process {
            pins.locked_pages += pages;
        }
        Ok(())
    }

    /// Takes pages off an account to which they were added.
    pub(crate) fn credit(&self, account: Account, process: &Arc<dyn Process>, pages: u64) {
        let (id, user) = (process.id(), process.user());
        let mut books = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(pins) = books.processes.get_mut(&id) {
            pins.pinned_pages = pins.pinned_pages.saturating_sub(pages);
            if account == Account::Process {
                pins.locked_pages = pins.locked_pages.saturating_sub(pages);
            }
            if *pins == Pins::default() {
                books.processes.remove(&id);
            }
        }
        if account == Account::User
            && let Some(locked) = books.users.get_mut(&user)
        {
            *locked = locked.saturating_sub(pages);
            if *locked == 0 {
                books.users.remove(&user);
            }
        }
    }

    /// What is accounted to a process.
    pub(crate) fn pins(&self, process: ProcessId) -> Pins {
        let books = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        books.processes.get(&process).copied().unwrap_or_default()
    }
}
