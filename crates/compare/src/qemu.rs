//! QEMU's `intel-iommu`, with an `edu` behind it.
//!
//! No guest runs: the firmware is a processor that halts. Time is counted in instructions and
//! jumps to the next timer while the processor is halted, so that `edu`, which delays each
//! transfer by 100 ms, needs a few hundred microseconds of ours.

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use crate::qtest::{Qtest, QtestError};
use crate::side::{SLOTS, SOURCE, Side, layout};

/// The program, found through PATH.
pub const PROGRAM: &str = "qemu-system-x86_64";

/// Where the registers of `intel-iommu` are.
const INTEL: u64 = 0xfed9_0000;
/// Where the registers of `amd-iommu` are.
const AMD: u64 = 0xfed8_0000;
/// Where `edu`'s BAR 0 is put.
const EDU: u64 = 0xfea0_0000;
/// Where `edu`'s buffer lies among its own addresses.
const EDU_BUFFER: u64 = 0x4_0000;
const EDU_DMA_SOURCE: u64 = EDU + 0x80;
const EDU_DMA_DESTINATION: u64 = EDU + 0x88;
const EDU_DMA_COUNT: u64 = EDU + 0x90;
const EDU_DMA_COMMAND: u64 = EDU + 0x98;
/// Start.
const START: u64 = 1;
/// From the buffer to memory.
const TO_MEMORY: u64 = 2;
/// How long a transfer may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// QEMU's side.
#[derive(Debug)]
pub struct Qemu {
    qtest: Qtest,
    /// Where the unit's registers are.
    unit: u64,
}

impl Qemu {
    /// Starts QEMU with an `intel-iommu` whose properties are `unit`, as in `aw-bits=48`. Its
    /// socket and firmware are files in `folder`.
    ///
    /// # Errors
    /// [`QtestError`].
    pub fn start(unit: &str, folder: &Path) -> Result<Self, QtestError> {
        Self::with(&format!("intel-iommu,intremap=off,{unit}"), INTEL, folder)
    }

    /// Starts QEMU with an `amd-iommu`.
    ///
    /// # Errors
    /// [`QtestError`].
    pub fn start_amd(folder: &Path) -> Result<Self, QtestError> {
        Self::with("amd-iommu,intremap=off", AMD, folder)
    }

    fn with(device: &str, unit: u64, folder: &Path) -> Result<Self, QtestError> {
        let firmware = folder.join("halt.bin");
        std::fs::write(&firmware, halting_firmware())?;
        let mut command = Command::new(PROGRAM);
        command
            .args(["-machine", "q35,pit=off,hpet=off", "-accel", "tcg"])
            .args(["-icount", "shift=0,sleep=off", "-m", "2G"])
            .args(["-nodefaults", "-no-user-config", "-display", "none"])
            .arg("-bios")
            .arg(&firmware)
            .args([
                "-device",
                device,
                "-device",
                "edu,addr=3,dma_mask=0xffffffffffffffff",
            ]);
        let mut qemu = Self {
            qtest: Qtest::start(&mut command, folder)?,
            unit,
        };
        qemu.find_edu()?;
        Ok(qemu)
    }

    /// Gives `edu` its BAR, and lets it be a bus master.
    fn find_edu(&mut self) -> Result<(), QtestError> {
        let function = 0x8000_0000 | u64::from(SOURCE) << 8;
        for (register, value) in [(0x10, EDU), (0x04, 0b110)] {
            self.qtest
                .tell(format!("outl 0xcf8 {:#x}", function | register));
            self.qtest.tell(format!("outl 0xcfc {value:#x}"));
        }
        let id = self.qtest.ask(format!("readl {EDU:#x}"))?;
        if id & 0xff != 0xed {
            return Err(QtestError::Refused {
                command: "the identification of edu".to_owned(),
                answer: format!("{id:#x}"),
            });
        }
        Ok(())
    }

    fn writeq(&mut self, address: u64, value: u64) {
        self.qtest.tell(format!("writeq {address:#x} {value:#x}"));
    }

