//! The walk that all formats share: from table to table, 512 entries of 8 bytes each.

mod granted;
mod position;
mod sized;

use vm_iommu_spec::{Access, Iova, PhysAddr};

use crate::walk::{Attributes, Reason, Translation, Visited, Walk, WalkFault};
use crate::{BadAddress, TableMemory};

pub(crate) use granted::translate;
pub use position::Position;
pub(crate) use sized::{SizedEntries, beyond_width};

/// How often a walk is repeated because another party changed an entry between its load and the
/// update of its flags. A hostile party can change it every time.
const MAX_REREADS: usize = 8;

/// How many of an address's lower bits a table of `level` translates: 12 in the page, 9 a level.
pub(crate) const fn table_reach(level: u8) -> u8 {
    12 + 9 * level
}

/// How many of an address's lower bits one entry of `level` translates.
pub(crate) const fn entry_reach(level: u8) -> u8 {
    3 + 9 * level
}

/// Where the entry for `address` is, in a table of `level`, 1 to 6.
#[inline(always)]
pub(crate) const fn entry_address(table: u64, level: u8, address: u64) -> u64 {
    table.wrapping_add((address >> entry_reach(level) & 0x1ff) << 3)
}

/// What an entry leads to.
#[derive(Clone, Copy)]
pub enum Next {
    /// A table, of a level below the entry's.
    Table {
        /// Where it is.
        address: u64,
        /// The level of its entries.
        level: u8,
    },
    /// A page of `1 << shift` bytes that begins at `address`.
    Page {
        /// Where it begins.
        address: u64,
        /// Base-2 logarithm of its size in bytes.
        shift: u8,
    },
}

/// A table format: what its entries mean to a walk.
pub trait Format {
    /// Entry bits that forbid when set. Other bits permit when set, if they concern permission.
    const DENIALS: u64;
    /// The largest level that tables may have, at most 6.
    const MAX_LEVEL: u8;

    /// The level of the root table's entries.
    fn root_level(&self) -> u8;

    /// Whether the tables translate `address` at all, and serve such an access.
    fn check(&self, address: u64, access: Access) -> Result<(), Reason>;

    /// Whether an entry is present; otherwise its other bits mean nothing.
    fn is_present(&self, entry: u64) -> bool;

    /// Decodes and checks an entry of `level`, but for permissions.
    fn decode(&self, level: u8, entry: u64, address: u64) -> Result<Next, Reason>;

    /// Whether `rights`, the combined entries down to some level, refuse `access`.
    fn refusal(&self, rights: u64, access: Access) -> Option<Reason>;

    /// What `rights`, the combined entries of a whole walk, permit to requests of the same
    /// privilege as `access`.
    fn permissions(&self, rights: u64, access: Access) -> Access;

    /// The attributes of a page.
    fn attributes(&self, page: u64, shift: u8, rights: u64) -> Attributes;

    /// Flags that a use of an entry sets: the accessed flag, in a page's entry the dirty flag if
    /// `writes`. None if the format is configured without.
    fn flags(&self, is_page: bool, writes: bool) -> u64;
}

/// Where a walker finds entries.
pub(crate) trait Tables {
    /// What a walk in these tables may fail with.
    type Fault: From<WalkFault>;

    /// Loads the entry of `level` at `address`; `Err(None)` if the table is not in memory.
    fn load(&self, level: u8, address: u64) -> Result<u64, Option<Self::Fault>>;

    /// Replaces the entry of `level` at `address` by `new` if it still is `old`, and says whether it was.
    fn update(
        &self,
        level: u8,
        address: u64,
        old: u64,
        new: u64,
    ) -> Result<bool, Option<Self::Fault>>;
}

/// Tables whose entries point to each other by the addresses of [`TableMemory`].
pub(crate) struct Direct<'a, M: ?Sized>(pub &'a M);

impl<M: TableMemory + ?Sized> Tables for Direct<'_, M> {
    type Fault = WalkFault;

    #[inline(always)]
    fn load(&self, _level: u8, address: u64) -> Result<u64, Option<WalkFault>> {
        self.0.load(PhysAddr(address)).map_err(|BadAddress(_)| None)
    }

    fn update(
        &self,
        _level: u8,
        address: u64,
        old: u64,
        new: u64,
    ) -> Result<bool, Option<WalkFault>> {
        match self.0.compare_exchange(PhysAddr(address), old, new) {
            Ok(found) => Ok(found.is_ok()),
            Err(BadAddress(_)) => Err(None),
        }
    }
}

/// What is asked of a walk.
#[derive(Clone, Copy)]
pub(crate) struct Request {
    pub address: u64,
    pub access: Access,
    /// Whether flags are left as they are.
    pub probe: bool,
}

impl Request {
    #[inline]
    pub const fn new(address: Iova, access: Access) -> Self {
        Self {
            address: address.0,
            access,
            probe: false,
        }
    }

    /// The same, of a walk that leaves flags as they are.
    pub const fn probe(address: Iova, access: Access) -> Self {
        Self {
            probe: true,
            ..Self::new(address, access)
        }
    }
}

/// The translation by a page whose entry has all flags that the access needs.
#[inline(always)]
fn translation<F: Format + ?Sized>(
    format: &F,
    request: Request,
    rights: u64,
    entry: u64,
    page: u64,
    shift: u8,
) -> Translation {
    let Request {
        address, access, ..
    } = request;
    let permissions = format.permissions(rights, access);
    let mut cacheable = permissions;
    let dirty = format.flags(true, true) & !format.flags(true, false);
    if !access.writes() && dirty & !entry != 0 {
        cacheable -= Access::WRITE;
    }
    Translation {
        output: PhysAddr(page | address & ((1 << (shift & 63)) - 1)),
        page_shift: shift,
        permissions,
        cacheable,
        attributes: format.attributes(entry, shift, rights),
    }
}

