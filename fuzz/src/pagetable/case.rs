//! From bytes to table memory and requests, and back.

use std::sync::atomic::Ordering;

use vm_iommu_oracle::{Access as OracleAccess, Memory};
use vm_iommu_pagetable::{TableMemory, testing::MockMemory};
use vm_iommu_spec::{Access, PhysAddr};

/// Size of the table memory in bytes; it begins at address 0.
pub const MEMORY_SIZE: u64 = 16 << 12;

/// The most requests that one input makes.
const MAX_REQUESTS: u8 = 4;
/// The most words of memory that one input sets.
const MAX_WORDS: usize = 1024;

/// A record's page: the value's address field is taken into memory.
const IN_MEMORY: u8 = 1 << 7;
/// A record's selector: the word is the one for the first request's address in a table of the
/// level in the lower 3 bits.
const ON_PATH: u8 = 1 << 7;

/// What an input describes.
pub(crate) struct Case {
    /// What the target makes its configuration from.
    pub config: u32,
    /// Root tables, the first stage's first; multiples of 4096.
    pub roots: [u64; 2],
    /// Addresses and what is asked of them.
    pub requests: Vec<(u64, Access)>,
    /// Table memory.
    pub memory: MockMemory,
}

struct Bytes<'a>(&'a [u8]);

impl Bytes<'_> {
    fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (taken, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(*taken)
    }

    fn u8(&mut self) -> u8 {
        self.take().map_or(0, u8::from_le_bytes)
    }

    fn u64(&mut self) -> u64 {
        self.take().map_or(0, u64::from_le_bytes)
    }

    /// A root: a page of memory, or with the top bit any address.
    fn root(&mut self) -> u64 {
        match self.u8() {
            page if page & IN_MEMORY == 0 => u64::from(page & 0xf) << 12,
            _ => self.u64() & !0xfff,
        }
    }
}

impl Case {
    /// Reads an input: configuration, two roots, requests, and words until the input ends. What
    /// is missing counts as zero.
    pub fn new(data: &[u8]) -> Self {
        let mut bytes = Bytes(data);
        let config = bytes.take().map_or(0, u32::from_le_bytes);
        let roots = [bytes.root(), bytes.root()];
        let count = bytes.u8() % MAX_REQUESTS + 1;
        let requests: Vec<_> = (0..count)
            .map(|_| (bytes.u64(), access(bytes.u8())))
            .collect();
        let memory = MockMemory::new(PhysAddr(0), MEMORY_SIZE as usize);
        for _ in 0..MAX_WORDS {
            let Some([page, selector]) = bytes.take() else {
                break;
            };
            let mut value = bytes.u64();
            if page & IN_MEMORY != 0 {
                value &= !(0xf_ffff_ffff_f000 & !(MEMORY_SIZE - 1));
            }
            let index = if selector & ON_PATH != 0 {
                path_index(requests[0].0, selector & 7)
            } else {
                u64::from(selector) << 2
            };
            let address = (u64::from(page & 0xf) << 12) + index * 8;
            // All pages and indices are in memory.
            let _ = memory.store(PhysAddr(address), value);
        }
        Self {
            config,
            roots,
            requests,
            memory,
        }
    }

    /// Bit `position` of the configuration.
    pub fn bit(&self, position: u32) -> bool {
        self.config >> position & 1 != 0
    }

    /// A width between 32 and 52 bits, and often 52, from configuration bits 31:27.
    pub fn width(&self) -> u8 {
        match (self.config >> 27) as u8 {
            width @ 0..=20 => 32 + width,
            _ => 52,
        }
    }
}

/// The index in a table of `level`.
fn path_index(address: u64, level: u8) -> u64 {
    let level = u32::from(level.clamp(1, 6));
    address >> (3 + 9 * level) & 0x1ff
}

fn access(byte: u8) -> Access {
    match byte & 7 {
        7 => Access::ATOMIC_OP,
        bits => {
            let mut access = Access::from_bits_truncate(bits & 7);
            if access.contains(Access::EXECUTE) {
                access |= Access::READ;
            }
            access
        }
    }
    .union(if byte & 8 != 0 {
        Access::PRIVILEGED
    } else {
        Access::empty()
    })
}

/// The access in the oracle's terms.
pub(crate) fn oracle_access(access: Access) -> OracleAccess {
    OracleAccess {
        read: access.reads(),
        write: access.writes(),
        execute: access.contains(Access::EXECUTE),
        privileged: access.contains(Access::PRIVILEGED),
    }
}

/// A copy of table memory for the oracle.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct OracleMemory(Vec<u64>);

impl OracleMemory {
    pub fn new(memory: &MockMemory) -> Self {
        Self(
            memory
                .words()
                .iter()
                .map(|word| word.load(Ordering::Relaxed))
                .collect(),
        )
    }

    fn word(&mut self, address: u64) -> Option<&mut u64> {
        let index = usize::try_from(address / 8).ok()?;
        if address.is_multiple_of(8) {
            self.0.get_mut(index)
        } else {
            None
        }
    }
}

impl Memory for OracleMemory {
    fn read(&mut self, address: u64) -> Option<u64> {
        self.word(address).copied()
    }

    fn set(&mut self, address: u64, mask: u64) -> Option<()> {
        *self.word(address)? |= mask;
        Some(())
    }
}

/// Writes inputs: what [`Case::new`] reads.
#[derive(Clone, Debug, Default)]
pub struct Builder(Vec<u8>);

impl Builder {
    /// An input with a configuration, two root tables in memory, each by the number of its page,
    /// and 1 to 4 requests: address and access bits (read, write, execute, privileged from bit 0
    /// on; 7 in the lower three is an atomic operation).
    pub fn new(config: u32, roots: [u8; 2], requests: &[(u64, u8)]) -> Self {
        let mut bytes = config.to_le_bytes().to_vec();
        bytes.extend(roots.map(|page| page & 0xf));
        let count = requests.len().clamp(1, MAX_REQUESTS.into());
        bytes.push(count as u8 - 1);
        for index in 0..count {
            let (address, access) = requests.get(index).copied().unwrap_or_default();
            bytes.extend(address.to_le_bytes());
            bytes.push(access);
        }
        Self(bytes)
    }

    /// Sets the entry for the first request's address in a table of `level`, in the given page.
    pub fn on_path(mut self, page: u8, level: u8, value: u64) -> Self {
        self.0.extend([page & 0xf, ON_PATH | level & 7]);
        self.0.extend(value.to_le_bytes());
        self
    }

    /// Sets the word with number `4 * index` of a page.
    pub fn word(mut self, page: u8, index: u8, value: u64) -> Self {
        self.0.extend([page & 0xf, index & 0x7f]);
        self.0.extend(value.to_le_bytes());
        self
    }

    /// The input.
    pub fn bytes(self) -> Vec<u8> {
        self.0
    }
}
