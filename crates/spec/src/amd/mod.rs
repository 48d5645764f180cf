//! AMD-Vi: "AMD I/O Virtualization Technology (IOMMU) Specification", publication 48882. Section
//! numbers are those of revision 3.08 and later; registers are named by their MMIO offsets.

pub mod command;
mod device;
mod device_table;
mod event;
mod event_code;
mod event_entry;
mod fault_reason;
mod guest_cr3;
mod irte;
mod log;
mod page_table;
pub mod registers;

pub use device::{
    Device, DteRules, GuestTables, HostTables, InterruptControl, InterruptSource, IoControl,
    SystemManagement,
};
pub use device_table::{AttributeWord, DeviceTableEntry, DmaWord, DomainWord, InterruptWord};
pub use event::{Event, HardwareError, InvalidRequest};
pub use event_code::EventCode;
pub use event_entry::EventEntry;
pub use fault_reason::FaultReason;
pub use guest_cr3::GuestCr3Entry;
pub use irte::{GuestInterrupt, GuestIrte, Irte32, Irte128, Remapped, index_of};
pub use log::{GaEntry, PageRequest, PprEntry, PprResponse};
pub use page_table::HostPagingEntry;

#[cfg(test)]
mod tests;
