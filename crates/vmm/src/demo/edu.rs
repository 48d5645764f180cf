//! The guest's driver for the edu device.

use vm_iommu_driver::Until;
use vm_iommu_spec::Iova;

use super::engine::Width;
use super::recorder::Recorder;

/// PCI vendor and device identifiers.
pub const ID: (u16, u16) = (0x1234, 0x11e8);

const INTERRUPT_RAISE: u64 = 0x60;
const INTERRUPT_ACKNOWLEDGE: u64 = 0x64;
const DMA_SOURCE: u64 = 0x80;
const DMA_DESTINATION: u64 = 0x88;
const DMA_COUNT: u64 = 0x90;
const DMA_COMMAND: u64 = 0x98;

const START: u64 = 1;
/// From the device to memory.
const TO_MEMORY: u64 = 1 << 1;

/// Where the device's own buffer is in what it takes for an address.
const BUFFER: u64 = 0x4_0000;

/// An edu device whose registers are at `base`.
pub struct Edu<'a> {
    recorder: &'a Recorder,
    base: u64,
}

impl<'a> Edu<'a> {
    /// The device with its registers at guest physical `base`.
    pub fn new(recorder: &'a Recorder, base: u64) -> Self {
        Self { recorder, base }
    }

    /// The device reads `length` bytes of memory into its buffer.
    pub fn read_memory(&self, from: Iova, length: u64) {
        self.transfer(from.0, BUFFER, length, START);
    }

    /// The device writes `length` bytes of its buffer to memory.
    pub fn write_memory(&self, to: Iova, length: u64) {
        self.transfer(BUFFER, to.0, length, START | TO_MEMORY);
    }

    /// The device raises its interrupt, with `status` for a reason.
    pub fn raise(&self, status: u32) {
        self.write(Width::Double, INTERRUPT_RAISE, status.into());
    }

    /// The reason is gone.
    pub fn acknowledge(&self, status: u32) {
        self.write(Width::Double, INTERRUPT_ACKNOWLEDGE, status.into());
    }

    fn transfer(&self, source: u64, destination: u64, length: u64, command: u64) {
        self.write(Width::Quad, DMA_SOURCE, source);
        self.write(Width::Quad, DMA_DESTINATION, destination);
        self.write(Width::Quad, DMA_COUNT, length);
        self.write(Width::Quad, DMA_COMMAND, command);
        let idle = Until::clear(START);
        self.recorder
            .wait(Width::Quad, self.base + DMA_COMMAND, idle);
    }

    fn write(&self, width: Width, offset: u64, value: u64) {
        self.recorder.write(width, self.base + offset, value);
    }
}
