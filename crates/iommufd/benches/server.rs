//! What an ioctl costs through the preload library and the server, beside a bare echo of a
//! message between the same two processes.
//!
//! The program starts itself again as the client, under the preload library that `--preload`
//! names. Prints nanoseconds, as JSON with `--json`.

use std::env;
use std::ffi::c_ulong;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::thread::spawn;
use std::time::Instant;

use rustix::net::{self, AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType};
use rustix::thread::{self, CpuSet};
use vm_iommufd::server::{Server, ServerConfig};
use vm_iommufd::{System, SystemConfig};

const CALLS: u32 = 5_000;
const ROUNDS: usize = 15;
/// As long as the messages of the preload library.
const MESSAGE: usize = vm_iommufd_wire::MESSAGE_BYTES;

/// `IOMMU_DESTROY`, `IOMMU_IOAS_ALLOC`: the calls that are timed, in turn.
const DESTROY: c_ulong = 0x3b80;
const IOAS_ALLOC: c_ulong = 0x3b81;

fn main() {
    let arguments: Vec<String> = env::args().skip(1).collect();
    if arguments.first().is_some_and(|first| first == "client") {
        return client();
    }
    let preload = arguments
        .iter()
        .position(|argument| argument == "--preload")
        .and_then(|at| arguments.get(at + 1));
    let Some(preload) = preload else {
        // As cargo runs it among all benches.
        println!("not measured: name the preload library with --preload");
        return;
    };
    stay_here();
    let [echo, ioctl] = measure(preload);
    if arguments.iter().any(|argument| argument == "--json") {
        println!("{{\"echo_ns\": {echo}, \"ioctl_ns\": {ioctl}}}");
    } else {
        println!("echo {echo} ns, ioctl {ioctl} ns");
    }
}

/// Keeps this process and the client on one processor: where the scheduler puts two that talk to
/// each other costs more than what they say, and may differ between the echo and the server.
fn stay_here() {
    let mut one = CpuSet::new();
    one.set(thread::sched_getcpu());
    thread::sched_setaffinity(None, &one).expect("a processor of its own");
}

/// Runs the client against a server and an echo.
fn measure(preload: &str) -> [u64; 2] {
    let system = System::new(SystemConfig::default());
    let server = Arc::new(Server::new(system, ServerConfig::default()).expect("a server"));
    let (name, value) = server.environment();
    spawn(move || {
        while let Ok(connection) = server.accept() {
            spawn(move || connection.serve());
        }
    });
    let (ours, theirs) = net::socketpair(
        AddressFamily::UNIX,
        SocketType::SEQPACKET,
        SocketFlags::CLOEXEC,
        None,
    )
    .expect("a socket pair");
    spawn(move || echo(&ours));
    let mut client = Command::new(env::current_exe().expect("this program"))
        .arg("client")
        .env("LD_PRELOAD", preload)
        .env(name, value)
        .stdin(Stdio::from(theirs))
        .stdout(Stdio::piped())
        .spawn()
        .expect("the client starts");
    let mut text = String::new();
    let mut output = client.stdout.take().expect("a pipe");
    output
        .read_to_string(&mut text)
        .expect("the client's figures");
    assert!(client.wait().expect("the client ends").success());
    let mut figures = text
        .split_whitespace()
        .map(|figure| figure.parse().expect("a figure"));
    [(); 2].map(|()| figures.next().expect("two figures"))
}

fn echo(socket: &OwnedFd) {
    let mut message = [0; MESSAGE];
    while let Ok((_, length)) = net::recv(socket, &mut message[..], RecvFlags::empty())
        && length > 0
        && net::send(socket, &message, SendFlags::NOSIGNAL).is_ok()
    {}
}

/// The least of the rounds' means: what the machine's other work disturbed least. The two take
/// turns, so that a change of the machine's pace meets both.
fn client() {
    let device = File::options()
        .read(true)
        .write(true)
        .open("/dev/iommu")
        .expect("/dev/iommu is the server's");
    let socket = io::stdin();
    let mut best = [u64::MAX; 2];
    for _ in 0..ROUNDS {
        let figures = [
            time(|| echo_twice(&socket)),
            time(|| make_and_destroy(&device)),
        ];
        for (best, figure) in best.iter_mut().zip(figures) {
            *best = figure.min(*best);
        }
    }
    println!("{} {}", best[0], best[1]);
}

/// What one of two calls takes, in nanoseconds.
fn time(mut calls: impl FnMut()) -> u64 {
    let start = Instant::now();
    for _ in 0..CALLS / 2 {
        calls();
    }
    (start.elapsed() / CALLS).as_nanos() as u64
}

fn echo_twice(socket: &impl AsFd) {
    for _ in 0..2 {
        echoed(socket);
    }
}

fn echoed(socket: &impl AsFd) {
    let mut message = [0; MESSAGE];
    net::send(socket, &message, SendFlags::NOSIGNAL).expect("sent");
    net::recv(socket, &mut message[..], RecvFlags::empty()).expect("received");
}

/// Makes an address space and destroys it.
fn make_and_destroy(device: &File) {
    let mut made = [12u32, 0, 0];
    ioctl(device, IOAS_ALLOC, &mut made);
    ioctl(device, DESTROY, &mut [8, made[2]]);
}

fn ioctl(device: &File, request: c_ulong, argument: &mut [u32]) {
    // SAFETY: the argument is as long as it says, and lives as long as the call.
    let result = unsafe { libc::ioctl(device.as_raw_fd(), request, argument.as_mut_ptr()) };
    assert_eq!(result, 0, "{}", io::Error::last_os_error());
}
