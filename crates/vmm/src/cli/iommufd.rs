//! `vm-iommu iommufd`.

use std::env;
use std::ffi::{OsStr, OsString};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, ExitStatus};
use std::sync::Arc;
use std::thread;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use thiserror::Error;
use vm_iommufd::memory::guard_truncation;
use vm_iommufd::server::{ProgramError, Server, ServerConfig, ServerError, check_program};
use vm_iommufd::{System, SystemConfig};

use super::arguments::IommufdArguments;
use super::{complain, exit};
use crate::one_line::one_line;

/// The preload library's file.
const PRELOAD: &str = "libvm_iommufd_shim.so";
/// Where it is looked for, from the folder of this program.
const PLACES: [&str; 3] = ["", "../lib/vm-iommu", "../lib"];

#[derive(Debug, Error)]
enum StartError {
    #[error(
        "{PRELOAD} is not beside this program: build it with 'cargo build --release -p \
         vm-iommufd-shim', or name it with --preload"
    )]
    NoPreload,
    #[error("--preload {}: there is no such file", .0.display())]
    PreloadMissing(PathBuf),
    #[error("--preload {}: a preload library's path has no spaces or colons", .0.display())]
    PreloadPath(PathBuf),
    #[error("{}: no such program", .0.display())]
    NoProgram(PathBuf),
    #[error(transparent)]
    Program(#[from] ProgramError),
    #[error(transparent)]
    Server(#[from] ServerError),
    #[error("programs' memory files cannot be guarded")]
    Guard(#[source] io::Error),
    #[error("{} cannot be started", .0.display())]
    Start(PathBuf, #[source] io::Error),
}

/// Runs the program under a server, and returns as it does.
pub(super) fn iommufd(arguments: &IommufdArguments) -> ExitCode {
    let mut child = match start(arguments) {
        Ok(child) => child,
        Err(error) => {
            complain(&one_line(&error));
            return ExitCode::from(exit::CANNOT_START);
        }
    };
    match child.wait() {
        Ok(status) => code_of(status),
        Err(error) => {
            complain(&format!("the program cannot be waited for: {error}"));
            ExitCode::from(exit::BROKEN)
        }
    }
}

/// The program's own exit code, or as a shell gives it for one that a signal ended.
fn code_of(status: ExitStatus) -> ExitCode {
    let code = match (status.code(), status.signal()) {
        (Some(code), _) => code,
        (None, Some(signal)) => 128 + signal,
        (None, None) => i32::from(exit::BROKEN),
    };
    ExitCode::from(u8::try_from(code).unwrap_or(exit::BROKEN))
}

fn start(arguments: &IommufdArguments) -> Result<Child, StartError> {
    let (program, rest) = arguments
        .program
        .split_first()
        .ok_or_else(|| StartError::NoProgram(PathBuf::new()))?;
    let preload = find_preload(arguments.preload.as_deref())?;
    let path = find_program(program)?;
    check_program(&path)?;
    let config = ServerConfig {
        grant_sys_resource: !arguments.own_capabilities,
        limit_locked: !arguments.no_lock_limit,
    };
    guard_truncation().map_err(StartError::Guard)?;
    let system = System::new(SystemConfig::default());
    let server = Arc::new(Server::new(system, config)?);
    let (name, value) = server.environment();
    let mut command = Command::new(&path);
    command
        .args(rest)
        .env("LD_PRELOAD", preloads(&preload))
        .env(name, value);
    let child = command
        .spawn()
        .map_err(|error| StartError::Start(path, error))?;
    leave_interrupts_to_the_program();
    have_many_files();
    serve(&server);
    Ok(child)
}

/// Threads for connections, for as long as this process lives.
fn serve(server: &Arc<Server>) {
    let reaper = Arc::clone(server);
    thread::spawn(move || {
        let error = loop {
            if let Err(error) = reaper.reap() {
                break error;
            }
        };
        log::error!("{}", one_line(&error));
    });
    let listener = Arc::clone(server);
    thread::spawn(move || {
        let error = loop {
            match listener.accept() {
                Ok(connection) => {
                    let serve = move || connection.serve();
                    if let Err(error) = thread::Builder::new().spawn(serve) {
                        log::warn!("a connection is refused: no thread for it: {error}");
                    }
                }
                Err(error) => break error,
            }
        };
        log::error!("{}", one_line(&error));
    });
}

/// An interrupt at the terminal goes to all; the program says what becomes of it, and a server
/// that ended before it would be missed.
fn leave_interrupts_to_the_program() {
    for signal in [libc::SIGINT, libc::SIGQUIT] {
        // SAFETY: ignoring a signal runs no code.
        unsafe { libc::signal(signal, libc::SIG_IGN) };
    }
}

/// The server holds one end of every descriptor that the program has.
fn have_many_files() {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: limit.maximum,
        ..limit
    };
    if let Err(error) = setrlimit(Resource::Nofile, raised) {
        log::info!("the limit of open files stays as it is: {error}");
    }
}

fn find_preload(named: Option<&Path>) -> Result<PathBuf, StartError> {
    let found = match named {
        Some(path) => path
            .canonicalize()
            .map_err(|_| StartError::PreloadMissing(path.to_path_buf()))?,
        None => {
            let own = env::current_exe().ok();
            let folder = own.as_deref().and_then(Path::parent);
            PLACES
                .iter()
                .filter_map(|place| folder?.join(place).join(PRELOAD).canonicalize().ok())
                .next()
                .ok_or(StartError::NoPreload)?
        }
    };
    let is_odd = |byte: &u8| b": \t\n".contains(byte);
    if found.as_os_str().as_bytes().iter().any(is_odd) {
        return Err(StartError::PreloadPath(found));
    }
    Ok(found)
}

/// The preload library before those that are there already.
fn preloads(ours: &Path) -> OsString {
    let mut all = ours.as_os_str().to_owned();
    if let Some(others) = env::var_os("LD_PRELOAD").filter(|others| !others.is_empty()) {
        all.push(":");
        all.push(others);
    }
    all
}

/// The program's path, looked for as a shell would.
fn find_program(name: &OsStr) -> Result<PathBuf, StartError> {
    let named = PathBuf::from(name);
    if name.as_bytes().contains(&b'/') {
        return if named.is_file() {
            Ok(named)
        } else {
            Err(StartError::NoProgram(named))
        };
    }
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path)
        .map(|folder| folder.join(name))
        .find(|candidate| candidate.is_file())
        .ok_or(StartError::NoProgram(named))
}
