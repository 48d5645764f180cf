//! Child processes that cannot outlive their bound: each runs in a process group of its own,
//! dies with its parent, and is killed whole when its time is up.

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};
use std::io;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::atomic::{AtomicI32, Ordering};
use std::time::{Duration, Instant};

/// How a bounded child ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Ending {
    /// It exited by itself with this code.
    Exited(i32),
    /// A signal that we did not send ended it.
    Signalled(i32),
    /// It was still running at its bound, and was killed.
    TimedOut,
}

impl Ending {
    /// Whether the child exited by itself with code 0.
    pub fn is_success(self) -> bool {
        self == Ending::Exited(0)
    }
}

impl std::fmt::Display for Ending {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Ending::Exited(code) => write!(f, "exit code {code}"),
            Ending::Signalled(signal) => write!(f, "killed by signal {signal}"),
            Ending::TimedOut => write!(f, "stopped at its time limit"),
        }
    }
}

impl From<ExitStatus> for Ending {
    fn from(status: ExitStatus) -> Self {
        match (status.code(), status.signal()) {
            (Some(code), _) => Ending::Exited(code),
            (None, Some(signal)) => Ending::Signalled(signal),
            (None, None) => Ending::Signalled(0),
        }
    }
}

/// The groups that are running, for the signal handler: 0 is a free place. More at once than
/// there are places are still killed at their bound, only not by Ctrl-C.
static GROUPS: [AtomicI32; 16] = [const { AtomicI32::new(0) }; 16];

/// Makes an interrupt or a termination of this process kill all running groups first; as leaders
/// of groups of their own they would not hear a terminal's Ctrl-C.
pub fn kill_children_on_signals() {
    extern "C" fn handler(signal: libc::c_int) {
        for group in &GROUPS {
            let group = group.load(Ordering::Relaxed);
            if group > 0 {
                // SAFETY: kill is async-signal-safe and takes two integers.
                unsafe { libc::kill(-group, libc::SIGKILL) };
            }
        }
        // SAFETY: _exit is async-signal-safe.
        unsafe { libc::_exit(128 + signal) };
    }
    let handler = handler as extern "C" fn(libc::c_int) as libc::sighandler_t;
    for signal in [libc::SIGINT, libc::SIGTERM, libc::SIGHUP] {
        // SAFETY: the handler only uses atomics and async-signal-safe calls.
        unsafe { libc::signal(signal, handler) };
    }
}

/// A running child and the process group it leads. Dropping it kills the group.
#[derive(Debug)]
pub struct Bounded {
    child: Child,
    deadline: Instant,
    /// Whether it was past its bound and asked to end.
    terminated: bool,
    reaped: bool,
}

/// How long a child past its bound has to write down where it stood.
const GRACE: Duration = Duration::from_secs(3);

