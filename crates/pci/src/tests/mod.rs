//! Fixtures that the tests share.

mod assign;
mod config;
mod fabric;
mod groups;
mod interrupts;
mod properties;
mod reset;
mod threads;

use std::sync::{Arc, Mutex, Weak};

use vm_iommu_dma::{DmaHandle, DmaPort, GuestRam, MsiSink, MsiVector, Upstream};
use vm_iommu_spec::{FaultReason, MsiMessage, PhysAddr, RequesterId};
use vm_memory::{GuestAddress, GuestMemoryMmap};

use crate::registers::*;
use crate::*;

pub(crate) const LOW: u64 = 0xc000_0000;
pub(crate) const HIGH: u64 = 0x40_0000_0000;

pub(crate) fn windows() -> Windows {
    Windows {
        memory32: LOW..=0xdfff_ffff,
        memory64: HIGH..=0x4f_ffff_ffff,
        io: 0xc000..=0xffff,
    }
}

/// Interrupts that were raised, in order.
#[derive(Clone, Default)]
pub(crate) struct Log(Arc<Mutex<Vec<(RequesterId, MsiMessage)>>>);

impl Log {
    pub(crate) fn take(&self) -> Vec<(RequesterId, MsiMessage)> {
        std::mem::take(&mut self.0.lock().unwrap())
    }
}

struct LoggedVector(Log, Mutex<Option<(RequesterId, MsiMessage)>>);

impl MsiSink for Log {
    fn signal(&self, requester: RequesterId, message: MsiMessage) {
        self.0.lock().unwrap().push((requester, message));
    }

    fn vector(&self) -> Box<dyn MsiVector> {
        Box::new(LoggedVector(self.clone(), Mutex::default()))
    }
}

impl MsiVector for LoggedVector {
    fn configure(&self, message: Option<(RequesterId, MsiMessage)>) {
        *self.1.lock().unwrap() = message;
    }

    fn signal(&self) {
        if let Some((requester, message)) = *self.1.lock().unwrap() {
            self.0.signal(requester, message);
        }
    }
}

pub(crate) fn upstream(log: &Log) -> Upstream {
    let memory = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), 0x1_0000)]).unwrap();
    Upstream {
        msi: Arc::new(log.clone()),
        ..Upstream::direct(GuestRam::new(memory))
    }
}

/// An access to a BAR: which, where, and the bytes of a write.
pub(crate) type BarAccess = (u8, u64, Option<Vec<u8>>);

/// A config write through a fabric: where in the ECAM window, and what.
pub(crate) type ConfigWrite = (Weak<Fabric>, u64, Vec<u8>);

/// A function that remembers what is done to it.
pub(crate) struct Probe {
    config: ConfigSpace,
    port: Arc<DmaPort>,
    pub(crate) accesses: Mutex<Vec<BarAccess>>,
    pub(crate) resets: Mutex<u32>,
    doorbells: Vec<Doorbell>,
    /// Written to config space through the fabric at each write of a BAR and each reset.
    pub(crate) back: Mutex<Option<ConfigWrite>>,
}

impl Probe {
    pub(crate) fn new(builder: ConfigBuilder, upstream: Upstream) -> Arc<Self> {
        Self::with_doorbells(builder, upstream, Vec::new())
    }

    pub(crate) fn with_doorbells(
        builder: ConfigBuilder,
        upstream: Upstream,
        doorbells: Vec<Doorbell>,
    ) -> Arc<Self> {
        let port = DmaPort::new(upstream);
        Arc::new(Self {
            config: builder.build(&port).unwrap(),
            port,
            accesses: Mutex::default(),
            resets: Mutex::default(),
            doorbells,
            back: Mutex::default(),
        })
    }

    pub(crate) fn handle(&self) -> DmaHandle {
        self.port.handle()
    }

    pub(crate) fn take_accesses(&self) -> Vec<BarAccess> {
        std::mem::take(&mut self.accesses.lock().unwrap())
    }

    fn write_back(&self) {
        let back = self.back.lock().unwrap().clone();
        if let Some((fabric, offset, data)) = back
            && let Some(fabric) = fabric.upgrade()
        {
            fabric.ecam_write(offset, &data);
        }
    }
}

