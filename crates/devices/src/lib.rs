//! Emulated PCI devices that see a DMA handle and an MSI sink, never a unit.
