//! The I/O APIC over a sink that records, and the router over a real KVM.

mod ioapic;
mod router;