impl PciFunction for Probe {
    fn config(&self) -> &ConfigSpace {
        &self.config
    }

    fn port(&self) -> &Arc<DmaPort> {
        &self.port
    }

    fn read_bar(&self, bar: u8, offset: u64, data: &mut [u8]) {
        self.accesses.lock().unwrap().push((bar, offset, None));
        data.fill(0x5a);
    }

    fn write_bar(&self, bar: u8, offset: u64, data: &[u8]) {
        let access = (bar, offset, Some(data.to_vec()));
        self.accesses.lock().unwrap().push(access);
        self.write_back();
    }

    fn reset(&self) {
        assert_eq!(self.port.refusal(), Some(FaultReason::Stopped));
        *self.resets.lock().unwrap() += 1;
        self.write_back();
    }

    fn doorbells(&self) -> Vec<Doorbell> {
        self.doorbells.clone()
    }
}

pub(crate) fn identity() -> Identity {
    Identity {
        vendor: 0x1234,
        device: 0x5678,
        class: 0x00_ff_00,
        ..Identity::default()
    }
}

/// BAR 0: 32-bit memory, 64 KiB, with MSI-X; BAR 2: 64-bit, prefetchable, 1 MiB; BAR 4: 16 ports.
pub(crate) fn endpoint() -> ConfigBuilder {
    ConfigBuilder::endpoint(identity())
        .bar(
            0,
            Bar::Memory32 {
                size: 0x1_0000,
                prefetchable: false,
            },
        )
        .bar(
            2,
            Bar::Memory64 {
                size: 0x10_0000,
                prefetchable: true,
            },
        )
        .bar(4, Bar::Io { size: 16 })
        .interrupt_pin(1)
        .pcie(PortKind::Endpoint)
        .msi(4)
        .msix(MsixLayout::in_bar(0, 3))
}

pub(crate) fn new_fabric(log: &Log) -> Arc<Fabric> {
    Fabric::new(0, windows(), upstream(log)).unwrap()
}

pub(crate) fn at(device: u8, function: u8) -> DevFn {
    DevFn::new(device, function).unwrap()
}

/// The offset of a register in the ECAM window.
pub(crate) fn ecam(bus: u8, devfn: DevFn, register: u16) -> u64 {
    u64::from(bus) << 20 | u64::from(devfn.raw()) << 12 | u64::from(register)
}

pub(crate) fn read_u32(fabric: &Fabric, offset: u64) -> u32 {
    let mut data = [0; 4];
    fabric.ecam_read(offset, &mut data);
    u32::from_le_bytes(data)
}

pub(crate) fn set_command(fabric: &Fabric, bus: u8, devfn: DevFn, command: Command) {
    let data = command.bits().to_le_bytes();
    fabric.ecam_write(ecam(bus, devfn, COMMAND), &data);
}

/// The host bridge, a root port at 01.0 with a probe at its end, and a probe at 02.0; assigned.
pub(crate) struct Machine {
    pub(crate) log: Log,
    pub(crate) fabric: Arc<Fabric>,
    pub(crate) behind: Arc<Probe>,
    pub(crate) behind_id: FunctionId,
    pub(crate) beside: Arc<Probe>,
    pub(crate) beside_id: FunctionId,
}

impl Machine {
    pub(crate) fn new() -> Self {
        let log = Log::default();
        let fabric = new_fabric(&log);
        let bus = fabric
            .add_bridge(
                BusId::ROOT,
                at(1, 0),
                PortKind::RootPort,
                AcsFlags::ISOLATION,
            )
            .unwrap();
        let behind = Probe::new(endpoint(), upstream(&log));
        let behind_id = fabric.add(bus, at(0, 0), behind.clone()).unwrap();
        let beside = Probe::new(endpoint(), upstream(&log));
        let beside_id = fabric.add(BusId::ROOT, at(2, 0), beside.clone()).unwrap();
        fabric.assign().unwrap();
        Self {
            log,
            fabric,
            behind,
            behind_id,
            beside,
            beside_id,
        }
    }

    pub(crate) fn bar(&self, probe: &Probe, index: u8) -> PhysAddr {
        let bars = probe.config().bars();
        PhysAddr(bars.iter().find(|bar| bar.index == index).unwrap().address)
    }
}
