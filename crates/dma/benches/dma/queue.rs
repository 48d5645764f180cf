//! A virtio queue: pop a chain, read 512 bytes, add it to the used ring.

use crate::machine::Machine;
use crate::ring::{lay_out, one};
use crate::{Effort, Row, measure};

pub fn row(effort: Effort) -> Row {
    let machine = Machine::new(2048, 1 << 16);
    let memory = machine.ram.memory();
    let rings = lay_out(&memory);
    let mut handle = machine.warm(2048);
    let (mut raw_queue, mut our_queue) = (rings.raw, rings.translated);
    let columns = measure(
        effort,
        &mut [
            ("raw", &mut || {
                raw_queue.turn(effort.operations, |queue| one(queue, &*memory));
            }),
            ("session", &mut || {
                our_queue.turn(effort.operations, |queue| one(queue, &handle.session()));
            }),
        ],
    );
    Row {
        work: "virtio-queue pop, 512 B, add_used".into(),
        columns,
    }
}
