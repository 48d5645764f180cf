//! The preload library in a program: each test starts this program again, under the library and a
//! server, to run one of the functions in `client`.

mod client;

use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;
use std::thread;

use vm_iommufd::server::{Server, ServerConfig};
use vm_iommufd::{System, SystemConfig};

fn library() -> PathBuf {
    let own = std::env::current_exe().unwrap();
    own.ancestors()
        .skip(1)
        .take(2)
        .map(|folder| folder.join("libvm_iommufd_shim.so"))
        .find(|file| file.is_file())
        .expect("cargo builds the library before its tests")
}

/// Runs one function of `client` in a process of its own; it must end well.
fn run(name: &str) {
    let system = System::new(SystemConfig::default());
    let server = Arc::new(Server::new(system, ServerConfig::default()).unwrap());
    let (variable, value) = server.environment();
    let reaping = Arc::clone(&server);
    thread::spawn(move || while reaping.reap().is_ok() {});
    thread::spawn(move || {
        while let Ok(connection) = server.accept() {
            thread::spawn(move || connection.serve());
        }
    });
    let output = Command::new(std::env::current_exe().unwrap())
        .args([
            "--ignored",
            "--exact",
            "--nocapture",
            &format!("client::{name}"),
        ])
        .env("LD_PRELOAD", library())
        .env(variable, value)
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success(),
        "{}:\n{text}{errors}",
        output.status
    );
    assert!(
        text.contains("1 passed"),
        "{name} did not run:\n{text}{errors}"
    );
}

macro_rules! clients {
    ($($name:ident)*) => {
        $(#[test] fn $name() { run(stringify!($name)); })*
    };
}

clients! {
    descriptors_have_the_kernels_lifetimes
    errors_are_the_kernels
    many_threads_call_at_once
    children_call_while_their_parent_does
    shared_memory_is_a_memory_file_and_stays_shared
    private_memory_is_left_alone
    huge_pages_are_aligned_whether_there_are_any_or_not
    flags_of_an_open_are_kept
    a_program_may_close_all_descriptors
    other_descriptors_are_not_touched
    another_program_may_be_started
    another_user_is_refused
}

#[test]
fn without_a_server_nothing_changes() {
    let status = Command::new("cat")
        .arg("/proc/self/status")
        .env("LD_PRELOAD", library())
        .output()
        .unwrap();
    assert!(status.status.success());
    assert!(String::from_utf8_lossy(&status.stdout).contains("VmPin"));
}
