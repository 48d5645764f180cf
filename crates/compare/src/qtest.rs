//! A child QEMU and its qtest socket: commands as lines, one answer each, all waits bounded.
//!
//! Commands are only collected until an answer is needed; then they go out together, and QEMU
//! answers them in their order.

use std::io::{BufRead, BufReader, ErrorKind, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use thiserror::Error;

/// How long QEMU may take to start, and to answer.
const PATIENCE: Duration = Duration::from_secs(20);

/// Why there is no answer.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum QtestError {
    /// The socket failed.
    #[error("the connection to QEMU failed")]
    Io(#[from] std::io::Error),
    /// QEMU did not connect in time.
    #[error("QEMU did not connect to its test socket within {} s", PATIENCE.as_secs())]
    NoConnection,
    /// QEMU ended.
    #[error("QEMU ended unexpectedly: {said}")]
    Ended {
        /// What it wrote to standard error last.
        said: String,
    },
    /// QEMU refused a command.
    #[error("QEMU answered `{answer}` to `{command}`")]
    Refused {
        /// The command.
        command: String,
        /// The answer.
        answer: String,
    },
    /// Something did not come to its end in time.
    #[error("{what} did not end")]
    Stuck {
        /// What.
        what: &'static str,
    },
}

/// A running QEMU. Dropping it kills it.
#[derive(Debug)]
pub struct Qtest {
    child: Child,
    stderr: std::path::PathBuf,
    output: UnixStream,
    input: BufReader<UnixStream>,
    /// Commands that were not sent yet.
    pending: Vec<String>,
}

impl Qtest {
    /// Starts `command` with a test socket in `folder`.
    ///
    /// # Errors
    /// [`QtestError`].
    pub fn start(command: &mut Command, folder: &Path) -> Result<Self, QtestError> {
        let socket = folder.join("qtest");
        let stderr = folder.join("stderr");
        let listener = UnixListener::bind(&socket)?;
        listener.set_nonblocking(true)?;
        let mut address = std::ffi::OsString::from("unix:");
        address.push(&socket);
        command
            .arg("-qtest")
            .arg(address)
            .args(["-qtest-log", "none"])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(std::fs::File::create(&stderr)?);
        // SAFETY: prctl is async-signal-safe and touches no memory of the parent.
        unsafe {
            command.pre_exec(|| {
                if libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) == 0 {
                    Ok(())
                } else {
                    Err(std::io::Error::last_os_error())
                }
            });
        }
        let mut child = command.spawn()?;
        match connection(&listener, &mut child, &stderr) {
            Ok((output, input)) => {
                // The name is not needed any more, and the next child uses it again.
                std::fs::remove_file(&socket)?;
                Ok(Self {
                    child,
                    stderr,
                    output,
                    input,
                    pending: Vec::new(),
                })
            }
            Err(error) => {
                let _ = child.kill();
                let _ = child.wait();
                Err(error)
            }
        }
    }

    /// Collects a command whose answer holds no value.
    pub fn tell(&mut self, command: String) {
        self.pending.push(command);
    }

    /// The number of commands that are collected and not sent yet.
    pub fn pending(&self) -> usize {
        self.pending.len()
    }

    /// Sends all collected commands, then `command`, and yields the value in its answer.
    ///
    /// # Errors
    /// [`QtestError`].
    pub fn ask(&mut self, command: String) -> Result<u64, QtestError> {
        self.tell(command);
        Ok(self.flush()?.last().copied().unwrap_or(0))
    }

    /// Sends all collected commands and yields the values in their answers, 0 where there is
    /// none.
    ///
    /// # Errors
    /// [`QtestError`].
    pub fn flush(&mut self) -> Result<Vec<u64>, QtestError> {
        let commands = std::mem::take(&mut self.pending);
        let mut values = Vec::with_capacity(commands.len());
        // Both directions of the socket have bounded buffers.
        for commands in commands.chunks(256) {
            let text: String = commands.iter().flat_map(|c| [c.as_str(), "\n"]).collect();
            if let Err(error) = self.output.write_all(text.as_bytes()) {
                return Err(self.because(error));
            }
            for command in commands {
                let mut answer = String::new();
                match self.input.read_line(&mut answer) {
                    Ok(0) => return Err(self.because(ErrorKind::UnexpectedEof.into())),
                    Ok(_) => values.push(value_of(command, answer.trim())?),
                    Err(error) => return Err(self.because(error)),
                }
            }
        }
        Ok(values)
    }

    /// The error of the socket, or what QEMU said if it is gone.
    fn because(&mut self, error: std::io::Error) -> QtestError {
        let deadline = Instant::now() + Duration::from_millis(200);
        while Instant::now() < deadline {
            if let Ok(Some(_)) = self.child.try_wait() {
                return QtestError::Ended {
                    said: last_line(&self.stderr),
                };
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        QtestError::Io(error)
    }
}

impl Drop for Qtest {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn connection(
    listener: &UnixListener,
    child: &mut Child,
    stderr: &Path,
) -> Result<(UnixStream, BufReader<UnixStream>), QtestError> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match listener.accept() {
            Ok((stream, _)) => {
                stream.set_nonblocking(false)?;
                stream.set_read_timeout(Some(PATIENCE))?;
                stream.set_write_timeout(Some(PATIENCE))?;
                let input = BufReader::new(stream.try_clone()?);
                return Ok((stream, input));
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(error) => return Err(error.into()),
        }
        if child.try_wait()?.is_some() {
            return Err(QtestError::Ended {
                said: last_line(stderr),
            });
        }
        if Instant::now() > deadline {
            return Err(QtestError::NoConnection);
        }
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// The value in the answer to `command`.
pub(crate) fn value_of(command: &str, answer: &str) -> Result<u64, QtestError> {
    let refused = || QtestError::Refused {
        command: command.to_owned(),
        answer: answer.to_owned(),
    };
    let mut words = answer.split_ascii_whitespace();
    if words.next() != Some("OK") {
        return Err(refused());
    }
    match words.next() {
        None => Ok(0),
        Some(word) => {
            let parsed = match word.strip_prefix("0x") {
                Some(digits) => u64::from_str_radix(digits, 16),
                None => word.parse(),
            };
            parsed.map_err(|_| refused())
        }
    }
}

fn last_line(path: &Path) -> String {
    let text = std::fs::read(path).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let last = text.lines().rfind(|line| !line.trim().is_empty());
    last.unwrap_or("(it said nothing)").to_owned()
}

#[cfg(test)]
mod tests;
