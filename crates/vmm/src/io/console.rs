//! The console: where the serial port's output goes, and the thread that feeds it input.

use std::fs::File;
use std::io::{self, Read, Write};
use std::mem::ManuallyDrop;
use std::os::fd::{AsRawFd, FromRawFd, RawFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{Builder, JoinHandle};

use event_manager::{EventManager, EventOps, EventSet, Events, MutEventSubscriber, SubscriberOps};
use libc::{STDIN_FILENO, STDOUT_FILENO};
use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};

use super::{HostSignals, SerialPort};
use crate::kvm::KvmError;
use crate::machine::{Ending, StopSwitch};

/// Where console input comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConsoleInput {
    /// Nowhere.
    None,
    /// This process's standard input, if it is a terminal, a pipe or a socket. A terminal is put
    /// in raw mode while the machine runs; Ctrl-A then X stops the machine.
    Stdin,
}

/// What the serial port is connected to.
pub struct Console {
    /// Takes the output, byte by byte.
    pub output: Box<dyn Write + Send>,
    /// Gives the input.
    pub input: ConsoleInput,
}

impl Console {
    /// Standard output and input of this process.
    pub fn stdio() -> Self {
        Self {
            output: Box::new(Stdout),
            input: ConsoleInput::Stdin,
        }
    }

    /// Output to `writer`, no input.
    pub fn writer(writer: impl Write + Send + 'static) -> Self {
        Self {
            output: Box::new(writer),
            input: ConsoleInput::None,
        }
    }
}

/// Standard output without the line buffer of [`io::Stdout`], which holds prompts back.
struct Stdout;

impl Write for Stdout {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        borrow(STDOUT_FILENO).write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A standard stream, which stays open.
fn borrow(fd: RawFd) -> ManuallyDrop<File> {
    // SAFETY: the standard streams are open for the life of the process, and never closed here.
    ManuallyDrop::new(unsafe { File::from_raw_fd(fd) })
}

/// A terminal in raw mode; dropping it restores the mode it had.
pub(crate) struct RawMode {
    fd: RawFd,
    saved: libc::termios,
}

impl RawMode {
    /// Standard input in raw mode; `None` if it is no terminal.
    pub(crate) fn stdin() -> Option<Self> {
        let fd = STDIN_FILENO;
        // SAFETY: an all-zero termios is a valid value; the call below overwrites it.
        let mut saved: libc::termios = unsafe { std::mem::zeroed() };
        // SAFETY: `saved` is writable; failure (no terminal) is checked.
        if unsafe { libc::tcgetattr(fd, &raw mut saved) } != 0 {
            return None;
        }
        let mut raw = saved;
        raw.c_lflag &= !(libc::ICANON | libc::ECHO | libc::ISIG | libc::IEXTEN);
        raw.c_iflag &= !(libc::ICRNL | libc::IXON);
        // SAFETY: `raw` is a valid termios.
        if unsafe { libc::tcsetattr(fd, libc::TCSANOW, &raw const raw) } != 0 {
            return None;
        }
        Some(Self { fd, saved })
    }
}

impl Drop for RawMode {
    fn drop(&mut self) {
        // SAFETY: `saved` came from tcgetattr. Nothing can be done about a failure.
        unsafe { libc::tcsetattr(self.fd, libc::TCSANOW, &raw const self.saved) };
    }
}

/// Recognizes Ctrl-A X in a stream of keys; Ctrl-A twice is one Ctrl-A.
#[derive(Debug, Default)]
pub struct EscapeFilter {
    pending: bool,
}

impl EscapeFilter {
    const PREFIX: u8 = 1;

    /// What is left of `keys` for the guest, and whether the machine is to stop.
    pub fn feed(&mut self, keys: &[u8]) -> (Vec<u8>, bool) {
        let mut passed = Vec::with_capacity(keys.len());
        for &key in keys {
            match (std::mem::take(&mut self.pending), key) {
                (true, b'x' | b'X') => return (passed, true),
                (false, Self::PREFIX) => self.pending = true,
                (_, key) => passed.push(key),
            }
        }
        (passed, false)
    }
}

/// Feeds the serial port from standard input until the machine stops, and stops it at a signal.
struct Input {
    serial: Arc<SerialPort>,
    stop: StopSwitch,
    signals: Option<HostSignals>,
    /// Keys have a meaning only on a terminal.
    escape: Option<EscapeFilter>,
    reads_stdin: bool,
    /// Bytes that the serial port has no room for yet.
    waiting: Vec<u8>,
    quit: Arc<Quit>,
}

struct Quit {
    flag: AtomicBool,
    event: EventFd,
}

impl Input {
    fn watch_stdin(&mut self, on: bool, ops: &mut EventOps<'_>) {
        if self.reads_stdin == on {
            return;
        }
        let events = Events::new_raw(STDIN_FILENO, EventSet::IN);
        let outcome = if on {
            ops.add(events)
        } else {
            ops.remove(events)
        };
        match outcome {
            Ok(()) => self.reads_stdin = on,
            // A regular file, or /dev/null.
            Err(error) => log::debug!("no console input: {error}"),
        }
    }

