//! Page-selective invalidations, drained as a unit drains them before it reports completion.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use vm_iommu_spec::Iova;

use crate::machine::Machine;
use crate::pages::addresses;
use crate::{Effort, Row, measure};

/// Invalidations a drain, and whether a device accesses memory meanwhile.
pub const CASES: [(usize, bool); 4] = [(1, false), (64, false), (1, true), (64, true)];

pub fn row(effort: Effort, (batch, busy): (usize, bool)) -> Row {
    let machine = Machine::new(4096, 1 << 13);
    let handle = machine.warm(4096);
    let hits = addresses(effort.operations, 64, 64);
    let stop = AtomicBool::new(false);
    let columns = thread::scope(|scope| {
        if busy {
            let device = machine.warm(4096);
            let (stop, hits) = (&stop, &hits);
            scope.spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    for &address in &hits[..256] {
                        device.read(address, &mut [0; 64]).expect("mapped");
                    }
                }
            });
        }
        let epochs = &machine.port.upstream().epochs;
        let columns = measure(
            effort,
            &mut [
                ("hit", &mut || {
                    for &address in &hits {
                        handle.read(address, &mut [0; 64]).expect("mapped");
                    }
                    handle.park();
                }),
                ("invalidation", &mut || {
                    for done in 0..effort.operations {
                        let page = (done as u64 % 4096) << 12;
                        machine.remapper.drop_range(Iova(page), Iova(page | 0xfff));
                        if (done + 1) % batch == 0 {
                            epochs.drain().wait();
                        }
                    }
                }),
            ],
        );
        stop.store(true, Ordering::Relaxed);
        columns
    });
    let devices = if busy { "busy" } else { "idle" };
    Row {
        work: format!("invalidate, batches of {batch}, {devices}"),
        columns,
    }
}
