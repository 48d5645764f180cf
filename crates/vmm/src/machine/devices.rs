//! The PCI functions, and the threads that serve them.

use std::sync::Arc;

use vm_iommu_devices::{Edu, EduConfig, IoThread, QueueEvents, VirtioBlk};
use vm_iommu_dma::{DmaPort, Epochs, GuestRam, Upstream};
use vm_iommu_pci::{BusId, DevFn, Fabric, FunctionId, PciFunction};
use vm_iommu_virtio::VirtioPci;

use super::MachineError;
use super::unit::RemappingUnit;
use crate::config::{self, DeviceConfig, IommuConfig, MachineConfig, VirtioBlkConfig};
use crate::interrupt::{Messages, MsiRouter};

/// The most threads that serve one device's queues: beyond, they only take processors from the
/// guest.
const MOST_THREADS: u16 = 4;

/// What lies upstream of functions: behind the unit, or beside it.
pub(super) struct Upstreams {
    pub(super) served: Upstream,
    pub(super) direct: Upstream,
}

impl Upstreams {
    /// Both ways to `ram`, through `unit` and past it.
    pub(super) fn new(
        ram: &GuestRam,
        epochs: &Arc<Epochs>,
        router: &Arc<MsiRouter>,
        unit: Option<&Arc<dyn RemappingUnit>>,
    ) -> Self {
        let output: Arc<GuestRam> = Arc::new(ram.clone());
        let direct = Upstream {
            output,
            remapper: None,
            epochs: Arc::clone(epochs),
            msi: Arc::new(Messages::direct(Arc::clone(router))),
        };
        let served = Upstream {
            remapper: unit.map(|unit| Arc::clone(unit) as _),
            msi: Arc::new(Messages::remapped(Arc::clone(router))),
            ..direct.clone()
        };
        Self { served, direct }
    }
}

/// Which functions the unit serves.
pub(super) enum Served {
    /// None: there is no unit.
    Nobody,
    /// All of the segment, the host bridge included.
    All,
    /// These.
    Some(Vec<FunctionId>),
}

/// The functions of a machine.
pub(super) struct Devices {
    pub(super) served: Served,
    /// Serve the devices until they are dropped.
    pub(super) threads: Vec<IoThread>,
}

/// Adds the functions of `config` to the root bus, device numbers from 1 on.
pub(super) fn add(
    fabric: &Fabric,
    config: &MachineConfig,
    upstreams: &Upstreams,
) -> Result<Devices, MachineError> {
    let has_unit = config.iommu != IommuConfig::None;
    let mut threads = Vec::new();
    let mut behind = Vec::new();
    for (number, device) in config.device_numbers().zip(&config.devices) {
        let served = has_unit && wants_iommu(device);
        let upstream = if served {
            &upstreams.served
        } else {
            &upstreams.direct
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
        let id = fabric.add(BusId::ROOT, devfn, function)?;
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
    Ok(VirtioPci::new(device, DmaPort::new(upstream), served)?)
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
