//! I/O page tables: walkers as hardware has them, editors as drivers have them.
//!
//! A walker is a pure function over [`TableMemory`]: a table's root, an address and an access
//! give a [`Translation`] or a [`WalkFault`]. Walks allocate nothing, read at most one entry a level, and
//! take whatever the tables hold: their author may be hostile and may change them meanwhile.
//!
//! ```
//! use vm_iommu_pagetable::{
//!     Levels, Reason, SecondStage, SecondStageConfig, TableMemory, Walker,
//!     testing::MockMemory,
//! };
//! use vm_iommu_spec::{Access, Iova, PhysAddr, vtd::SecondStageEntry};
//!
//! let memory = MockMemory::new(PhysAddr(0), 0x4000);
//! let entry = SecondStageEntry::new().with_read(true);
//! for (table, next) in [(0x1000, 0x2000), (0x2000, 0x3000), (0x3000, 0x7654_3000)] {
//!     memory.store(PhysAddr(table), entry.with_address(PhysAddr(next)).into_bits())?;
//! }
//!
//! let format = SecondStage::new(SecondStageConfig::new(Levels::Three));
//! let root = PhysAddr(0x1000);
//! let translation = format.translate(&memory, root, Iova(0x210), Access::READ).unwrap();
//! assert_eq!(translation.output, PhysAddr(0x7654_3210));
//! assert_eq!(translation.page_size(), 4096);
//!
//! let fault = format.translate(&memory, root, Iova(0x210), Access::WRITE).unwrap_err();
//! assert_eq!(fault.reason, Reason::WriteDenied);
//! assert_eq!(fault.entry_address(), Some(PhysAddr(0x1000)));
//! # Ok::<(), vm_iommu_pagetable::BadAddress>(())
//! ```
#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]
#![deny(missing_docs)]

extern crate alloc;

mod amd_v1;
mod editor;
mod engine;
mod memory;
mod nested;
mod second_stage;
pub mod testing;
mod walk;
mod walker;
mod x86_64;

pub use amd_v1::{AmdV1, AmdV1Config};
pub use editor::{EditError, EditFailure, Editable, Editor, Invalidation, Mapping, TablePages};
pub use engine::{Format, Position};
pub use memory::{BadAddress, TableMemory};
pub use nested::{Nested, NestedFault, NestedWalk, Purpose};
pub use second_stage::{Levels, SecondStage, SecondStageConfig};
pub use walk::{
    AttributeFlags, Attributes, MAX_LEVELS, Reason, Step, Translation, Visited, Walk, WalkFault,
};
pub use walker::Walker;
pub use x86_64::{X86_64, X86_64Config};