    fn read(&mut self, ops: &mut EventOps<'_>) {
        let mut buffer = [0; 64];
        match borrow(STDIN_FILENO).read(&mut buffer) {
            Ok(0) => {
                log::debug!("console input ended");
                self.watch_stdin(false, ops);
            }
            Ok(count) => {
                let keys = buffer.get(..count).unwrap_or_default();
                match &mut self.escape {
                    Some(escape) => {
                        let (keys, stop) = escape.feed(keys);
                        self.waiting.extend(keys);
                        if stop {
                            self.stop.stop(Ending::Interrupted);
                        }
                    }
                    None => self.waiting.extend(keys),
                }
                self.pass_on(ops);
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => {
                log::warn!("console input failed: {error}");
                self.watch_stdin(false, ops);
            }
        }
    }

    /// Gives the guest what fits; stops reading while there is more.
    fn pass_on(&mut self, ops: &mut EventOps<'_>) {
        let room = self.serial.capacity().min(self.waiting.len());
        if room > 0 {
            let now: Vec<u8> = self.waiting.drain(..room).collect();
            self.serial.receive(&now);
        }
        if !self.waiting.is_empty() {
            self.watch_stdin(false, ops);
        }
    }
}

impl MutEventSubscriber for Input {
    fn process(&mut self, events: Events, ops: &mut EventOps<'_>) {
        let fd = events.fd();
        if fd == STDIN_FILENO {
            self.read(ops);
        } else if fd == self.serial.room().as_raw_fd() {
            // Reading resets the event; that it was not set is no matter.
            let _ = self.serial.room().read();
            let had_waiting = !self.waiting.is_empty();
            self.pass_on(ops);
            if had_waiting && self.waiting.is_empty() {
                self.watch_stdin(true, ops);
            }
        } else if let Some(signals) = &self.signals
            && fd == signals.event().as_raw_fd()
        {
            let _ = signals.event().read();
            self.stop.stop(Ending::Interrupted);
        } else {
            let _ = self.quit.event.read();
        }
    }

    fn init(&mut self, ops: &mut EventOps<'_>) {
        let mut fds = vec![self.serial.room().as_raw_fd(), self.quit.event.as_raw_fd()];
        fds.extend(self.signals.iter().map(|s| s.event().as_raw_fd()));
        for fd in fds {
            if let Err(error) = ops.add(Events::new_raw(fd, EventSet::IN)) {
                log::error!("the console thread misses an event: {error}");
            }
        }
        self.watch_stdin(true, ops);
    }
}

/// The thread that feeds the serial port; dropping it ends and joins it.
pub(crate) struct InputThread {
    quit: Arc<Quit>,
    thread: Option<JoinHandle<()>>,
}

impl InputThread {
    /// Starts the thread over standard input; `terminal` says whether it is one.
    pub(crate) fn start(
        serial: Arc<SerialPort>,
        stop: StopSwitch,
        terminal: bool,
    ) -> Result<Self, KvmError> {
        let quit = Arc::new(Quit {
            flag: AtomicBool::new(false),
            event: EventFd::new(EFD_CLOEXEC | EFD_NONBLOCK)
                .map_err(KvmError::host("make an eventfd"))?,
        });
        let input = Input {
            serial,
            stop,
            signals: Some(HostSignals::catch()?),
            escape: terminal.then(EscapeFilter::default),
            reads_stdin: false,
            waiting: Vec::new(),
            quit: Arc::clone(&quit),
        };
        let mut manager = EventManager::<Input>::new().map_err(|error| KvmError::Host {
            action: "make an event loop",
            source: io::Error::other(error),
        })?;
        manager.add_subscriber(input);
        let asked = Arc::clone(&quit);
        let thread = Builder::new()
            .name("console".to_owned())
            .spawn(move || {
                while !asked.flag.load(Ordering::Acquire) {
                    if let Err(error) = manager.run() {
                        log::error!("the console's event loop failed: {error}");
                        break;
                    }
                }
            })
            .map_err(KvmError::host("start a thread"))?;
        Ok(Self {
            quit,
            thread: Some(thread),
        })
    }
}

impl Drop for InputThread {
    fn drop(&mut self) {
        self.quit.flag.store(true, Ordering::Release);
        if let Err(error) = self.quit.event.write(1) {
            log::error!("the console thread does not hear that it is over: {error}");
        }
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            log::error!("the console thread panicked");
        }
    }
}
