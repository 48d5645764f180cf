//! The walk that is granted and has no flags to set, which is nearly every one: as short as it can
//! be.

use super::{Format, Next, Position, Request, Tables, entry_address, translation, walk};
use crate::walk::Translation;

/// Translates from `start`, which translates all of the request's address. The common case: an
/// access that is granted and has no flags to set. All others are walked again, with a record of
/// what is visited.
#[inline(always)]
pub(crate) fn translate<F: Format + ?Sized, T: Tables>(
    format: &F,
    tables: &T,
    start: Position,
    request: Request,
) -> Result<Translation, T::Fault> {
    match granted(format, tables, start, request) {
        Some(translation) => Ok(translation),
        None => translate_slowly(format, tables, start, request),
    }
}

#[cold]
#[inline(never)]
fn translate_slowly<F: Format + ?Sized, T: Tables>(
    format: &F,
    tables: &T,
    start: Position,
    request: Request,
) -> Result<Translation, T::Fault> {
    walk(format, tables, start, request).map(|walk| walk.translation)
}

/// The translation, if there is one and no flag is to be set for it.
///
/// One step for each level, written out: what depends on the level alone is then known to the
/// compiler, which makes the walk half as long.
#[inline(always)]
fn granted<F: Format + ?Sized, T: Tables>(
    format: &F,
    tables: &T,
    start: Position,
    request: Request,
) -> Option<Translation> {
    format.check(request.address, request.access).ok()?;
    let mut at = Progress { position: start };
    let mut page = None;
    if at.position.level == 6 && F::MAX_LEVEL >= 6 {
        page = at.step(format, tables, 6, request.address)?;
    }
    if at.position.level == 5 && F::MAX_LEVEL >= 5 && page.is_none() {
        page = at.step(format, tables, 5, request.address)?;
    }
    if at.position.level == 4 && page.is_none() {
        page = at.step(format, tables, 4, request.address)?;
    }
    if at.position.level == 3 && page.is_none() {
        page = at.step(format, tables, 3, request.address)?;
    }
    if at.position.level == 2 && page.is_none() {
        page = at.step(format, tables, 2, request.address)?;
    }
    if at.position.level == 1 && page.is_none() {
        page = at.step(format, tables, 1, request.address)?;
    }
    let Page {
        address: page,
        shift,
        entry,
    } = page?;
    let rights = at.position.rights;
    let writes = request.access.writes();
    // What all entries permit also tells which flags all of them have.
    let missing = format.flags(false, false) & !rights | format.flags(true, writes) & !entry;
    if missing != 0 || format.refusal(rights, request.access).is_some() {
        return None;
    }
    Some(translation(format, request, rights, entry, page, shift))
}

/// The page that a walk ended at.
#[derive(Clone, Copy)]
struct Page {
    address: u64,
    shift: u8,
    entry: u64,
}

/// How far a walk has come.
struct Progress {
    position: Position,
}

impl Progress {
    /// Reads the entry of `level`, the position's, and moves on or yields the page.
    #[inline(always)]
    fn step<F: Format + ?Sized, T: Tables>(
        &mut self,
        format: &F,
        tables: &T,
        level: u8,
        address: u64,
    ) -> Option<Option<Page>> {
        let place = entry_address(self.position.table, level, address);
        let entry = tables.load(level, place).ok()?;
        self.position.rights &= entry ^ F::DENIALS;
        match format.decode(level, entry, address).ok()? {
            Next::Table { address, level } => {
                self.position.table = address;
                self.position.level = level;
                Some(None)
            }
            Next::Page { address, shift } => Some(Some(Page {
                address,
                shift,
                entry,
            })),
        }
    }
}
