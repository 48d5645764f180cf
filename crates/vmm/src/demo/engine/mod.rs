//! The guest's program: a list of operations, and the code that performs it.
//!
//! The code is assembled into this binary as data and copied into guest memory; it contains
//! nothing but plain integer instructions, so that a KVM that interprets the guest's kernel runs
//! it too.

mod image;
mod operation;
#[cfg(test)]
mod tests;

pub use image::{Image, ImageError, Placement};
pub use operation::{Operation, Width};

use std::arch::global_asm;

use crate::layout;

/// What the guest is doing, as its status page says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Not at the first operation yet.
    Starting,
    /// Performing the operation with this index.
    Running(u64),
    /// Performed all operations.
    Finished,
    /// Gave up at an operation.
    Failed {
        /// The operation's index.
        index: u64,
        /// What it last loaded, if it was a wait or a comparison.
        value: u64,
    },
    /// Took a processor exception during an operation.
    Exception {
        /// The operation's index.
        index: u64,
        /// The exception's vector.
        vector: u64,
        /// The two words on top of its stack frame: error code, if the exception has one, and
        /// instruction pointer.
        frame: [u64; 2],
        /// The address of a page fault.
        address: u64,
    },
}

/// Offsets in the status page, bytes.
mod status {
    pub const STATE: u64 = 0;
    pub const INDEX: u64 = 8;
    pub const LAST_VALUE: u64 = 16;
    pub const VECTOR: u64 = 24;
    pub const FRAME: u64 = 32;
    pub const FAULT_ADDRESS: u64 = 48;
    /// How often each of the 256 vectors was taken, 8 bytes each.
    pub const COUNTERS: u64 = 0x800;

    pub const RUNNING: u64 = 1;
    pub const FINISHED: u64 = 2;
    pub const FAILED: u64 = 3;
    pub const EXCEPTION: u64 = 4;
}

/// Encodings of [`Operation`].
mod code {
    pub const STORE: u32 = 1;
    pub const WAIT: u32 = 2;
    pub const COMPARE: u32 = 3;
    pub const SLEEP: u32 = 4;
    pub const FINISH: u32 = 5;
}

global_asm!(
    include_str!("payload.s"),
    STATE = const status::STATE,
    INDEX = const status::INDEX,
    LAST_VALUE = const status::LAST_VALUE,
    VECTOR = const status::VECTOR,
    FRAME = const status::FRAME,
    FAULT_ADDRESS = const status::FAULT_ADDRESS,
    COUNTERS = const status::COUNTERS,
    RUNNING = const status::RUNNING,
    FINISHED = const status::FINISHED,
    FAILED = const status::FAILED,
    EXCEPTION = const status::EXCEPTION,
    STORE = const code::STORE,
    WAIT = const code::WAIT,
    COMPARE = const code::COMPARE,
    SLEEP = const code::SLEEP,
    FINISH = const code::FINISH,
    OPERATION_SIZE = const Operation::SIZE,
    EXIT_PORT = const layout::EXIT_DEVICE,
    LAPIC_EOI = const layout::LAPIC + 0xb0,
);

unsafe extern "C" {
    #[link_name = "vm_iommu_demo_payload"]
    static PAYLOAD: u8;
    #[link_name = "vm_iommu_demo_stubs"]
    static STUBS: u8;
    #[link_name = "vm_iommu_demo_end"]
    static END: u8;
}

/// Where things are in [`code_bytes`], from its start.
#[derive(Clone, Copy, Debug)]
struct Offsets;

impl Offsets {
    /// What the host fills in.
    const SCRIPT: usize = 8;
    const STATUS: usize = 16;
    const RESULTS: usize = 24;
    const STACK: usize = 32;
    const IDT_LIMIT: usize = 40;
    const IDT_BASE: usize = 42;
    /// Distance between the stubs of two vectors.
    const STUB_SIZE: u64 = 16;

    /// The stub of vector 0.
    fn stubs() -> u64 {
        (&raw const STUBS).addr() as u64 - (&raw const PAYLOAD).addr() as u64
    }
}

/// The code as assembled, with an empty header.
fn code_bytes() -> &'static [u8] {
    let start = &raw const PAYLOAD;
    let len = (&raw const END).addr() - start.addr();
    // SAFETY: the two symbols enclose one run of this binary's read-only data, in this order.
    unsafe { std::slice::from_raw_parts(start, len) }
}
