//! The PCI functions, and the threads that serve them.

use std::sync::Arc;

use vm_iommu_devices::{Edu, EduConfig, IoThread, QueueEvents, VirtioBlk};
use vm_iommu_dma::{DmaPort, Epochs, GuestRam, Upstream};
use vm_iommu_pci::{AcsFlags, BusId, DevFn, Fabric, FunctionId, PciFunction, PortKind};
use vm_iommu_virtio::{Features, VirtioPci};

use super::MachineError;
use super::unit::RemappingUnit;
use crate::config::{self, DeviceConfig, IommuConfig, MachineConfig, VirtioBlkConfig};
use crate::interrupt::{Messages, MsiRouter};
use crate::layout;

/// The most threads that serve one device's queues: beyond, they only take processors from the
/// guest.
const MOST_THREADS: u16 = 4;

/// What lies upstream of functions: behind a unit, or beside all.
pub(super) struct Upstreams {
    /// By the number of the unit.
    pub(super) served: Vec<Upstream>,
    pub(super) direct: Upstream,
}

impl Upstreams {
    /// All ways to `ram`, through each unit and past it.
    pub(super) fn new(
        ram: &GuestRam,
        epochs: &Arc<Epochs>,
        router: &Arc<MsiRouter>,
        units: &[Arc<dyn RemappingUnit>],
    ) -> Self {
        let output: Arc<GuestRam> = Arc::new(ram.clone());
        let direct = Upstream {
            output,
            remapper: None,
            epochs: Arc::clone(epochs),
            msi: Arc::new(Messages::direct(Arc::clone(router))),
        };
        let served = units.iter().enumerate().map(|(number, unit)| Upstream {
            remapper: Some(Arc::clone(unit) as _),
            msi: Arc::new(Messages::remapped(Arc::clone(router), number)),
            ..direct.clone()
        });
        Self {
            served: served.collect(),
            direct,
        }
    }
}

/// Which functions units serve.
pub(super) enum Served {
    /// None: there is no unit.
    Nobody,
    /// All of the segment, the host bridge included.
    All,
    /// These, and root ports.
    Some(Vec<FunctionId>),
}

/// The root port of a further unit.
pub(super) struct RootPort {
    pub(super) id: FunctionId,
    /// The bus behind it.
    pub(super) bus: BusId,
}

/// Adds a root port for each unit but the first.
pub(super) fn add_ports(
    fabric: &Fabric,
    config: &IommuConfig,
) -> Result<Vec<RootPort>, MachineError> {
    (1..config.units())
        .map(|unit| {
            let place = DevFn::from_raw(layout::root_port(unit) << 3);
            let bus =
                fabric.add_bridge(BusId::ROOT, place, PortKind::RootPort, AcsFlags::ISOLATION)?;
            let functions = fabric.inspect().functions;
            let id = functions
                .iter()
                .map(|function| function.id)
                .find(|id| fabric.behind(*id) == Some(bus))
                .ok_or(MachineError::NoPlace {
                    number: layout::root_port(unit),
                })?;
            Ok(RootPort { id, bus })
        })
        .collect()
}

/// The functions of a machine.
pub(super) struct Devices {
    pub(super) served: Served,
    /// Serve the devices until they are dropped.
    pub(super) threads: Vec<IoThread>,
}

/// Adds the functions of `config`: to the root bus, device numbers from 1 on, or behind a port.
pub(super) fn add(
    fabric: &Fabric,
    config: &MachineConfig,
    upstreams: &Upstreams,
    ports: &[RootPort],
) -> Result<Devices, MachineError> {
    let has_unit = config.iommu != IommuConfig::None;
    let mut threads = Vec::new();
    let mut behind = Vec::new();
    let mut numbers = config.device_numbers();
    for device in &config.devices {
        let port = usize::from(device.port());
        let upstream = upstreams.served.get(port).filter(|_| wants_iommu(device));
        let served = upstream.is_some();
        let upstream = upstream.unwrap_or(&upstreams.direct);
        let (bus, number) = match port.checked_sub(1).and_then(|port| ports.get(port)) {
            Some(port) => (port.bus, 0),
            None => {
                let number = numbers.next();
                (
                    BusId::ROOT,
                    number.ok_or(MachineError::NoPlace { number: 32 })?,
                )
            }
        };
        let function: Arc<dyn PciFunction> = match device {
            DeviceConfig::VirtioBlk(disk) => {
                let queues = disk.queues.unwrap_or(config.cpus);
                let queues = queues.clamp(1, VirtioBlkConfig::MAX_QUEUES);
                let function = disk_function(disk, queues, upstream.clone(), served)?;
                threads.extend(serve(&function)?);
                function
            }
            DeviceConfig::Edu(edu) => Arc::new(edu_function(edu, upstream.clone())?),
        };
        let devfn = DevFn::new(number, 0).ok_or(MachineError::NoPlace { number })?;
        let id = fabric.add(bus, devfn, function)?;
        if served {
            behind.push(id);
        }
    }
    let served = match has_unit {
        false => Served::Nobody,
        true if behind.len() == config.devices.len() => Served::All,
        true => Served::Some(behind),
    };
    Ok(Devices { served, threads })
}

fn wants_iommu(device: &DeviceConfig) -> bool {
    match device {
        DeviceConfig::VirtioBlk(disk) => disk.iommu,
        DeviceConfig::Edu(edu) => edu.iommu,
    }
}

fn disk_function(
    disk: &VirtioBlkConfig,
    queues: u16,
    upstream: Upstream,
    served: bool,
) -> Result<Arc<VirtioPci>, MachineError> {
    let device = VirtioBlk::open(&disk.path, disk.read_only, queues)?;
    let mut offer = Features::empty();
    offer.set(Features::ACCESS_PLATFORM, served);
    offer.set(Features::INDIRECT_DESC, disk.indirect.unwrap_or(!served));
    Ok(VirtioPci::new(device, DmaPort::new(upstream), offer)?)
}

fn edu_function(edu: &config::EduConfig, upstream: Upstream) -> Result<Edu, MachineError> {
    let config = EduConfig {
        dma_mask: edu.dma_mask,
    };
    Ok(Edu::new(config, upstream).map_err(vm_iommu_pci::AddError::from)?)
}

/// Threads for all queues of `function`, which share them in turn.
fn serve(function: &Arc<VirtioPci>) -> Result<Vec<IoThread>, MachineError> {
    let threads = (0..function.queues().min(MOST_THREADS))
        .map(|index| IoThread::spawn(&format!("virtio{index}")))
        .collect::<Result<Vec<_>, _>>()?;
    for (queue, thread) in (0..function.queues()).zip(threads.iter().cycle()) {
        thread.add(QueueEvents::of_queue(Arc::clone(function), queue))?;
    }
    Ok(threads)
}
