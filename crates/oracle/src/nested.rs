//! Nested translation: VT-d section 3.8; AMD 48882 section 2.2.7. The first stage is x86-64, the
//! second any model of translation.

use crate::page_walk::{Access, Memory, Refusal, Translation};
use crate::x86_64::X86_64;

/// A request that a stage refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NestedRefusal {
    /// Which stage, and what for.
    pub stage: Stage,
    /// Its refusal.
    pub refusal: Refusal,
}

/// Where a nested walk was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// In the first stage.
    First,
    /// In the second, to read a first-stage entry.
    SecondForEntry {
        /// The entry's level.
        level: u32,
        /// The address that was to be translated.
        address: u64,
    },
    /// In the second, to write flags of a first-stage entry.
    SecondForFlags {
        /// The entry's level.
        level: u32,
        /// The address that was to be translated.
        address: u64,
    },
    /// In the second, for the request itself.
    SecondForPage {
        /// The address that was to be translated.
        address: u64,
    },
}

impl From<Refusal> for NestedRefusal {
    fn from(refusal: Refusal) -> Self {
        Self {
            stage: Stage::First,
            refusal,
        }
    }
}

/// A second stage: translates an address for an access.
type SecondStage<'a> = dyn Fn(&mut dyn Memory, u64, Access) -> Result<Translation, Refusal> + 'a;

/// Translates `address` through the first stage `first` with its tables at `root`, and through
/// `second`. Yields the two stages' translations.
///
/// # Errors
/// [`NestedRefusal`].
pub fn nested(
    memory: &mut dyn Memory,
    first: &X86_64,
    second: &SecondStage<'_>,
    root: u64,
    address: u64,
    access: Access,
) -> Result<(Translation, Translation), NestedRefusal> {
    // 1. The first stage is walked. Where its entries are is translated by the second stage: for
    //    a read, to read one, and for a write, to set flags in one.
    let mut entries = |level: u32, place: u64, new: Option<u64>| {
        let access = Access {
            read: new.is_none(),
            write: new.is_some(),
            ..Access::default()
        };
        let stage = match new {
            None => Stage::SecondForEntry {
                level,
                address: place,
            },
            Some(_) => Stage::SecondForFlags {
                level,
                address: place,
            },
        };
        let translation =
            second(memory, place, access).map_err(|refusal| NestedRefusal { stage, refusal })?;
        Ok::<_, NestedRefusal>(match new {
            None => memory.read(translation.output),
            Some(mask) => memory.set(translation.output, mask).map(|()| mask),
        })
    };
    let inner = first.translate_through(&mut entries, root, address, access)?;

    // 2. What it yields is translated by the second stage, for the request's own access.
    let outer = second(memory, inner.output, access).map_err(|refusal| NestedRefusal {
        stage: Stage::SecondForPage {
            address: inner.output,
        },
        refusal,
    })?;

    // 3. Either stage limits the page and the permissions; the caller combines them.
    Ok((inner, outer))
}
