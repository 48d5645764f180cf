//! What the guest's program can do.

use super::code;

/// Size of an access, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Width {
    /// 8 bits.
    Byte = 1,
    /// 16 bits.
    Word = 2,
    /// 32 bits.
    Double = 4,
    /// 64 bits.
    Quad = 8,
}

/// One operation of the guest's program. Addresses are guest physical.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// Stores a value.
    Store {
        /// How wide.
        width: Width,
        /// Where.
        address: u64,
        /// What; the upper bits are dropped.
        value: u64,
    },
    /// Loads until `loaded & mask == value`, at most `spins` times (0 counts as 2^64), and keeps
    /// what met the condition.
    Wait {
        /// How wide.
        width: Width,
        /// Where.
        address: u64,
        /// Which bits matter.
        mask: u64,
        /// What they have to be.
        value: u64,
        /// After how many loads the guest gives up.
        spins: u64,
    },
    /// Compares memory with memory.
    Compare {
        /// The one range.
        address: u64,
        /// The other.
        with: u64,
        /// How many 64-bit words.
        words: u64,
    },
    /// Sleeps until a vector was taken at least `times` times.
    Sleep {
        /// The address of the vector's counter; see
        /// [`Placement::counter`](super::Placement::counter).
        counter: u64,
        /// How often, since the start.
        times: u64,
    },
    /// Reports success and ends the machine.
    Finish,
}

impl Operation {
    /// Size of an encoded operation in bytes.
    pub const SIZE: usize = 40;

    /// The operation as the guest reads it: code and width, 32 bits each, then address, value,
    /// mask and bound.
    pub fn encode(&self) -> [u64; Self::SIZE / 8] {
        let head = |code: u32, width: u32| u64::from(code) | u64::from(width) << 32;
        match *self {
            Self::Store {
                width,
                address,
                value,
            } => [head(code::STORE, width as u32), address, value, 0, 0],
            Self::Wait {
                width,
                address,
                mask,
                value,
                spins,
            } => [head(code::WAIT, width as u32), address, value, mask, spins],
            Self::Compare {
                address,
                with,
                words,
            } => [head(code::COMPARE, 8), address, with, 0, words],
            Self::Sleep { counter, times } => [head(code::SLEEP, 8), counter, times, 0, 0],
            Self::Finish => [head(code::FINISH, 0), 0, 0, 0, 0],
        }
    }
}
