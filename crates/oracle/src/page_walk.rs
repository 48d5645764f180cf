//! What the models of page walks have in common: the question and the answers.

/// The memory that tables are in. A model is its only user while it runs.
pub trait Memory {
    /// The 64-bit word at `address`; `None` if it is not memory.
    fn read(&mut self, address: u64) -> Option<u64>;

    /// Sets the bits of `mask` in the 64-bit word at `address`; `None` if it is not memory.
    fn set(&mut self, address: u64, mask: u64) -> Option<()>;
}

/// What a request does. An atomic operation reads and writes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Access {
    /// It reads.
    pub read: bool,
    /// It writes.
    pub write: bool,
    /// It fetches instructions.
    pub execute: bool,
    /// It has supervisor privilege.
    pub privileged: bool,
}

/// A request that is granted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Translation {
    /// What the address translates to.
    pub output: u64,
    /// Base-2 logarithm of the page's size in bytes.
    pub page_shift: u32,
    /// Such a request may read.
    pub read: bool,
    /// Such a request may write.
    pub write: bool,
    /// Such a request may fetch instructions.
    pub execute: bool,
    /// The entry that maps the page, before flags were set in it.
    pub page_entry: u64,
    /// All entries allow user privilege (x86-64).
    pub user: bool,
    /// The entries used, the topmost first.
    pub entries: Vec<Entry>,
}

/// An entry that was used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Its level, 1 for the lowest.
    pub level: u32,
    /// Where it is.
    pub address: u64,
    /// What it was.
    pub value: u64,
}

/// A request that is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The level of the entry that refuses; 0 if the address is refused as such.
    pub level: u32,
    /// Where that entry is; 0 if the address is refused as such.
    pub address: u64,
    /// Why.
    pub why: Why,
}

/// Why a request is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    /// The address is wider than the tables translate.
    TooWide,
    /// The address is not canonical.
    NotCanonical,
    /// The entry is not in memory.
    NoMemory,
    /// The entry is not present.
    NotPresent,
    /// This bit of the entry is reserved and set; the lowest of those.
    ReservedBit(u32),
    /// The next level is none that may follow.
    NextLevel(u32),
    /// The page size, as a logarithm, is none that the level has.
    PageSize(u32),
    /// Address bits of levels that are skipped are not zero.
    SkippedBits,
    /// Reading is not permitted.
    NoRead,
    /// Writing is not permitted.
    NoWrite,
    /// Fetching instructions is not permitted.
    NoExecute,
    /// User privilege does not suffice.
    NoUser,
    /// Requests with supervisor privilege are not enabled.
    NoSupervisor,
}

/// Bits `high` to `low` of `value`.
pub(crate) fn bits(value: u64, high: u32, low: u32) -> u64 {
    let mut field = 0;
    for position in (low..=high).rev() {
        field = field * 2 + u64::from(bit(value, position));
    }
    field
}

/// Bit `position` of `value`.
pub(crate) fn bit(value: u64, position: u32) -> bool {
    value / 2u64.pow(position) % 2 == 1
}

/// The lowest of `reserved` that is set in `entry`.
pub(crate) fn first_set(entry: u64, reserved: &[u32]) -> Option<u32> {
    reserved
        .iter()
        .copied()
        .filter(|&position| bit(entry, position))
        .min()
}
