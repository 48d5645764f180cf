//! The differences that are known, and why our answer is the right one.

use vm_iommu_spec::vtd::{FaultReason, SecondStageEntry as Entry};

use super::case::{INTERRUPTS, Request, Step, reach};
use super::conduct::Observation;
use super::run::Mismatch;

/// A known difference.
pub struct Difference {
    /// A short name.
    pub name: &'static str,
    /// What QEMU does otherwise.
    pub title: &'static str,
    /// What each does, in full.
    pub what: &'static str,
    /// Why ours is right, or why both are. Sections are those of revision 4.0 and later.
    pub reason: &'static str,
    /// Whether a mismatch is an instance of it.
    pub explains: fn(&Mismatch) -> bool,
}

/// The known differences; the first that explains a mismatch counts.
pub const DIFFERENCES: &[Difference] = &[
    Difference {
        name: "permission-order",
        title: "permissions are checked at each level, before the entry itself",
        what: "An entry lacks the permission that the request needs, and this entry or one below \
               it has reserved bits set or leads out of memory. QEMU stops at the missing \
               permission (reason 0x05 or 0x06); our unit reads on and reports the broken entry \
               (0x0c or 0x07). Both refuse the request.",
        reason: "What a request may do is the conjunction of the permissions of all levels (3.7), \
                 so it is known once the walk has come to its end, and a walk that meets an \
                 invalid entry has none. No section orders the two conditions for one request; \
                 ours is the order of a processor's walk, and points the guest at the entry that \
                 is broken whatever the request.",
        explains: permission_order,
    },
    Difference {
        name: "entry-of-ones",
        title: "an entry whose bits are all set counts as one that cannot be read",
        what: "QEMU reports an entry of 64 ones as if there were no memory: reason 0x07, or 0x03 \
               in the topmost table. Our unit reports its reserved bits (0x0c).",
        reason: "The entry was read: it is present and has reserved bits set, which is LSL.2 \
                 (7.1.3). LSL.1 and LCT.4 are for tables that cannot be accessed. QEMU uses the \
                 value as its mark of a failed read.",
        explains: entry_of_ones,
    },
    Difference {
        name: "cached-permission",
        title: "a cached page that lacks the permission is refused without a record",
        what: "A page that may only be read was read, or one that may only be written was \
               written, and then it is asked for the other. QEMU finds the page in its IOTLB, \
               refuses the request and records nothing; our unit records it (reason 0x05 or 0x06).",
        reason: "What a request meets must not depend on what is cached: LGN.2 and LGN.3 (7.1.3) \
                 are recorded for a request without permission, and on a first access QEMU does.",
        explains: cached_permission,
    },
    Difference {
        name: "interrupt-range-page",
        title: "a whole large page is refused if any of it is in the interrupt address range",
        what: "A large page includes 0xFEE0_0000 to 0xFEEF_FFFF, and the request is for another \
               part of it. QEMU refuses it (reason 0x0e); our unit translates it, and refuses the \
               part that is in the range.",
        reason: "LGN.4 (7.1.3, 3.14) is about a request whose output address is in the range. \
                 This one's is not.",
        explains: interrupt_range_page,
    },
    Difference {
        name: "pass-through-width",
        title: "pass-through is accepted with any supported width",
        what: "A context entry has TT 10b and an AW that the unit supports but that is not its \
               largest. QEMU passes requests through; our unit refuses them (reason 0x03).",
        reason: "9.3: software must set AW to the largest width that CAP.SAGAW reports if TT is \
                 10b; LCT.4 is the reason for an entry that breaks such a rule.",
        explains: pass_through_width,
    },
    Difference {
        name: "pass-through-beyond",
        title: "pass-through has no limit of addresses",
        what: "A request that passes through has an address beyond the width. QEMU sends it to \
               memory, where nothing answers, and records nothing; our unit refuses it (reason \
               0x04).",
        reason: "LGN.1 (7.1.3) is the reason for any untranslated request whose address is above \
                 2^X - 1, with X the smaller of MGAW and the width in AW; that is why a \
                 pass-through entry must have one.",
        explains: pass_through_beyond,
    },
    Difference {
        name: "table-mode",
        title: "the table mode of the root table is not looked at",
        what: "TTM of RTADDR_REG is not 00b on a unit without scalable mode. QEMU takes the \
               table for one of legacy mode; our unit refuses all requests (reason 0x30).",
        reason: "11.4.5 and RTA.1 (7.1.3): a mode that is reserved or not supported makes \
                 requests fault.",
        explains: table_mode,
    },
    Difference {
        name: "root-address-width",
        title: "the address of the root table is cut to the width of addresses",
        what: "RTADDR_REG has address bits set that are beyond the width of physical addresses. \
               QEMU ignores them; our unit keeps them, and finds no root table there (reason \
               0x08).",
        reason: "Both are allowed: by 11.4.5 hardware may ignore bits 63:HAW. Ours tells the \
                 guest of an address that cannot be the one it meant.",
        explains: root_address_width,
    },
];

/// The known difference that a mismatch is an instance of.
pub fn classify(mismatch: &Mismatch) -> Option<&'static Difference> {
    DIFFERENCES
        .iter()
        .find(|difference| (difference.explains)(mismatch))
}