/// Walks from `start`, which translates all of the request's address. At most `start.level`
/// entries are read; `MAX_REREADS` times more if flags are set and entries change meanwhile.
pub(crate) fn walk<F: Format + ?Sized, T: Tables>(
    format: &F,
    tables: &T,
    start: Position,
    request: Request,
) -> Result<Walk, T::Fault> {
    if let Err(reason) = format.check(request.address, request.access) {
        return Err(WalkFault {
            level: 0,
            reason,
            visited: Visited::default(),
        }
        .into());
    }
    let mut level = start.level;
    for _ in 0..=MAX_REREADS {
        match attempt(format, tables, start, request)? {
            Ok(walk) => return Ok(walk),
            Err(contended) => level = contended,
        }
    }
    let visited = Visited::default();
    Err(WalkFault {
        level,
        reason: Reason::Contended,
        visited,
    }
    .into())
}

/// One walk; the inner error is the level of an entry that changed before its flags were set.
fn attempt<F: Format + ?Sized, T: Tables>(
    format: &F,
    tables: &T,
    start: Position,
    request: Request,
) -> Result<Result<Walk, u8>, T::Fault> {
    let Request {
        address,
        access,
        probe,
    } = request;
    let mut visited = Visited::default();
    let Position {
        mut table,
        mut level,
        mut rights,
    } = start;
    let (page, shift, entry) = loop {
        let place = entry_address(table, level, address);
        let entry = match tables.load(level, place) {
            Ok(entry) => entry,
            Err(fault) => {
                visited.push(level, place, 0);
                return Err(inaccessible(level, visited, fault));
            }
        };
        visited.push(level, place, entry);
        rights &= entry ^ F::DENIALS;
        match format.decode(level, entry, address) {
            Ok(Next::Table {
                address,
                level: below,
            }) => (table, level) = (address, below),
            Ok(Next::Page { address, shift }) => break (address, shift, entry),
            Err(reason) => {
                return Err(WalkFault {
                    level,
                    reason,
                    visited,
                }
                .into());
            }
        }
    };
    if format.refusal(rights, access).is_some() {
        return Err(denied(format, start, access, visited).into());
    }
    let mut translation = translation(format, request, rights, entry, page, shift);
    match set_flags(format, tables, &visited, access.writes(), probe)? {
        Flags::Set => {}
        Flags::Unset => translation.cacheable = Access::empty(),
        Flags::Contended(level) => return Ok(Err(level)),
    }
    Ok(Ok(Walk {
        translation,
        visited,
    }))
}

enum Flags {
    Set,
    /// A probe found flags to set and left them.
    Unset,
    /// The entry of this level changed since it was read.
    Contended(u8),
}

/// Sets accessed and dirty flags in the entries of a successful walk, the topmost first.
fn set_flags<F: Format + ?Sized, T: Tables>(
    format: &F,
    tables: &T,
    visited: &Visited,
    writes: bool,
    probe: bool,
) -> Result<Flags, T::Fault> {
    let count = visited.len();
    for (i, step) in visited.iter().enumerate() {
        let flags = format.flags(i + 1 == count, writes);
        if step.entry & flags == flags {
            continue;
        }
        if probe {
            return Ok(Flags::Unset);
        }
        match tables.update(step.level, step.address.0, step.entry, step.entry | flags) {
            Ok(true) => {}
            Ok(false) => return Ok(Flags::Contended(step.level)),
            Err(fault) => return Err(inaccessible(step.level, *visited, fault)),
        }
    }
    Ok(Flags::Set)
}

#[cold]
fn inaccessible<E: From<WalkFault>>(level: u8, visited: Visited, fault: Option<E>) -> E {
    fault.unwrap_or_else(|| {
        WalkFault {
            level,
            reason: Reason::TableAccess,
            visited,
        }
        .into()
    })
}

/// The fault of a walk that reached a page but may not access it: at the topmost entry that
/// takes away what is missing.
#[cold]
fn denied<F: Format + ?Sized>(
    format: &F,
    start: Position,
    access: Access,
    visited: Visited,
) -> WalkFault {
    let mut rights = start.rights;
    let mut fault = WalkFault {
        level: start.level,
        reason: Reason::NotPresent,
        visited,
    };
    for step in visited.iter() {
        rights &= step.entry ^ F::DENIALS;
        fault.level = step.level;
        if let Some(reason) = format.refusal(rights, access) {
            fault.reason = reason;
            break;
        }
    }
    fault
}

/// The positions below `start` that a walk passed and set flags in, which a paging-structure
/// cache may hold.
pub(crate) fn positions<'a, F: Format + ?Sized>(
    format: &'a F,
    start: Position,
    address: u64,
    visited: &'a Visited,
) -> impl Iterator<Item = Position> + 'a {
    visited.iter().scan(start.rights, move |rights, step| {
        *rights &= (step.entry | format.flags(false, false)) ^ F::DENIALS;
        match format.decode(step.level, step.entry, address) {
            Ok(Next::Table { address, level }) => Some(Position {
                table: address,
                level,
                rights: *rights,
            }),
            _ => None,
        }
    })
}
