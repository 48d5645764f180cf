//! Reads a block device at random, 4 KiB at a time, with a fixed number of reads in flight, and
//! prints how many it did a second: `vm-iommu-reader DEVICE DEPTH WINDOWS MILLISECONDS`.
//!
//! It runs in a test guest, linked statically. One line a window, in the form of the guest's
//! other reports; a first window that is not counted warms everything up.

mod aio;

use std::fs::File;
use std::io::{self, Error, ErrorKind};
use std::os::unix::fs::OpenOptionsExt;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use aio::{BLOCK, Reads};

/// The sequence of blocks is the same in every run (xorshift64).
struct Blocks {
    state: u64,
    count: u64,
}

impl Blocks {
    fn next_offset(&mut self) -> u64 {
        self.state ^= self.state << 13;
        self.state ^= self.state >> 7;
        self.state ^= self.state << 17;
        (self.state >> 8) % self.count * BLOCK as u64
    }
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [device, depth, windows, milliseconds] = arguments.as_slice() else {
        eprintln!("usage: vm-iommu-reader DEVICE DEPTH WINDOWS MILLISECONDS");
        return ExitCode::from(2);
    };
    let (Ok(depth), Ok(windows), Ok(milliseconds)) =
        (depth.parse(), windows.parse(), milliseconds.parse())
    else {
        eprintln!("vm-iommu-reader: DEPTH, WINDOWS and MILLISECONDS are numbers");
        return ExitCode::from(2);
    };
    match run(device, depth, windows, Duration::from_millis(milliseconds)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            println!("@@VMI read_failed={error}");
            ExitCode::FAILURE
        }
    }
}

fn run(device: &str, depth: usize, windows: usize, length: Duration) -> io::Result<()> {
    let mut options = File::options();
    let file = options
        .read(true)
        .custom_flags(libc::O_DIRECT)
        .open(device)?;
    let size = io::Seek::seek(&mut &file, io::SeekFrom::End(0))?;
    if size < BLOCK as u64 || depth == 0 {
        return Err(Error::from(ErrorKind::InvalidInput));
    }
    let mut blocks = Blocks {
        state: 0x2545_f491_4f6c_dd1d,
        count: size / BLOCK as u64,
    };
    let mut reads = Reads::new(&file, depth)?;
    for slot in 0..depth {
        reads.prepare(slot, blocks.next_offset());
    }
    reads.submit()?;
    for window in 0..=windows {
        let start = Instant::now();
        let mut done = 0_u64;
        let elapsed = loop {
            done += reads.complete(|| blocks.next_offset())? as u64;
            let elapsed = start.elapsed();
            if elapsed >= length {
                break elapsed;
            }
            reads.submit()?;
        };
        if window > 0 {
            let rate = done as f64 / elapsed.as_secs_f64();
            println!("@@VMI reads_per_second={rate:.1}");
        }
        reads.submit()?;
    }
    reads.finish()
}
