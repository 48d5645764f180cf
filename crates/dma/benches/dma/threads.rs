//! Two devices on two threads, beside two threads that read memory as it is.

use std::sync::Barrier;
use std::thread;
use std::time::Instant;

use vm_memory::Bytes;

use crate::buffer::Buffer;
use crate::machine::Machine;
use crate::pages::{addresses, output};
use crate::{Effort, Row};

/// One thread, and two.
pub fn rows(effort: Effort, size: u64) -> [Row; 2] {
    let machine = Machine::new(64, 1 << 16);
    let memory = machine.ram.memory();
    let inputs = addresses(effort.operations, 64, size);
    let outputs: Vec<_> = inputs.iter().copied().map(output).collect();
    let raw = || {
        let mut buffer = Buffer::new(0, size);
        let buffer = &mut *buffer;
        for &address in &outputs {
            memory.read_slice(buffer, address).expect("memory");
            std::hint::black_box(&*buffer);
        }
    };
    let handle = || {
        let handle = machine.warm(64);
        let inputs = &inputs;
        move || {
            let mut buffer = Buffer::new(0, size);
            let buffer = &mut *buffer;
            for &address in inputs {
                handle.read(address, buffer).expect("mapped");
                std::hint::black_box(&*buffer);
            }
        }
    };
    [1, 2].map(|threads| Row {
        work: format!("read {size} B, 64 pages, {threads} threads"),
        columns: vec![
            ("raw", together(effort, (0..threads).map(|_| raw).collect())),
            (
                "handle",
                together(effort, (0..threads).map(|_| handle()).collect()),
            ),
        ],
    })
}

/// Runs all at once, round after round; the median of the slowest of each round.
fn together(effort: Effort, work: Vec<impl FnMut() + Send>) -> f64 {
    let barrier = Barrier::new(work.len());
    let times: Vec<Vec<f64>> = thread::scope(|scope| {
        let threads: Vec<_> = work
            .into_iter()
            .map(|mut work| {
                let barrier = &barrier;
                scope.spawn(move || {
                    let rounds = (0..effort.rounds).map(|_| {
                        barrier.wait();
                        let start = Instant::now();
                        work();
                        start.elapsed().as_nanos() as f64 / effort.operations as f64
                    });
                    rounds.collect()
                })
            })
            .collect();
        let join = |thread: thread::ScopedJoinHandle<'_, _>| thread.join().expect("no panic");
        threads.into_iter().map(join).collect()
    });
    let mut slowest: Vec<f64> = (0..effort.rounds)
        .map(|round| times.iter().map(|times| times[round]).fold(0.0, f64::max))
        .collect();
    slowest.sort_by(f64::total_cmp);
    slowest[slowest.len() / 2]
}