    /// One transfer, to its end.
    fn transfer(
        &mut self,
        source: u64,
        destination: u64,
        count: u64,
        command: u64,
    ) -> Result<(), QtestError> {
        self.writeq(EDU_DMA_SOURCE, source);
        self.writeq(EDU_DMA_DESTINATION, destination);
        self.writeq(EDU_DMA_COUNT, count);
        self.writeq(EDU_DMA_COMMAND, START | command);
        let deadline = Instant::now() + PATIENCE;
        loop {
            let state = self.qtest.ask(format!("readq {EDU_DMA_COMMAND:#x}"))?;
            if state & START == 0 {
                return Ok(());
            }
            if Instant::now() > deadline {
                return Err(QtestError::Stuck {
                    what: "a transfer of QEMU's edu",
                });
            }
        }
    }
}

/// 64 KiB whose reset vector disables interrupts and halts.
fn halting_firmware() -> Vec<u8> {
    const HALT: u8 = 0xf4;
    let mut image = vec![HALT; 0x1_0000];
    // cli; hlt; jump back to the hlt.
    image[0xfff0..0xfff4].copy_from_slice(&[0xfa, HALT, 0xeb, 0xfd]);
    image
}

impl Side for Qemu {
    fn store(&mut self, address: u64, word: u64) -> Result<(), QtestError> {
        self.writeq(address, word);
        Ok(())
    }

    fn load(&mut self, address: u64) -> Result<u64, QtestError> {
        self.qtest.ask(format!("readq {address:#x}"))
    }

    fn load_all(&mut self, addresses: &[u64]) -> Result<Vec<u64>, QtestError> {
        let already = self.qtest.pending();
        for address in addresses {
            self.qtest.tell(format!("readq {address:#x}"));
        }
        let mut values = self.qtest.flush()?;
        Ok(values.split_off(already))
    }

    fn clear(&mut self, address: u64, length: u64) -> Result<(), QtestError> {
        self.qtest
            .tell(format!("memset {address:#x} {length:#x} 0x0"));
        Ok(())
    }

    fn read32(&mut self, register: u16) -> Result<u32, QtestError> {
        let address = self.unit + u64::from(register);
        Ok(self.qtest.ask(format!("readl {address:#x}"))? as u32)
    }

    fn read64(&mut self, register: u16) -> Result<u64, QtestError> {
        self.load(self.unit + u64::from(register))
    }

    fn read128(&mut self, register: u16) -> Result<[u64; 2], QtestError> {
        let place = self.unit + u64::from(register);
        let values = self.load_all(&[place, place + 8])?;
        Ok(std::array::from_fn(|i| values.get(i).copied().unwrap_or(0)))
    }

    fn write32(&mut self, register: u16, value: u32) -> Result<(), QtestError> {
        let address = self.unit + u64::from(register);
        self.qtest.tell(format!("writel {address:#x} {value:#x}"));
        Ok(())
    }

    fn write64(&mut self, register: u16, value: u64) -> Result<(), QtestError> {
        self.writeq(self.unit + u64::from(register), value);
        Ok(())
    }

    fn dma_read(&mut self, iova: u64, slot: u16) -> Result<(), QtestError> {
        self.transfer(iova, EDU_BUFFER + u64::from(slot) * 8, 8, 0)
    }

    fn dma_write(&mut self, iova: u64, slot: u16) -> Result<(), QtestError> {
        self.transfer(EDU_BUFFER + u64::from(slot) * 8, iova, 8, TO_MEMORY)
    }

    fn set_slots(&mut self, words: &[u64; SLOTS]) -> Result<(), QtestError> {
        for (address, word) in (layout::BOUNCE..).step_by(8).zip(words) {
            self.writeq(address, *word);
        }
        self.transfer(layout::BOUNCE, EDU_BUFFER, SLOTS as u64 * 8, 0)
    }

    fn slots(&mut self) -> Result<[u64; SLOTS], QtestError> {
        self.transfer(EDU_BUFFER, layout::BOUNCE, SLOTS as u64 * 8, TO_MEMORY)?;
        let places: [u64; SLOTS] = std::array::from_fn(|slot| layout::BOUNCE + slot as u64 * 8);
        let values = self.load_all(&places)?;
        Ok(std::array::from_fn(|i| values.get(i).copied().unwrap_or(0)))
    }

    fn settle(&mut self) -> Result<(), QtestError> {
        // QEMU does it while the register is written.
        Ok(())
    }
}