impl Bounded {
    /// Starts `command` in a new process group, to be killed after `limit` or with this process.
    pub fn spawn(command: &mut Command, limit: Duration) -> io::Result<Self> {
        command.process_group(0);
        // SAFETY: prctl is async-signal-safe and touches no memory of the parent.
        unsafe {
            command.pre_exec(|| {
                if libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) == 0 {
                    Ok(())
                } else {
                    Err(io::Error::last_os_error())
                }
            });
        }
        let running = Bounded {
            child: command.spawn()?,
            deadline: Instant::now() + limit,
            terminated: false,
            reaped: false,
        };
        let group = running.group();
        GROUPS.iter().any(|place| {
            place
                .compare_exchange(0, group, Ordering::Relaxed, Ordering::Relaxed)
                .is_ok()
        });
        Ok(running)
    }

    /// The child, for its pipes.
    pub fn child(&mut self) -> &mut Child {
        &mut self.child
    }

    /// Looks once: how the child ended, or `None` while it may go on. Past its bound it is asked to
    /// end, and a few seconds later killed.
    pub fn poll(&mut self) -> io::Result<Option<Ending>> {
        if !self.terminated {
            if let Some(status) = self.child.try_wait()? {
                self.forget();
                return Ok(Some(status.into()));
            }
            if Instant::now() >= self.deadline {
                self.terminated = true;
                self.deadline = Instant::now() + GRACE;
                self.signal_group(libc::SIGTERM);
            }
            return Ok(None);
        }
        if !self.has_ended()? && Instant::now() < self.deadline {
            return Ok(None);
        }
        // What it started may not have ended with it.
        self.signal_group(libc::SIGKILL);
        self.child.wait()?;
        self.forget();
        Ok(Some(Ending::TimedOut))
    }

    /// Waits for the end, calling `tick` about ten times a second.
    pub fn wait(&mut self, mut tick: impl FnMut()) -> io::Result<Ending> {
        let mut pause = Duration::from_millis(2);
        loop {
            if let Some(ending) = self.poll()? {
                return Ok(ending);
            }
            tick();
            std::thread::sleep(pause);
            pause = (pause * 2).min(Duration::from_millis(100));
        }
    }

    fn group(&self) -> i32 {
        // Linux's process ids fit; 0 is no group of ours and is never signalled.
        i32::try_from(self.child.id()).unwrap_or(0)
    }

    fn forget(&mut self) {
        self.reaped = true;
        let group = self.group();
        GROUPS.iter().any(|place| {
            place
                .compare_exchange(group, 0, Ordering::Relaxed, Ordering::Relaxed)
                .is_ok()
        });
    }

    /// Whether the child ended, which is left to be reaped.
    fn has_ended(&self) -> io::Result<bool> {
        // SAFETY: all fields may be zero.
        let mut info: libc::siginfo_t = unsafe { std::mem::zeroed() };
        let flags = libc::WEXITED | libc::WNOHANG | libc::WNOWAIT;
        // SAFETY: `info` is written, and nothing else is touched.
        match unsafe { libc::waitid(libc::P_PID, self.child.id(), &mut info, flags) } {
            // SAFETY: waitid fills the fields that this reads, or leaves them zero.
            0 => Ok(unsafe { info.si_pid() } != 0),
            _ => Err(io::Error::last_os_error()),
        }
    }

    /// Signals all of the group. The leader is not reaped yet, so its id is ours.
    fn signal_group(&self, signal: libc::c_int) {
        let group = self.group();
        if group > 0 {
            // SAFETY: kill takes two integers.
            unsafe { libc::kill(-group, signal) };
        }
    }
}

impl Drop for Bounded {
    fn drop(&mut self) {
        if !self.reaped {
            self.signal_group(libc::SIGKILL);
            let _ = self.child.wait();
            self.forget();
        }
    }
}

/// Runs a short tool to its end and returns what it printed; an error names the tool and quotes
/// the last line it wrote to standard error.
pub fn capture(command: &mut Command, limit: Duration) -> Result<String> {
    let output = output(command, limit)?;
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// As [`capture`], for output that is not text.
pub fn output(command: &mut Command, limit: Duration) -> Result<Output> {
    let name = command.get_program().to_string_lossy().into_owned();
    command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut running =
        Bounded::spawn(command, limit).with_context(|| format!("cannot start {name}"))?;
    let stdout = running.child().stdout.take();
    let stderr = running.child().stderr.take();
    let drain = |pipe: Option<Box<dyn io::Read + Send>>| {
        std::thread::spawn(move || {
            let mut bytes = Vec::new();
            if let Some(mut pipe) = pipe {
                let _ = io::Read::read_to_end(&mut pipe, &mut bytes);
            }
            bytes
        })
    };
    let stdout = drain(stdout.map(|p| Box::new(p) as Box<dyn io::Read + Send>));
    let stderr = drain(stderr.map(|p| Box::new(p) as Box<dyn io::Read + Send>));
    let ending = running.wait(|| {})?;
    let stdout = stdout.join().unwrap_or_default();
    let stderr = stderr.join().unwrap_or_default();
    if !ending.is_success() {
        let text = String::from_utf8_lossy(&stderr);
        let last = text.lines().rfind(|line| !line.trim().is_empty());
        bail!("{name}: {ending}: {}", last.unwrap_or("(it said nothing)"));
    }
    Ok(Output {
        status: ExitStatus::default(),
        stdout,
        stderr,
    })
}

#[cfg(test)]
mod tests;
