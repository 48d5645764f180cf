//! The known differences of AMD v1 tables.

use vm_iommu_pagetable::{Reason, WalkFault};
use vm_iommu_spec::amd::HostPagingEntry as Entry;

/// A known difference: QEMU lets pass what our walker refuses for one of some reasons.
pub struct Difference {
    /// A short name.
    pub name: &'static str,
    /// What QEMU does otherwise.
    pub title: &'static str,
    /// Why ours is right. Sections are those of AMD's specification, 48882.
    pub reason: &'static str,
    /// Whether our refusal is an instance of it.
    pub explains: fn(&WalkFault) -> bool,
}

/// The known differences.
pub const DIFFERENCES: &[Difference] = &[
    Difference {
        name: "amd-skipped-bits",
        title: "the address bits of skipped levels are not looked at",
        reason: "2.2.3: where Next Level skips levels, the skipped bits of the address must be 0, \
                 or the request faults. Without the check, addresses alias.",
        explains: |fault| matches!(fault.reason, Reason::SkippedBits),
    },
    Difference {
        name: "amd-beyond-width",
        title: "addresses beyond what Mode allows are not refused",
        reason: "2.2.2.1, Mode: the address is limited to what the tables' levels translate; \
                 beyond, it is refused. Without the check, addresses alias.",
        explains: |fault| matches!(fault.reason, Reason::BeyondWidth),
    },
    Difference {
        name: "amd-reserved",
        title: "reserved bits of entries are not looked at",
        reason: "2.2.3: reserved fields of present entries must be 0, and an entry in which they \
                 are not is a fault of the page tables.",
        explains: |fault| matches!(fault.reason, Reason::Reserved { .. }),
    },
    Difference {
        name: "amd-next-level",
        title: "a table's level need not be below that of its entry",
        reason: "2.2.3: Next Level must be less than the level of the table that the entry is in. \
                 Without the check, tables that lead to themselves are walked without end.",
        explains: |fault| matches!(fault.reason, Reason::NextLevel { .. }),
    },
    Difference {
        name: "amd-encoded-size",
        title: "an encoded page size need not fit the level of its entry",
        reason: "2.2.3: the size that the address encodes with Next Level 7 is above the default \
                 page size of the entry's level and below that of the next level. With another, \
                 entries of one table would overlap or leave gaps.",
        explains: |fault| matches!(fault.reason, Reason::PageSize { .. }),
    },
    Difference {
        name: "amd-upper-permission",
        title: "permissions are taken from the page's entry alone",
        reason: "2.2.3: what is permitted is the conjunction of IR and of IW of all entries of \
                 the walk; here an entry above the page's lacks the bit.",
        explains: |fault| {
            matches!(fault.reason, Reason::ReadDenied | Reason::WriteDenied)
                && !maps_page(fault.entry())
        },
    },
    Difference {
        name: "amd-page-not-present",
        title: "the entry of a page need not be present",
        reason: "2.2.3: all other bits of an entry are ignored if PR is 0; here it is 0 in the \
                 entry that would map the page.",
        explains: |fault| matches!(fault.reason, Reason::NotPresent) && maps_page(fault.entry()),
    },
];

/// Whether the entry maps a page, going by its Next Level.
fn maps_page(entry: Option<u64>) -> bool {
    let next_level = |entry: u64| (entry & Entry::NEXT_LEVEL) >> Entry::NEXT_LEVEL_SHIFT;
    entry.is_some_and(|entry| matches!(next_level(entry), 0 | 7))
}

/// The known difference in which QEMU lets pass what ours refuses.
pub fn classify(refused: &WalkFault) -> Option<&'static Difference> {
    DIFFERENCES
        .iter()
        .find(|difference| (difference.explains)(refused))
}