impl Mismatch {
    fn context_field(&self, word: usize, shift: u8, mask: u64) -> u64 {
        self.case.context()[word] >> shift & mask
    }

    /// AW of the context entry.
    fn address_width(&self) -> u64 {
        self.context_field(1, 0, 7)
    }

    /// The greatest AW that the unit supports.
    fn widest(&self) -> u64 {
        u64::from((self.session.width - 30) / 9)
    }

    fn passes_through(&self) -> bool {
        self.context_field(0, 2, 3) == 2
    }

    /// Whether a side refused for this reason; without a record, where the context entry asks
    /// for none.
    fn refused(&self, side: &Observation, reason: FaultReason) -> bool {
        match side.fault {
            Some(fault) => fault.reason == reason.code(),
            None => {
                let disabled = self.context_field(0, 1, 1) != 0 && reason.is_qualified();
                disabled && nothing_moved(side)
            }
        }
    }

    /// The permission that the request needs, and the reason without it.
    fn need(&self) -> (u64, FaultReason) {
        if self.request.write {
            (Entry::WRITE, FaultReason::WriteDenied)
        } else {
            (Entry::READ, FaultReason::ReadDenied)
        }
    }

    fn entries(&self) -> Vec<(u8, u64)> {
        let steps = self.case.steps(self.request.iova);
        let known = |step: Step| Some((step.level, step.entry?));
        steps.into_iter().map_while(known).collect()
    }
}

/// Whether no data came from, or went to, where it could have.
fn nothing_moved(side: &Observation) -> bool {
    side.written.is_empty() && side.read.unwrap_or(0) == 0
}

fn permission_order(m: &Mismatch) -> bool {
    let (need, denied) = m.need();
    let broken = [
        FaultReason::PagingEntryReserved,
        FaultReason::PagingEntryAccess,
    ];
    // An entry without any permission is absent for both.
    let lacking = |(_, entry): (u8, u64)| entry & need == 0 && entry & 3 != 0;
    m.refused(&m.qemu, denied)
        && broken.iter().any(|reason| m.refused(&m.ours, *reason))
        && m.entries().into_iter().any(lacking)
}

fn entry_of_ones(m: &Mismatch) -> bool {
    let entries = m.entries();
    let Some(position) = entries.iter().position(|(_, entry)| *entry == u64::MAX) else {
        return false;
    };
    let theirs = match position {
        0 => FaultReason::ContextEntryInvalid,
        _ => FaultReason::PagingEntryAccess,
    };
    m.refused(&m.ours, FaultReason::PagingEntryReserved) && m.refused(&m.qemu, theirs)
}

fn cached_permission(m: &Mismatch) -> bool {
    // Where the entry is that maps the page.
    let page = |iova: u64| {
        let steps = m.case.steps(iova);
        let large = |entry: u64| entry & Entry::PAGE_SIZE != 0;
        steps
            .iter()
            .find(|step| step.level == 1 || step.entry.is_some_and(large))
            .map(|step| step.at)
    };
    let (need, denied) = m.need();
    let other = |earlier: &Request| {
        earlier.write != m.request.write && page(earlier.iova) == page(m.request.iova)
    };
    m.ours
        .fault
        .is_some_and(|fault| fault.reason == denied.code())
        && m.qemu.fault.is_none()
        && nothing_moved(&m.qemu)
        && m.entries().iter().any(|(_, entry)| entry & need == 0)
        && m.case.requests[..m.index].iter().any(other)
}

fn interrupt_range_page(m: &Mismatch) -> bool {
    let page = m
        .entries()
        .into_iter()
        .find(|(level, entry)| *level > 1 && entry & Entry::PAGE_SIZE != 0);
    let Some((level, entry)) = page else {
        return false;
    };
    let size = 1_u64 << reach(level);
    let first = entry & Entry::FRAME & !(size - 1);
    let output = first | m.request.iova & (size - 1);
    m.ours.fault.is_none()
        && m.refused(&m.qemu, FaultReason::OutputInterruptRange)
        && first < INTERRUPTS.end
        && first + size > INTERRUPTS.start
        && !INTERRUPTS.contains(&output)
}

fn pass_through_width(m: &Mismatch) -> bool {
    m.passes_through()
        && (1..m.widest()).contains(&m.address_width())
        && m.refused(&m.ours, FaultReason::ContextEntryInvalid)
        && m.qemu.fault.is_none()
}

fn pass_through_beyond(m: &Mismatch) -> bool {
    m.passes_through()
        && m.request.iova >> m.session.width != 0
        && m.refused(&m.ours, FaultReason::AddressBeyondMgaw)
        && m.qemu.fault.is_none()
        && nothing_moved(&m.qemu)
}

fn table_mode(m: &Mismatch) -> bool {
    m.case.root_address >> 10 & 3 != 0 && m.refused(&m.ours, FaultReason::RootTableAddressInvalid)
}

fn root_address_width(m: &Mismatch) -> bool {
    m.case.root_address >> m.session.width != 0 && m.refused(&m.ours, FaultReason::RootTableAccess)
}
