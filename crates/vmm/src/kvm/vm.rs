//! The virtual machine: memory, the local APICs, and the calls that other parts make on it.

use kvm_bindings::{
    KVM_CAP_SPLIT_IRQCHIP, KVM_CAP_X2APIC_API, KVM_X2APIC_API_DISABLE_BROADCAST_QUIRK,
    KVM_X2APIC_API_USE_32BIT_IDS, kvm_enable_cap, kvm_userspace_memory_region,
};
use kvm_ioctls::{Cap, Kvm, VmFd};
use vm_iommu_dma::GuestRam;
use vm_memory::{GuestAddress, GuestMemoryBackend, GuestMemoryMmap, GuestMemoryRegion, MmapRegion};

use super::KvmError;
use crate::config::MemorySize;
use crate::layout;

/// The pins of the I/O APIC in user space: as many routes are reserved, from the first on, for
/// KVM to know which vectors' ends of interrupt concern it.
pub const IOAPIC_PINS: usize = 24;

/// A virtual machine with its memory, without processors yet.
///
/// It owns both, so that no memory is unmapped while KVM still reaches it.
pub struct Vm {
    fd: VmFd,
    ram: GuestRam,
    kvm: Kvm,
}

impl Vm {
    /// Opens KVM and checks that it is of the known version.
    ///
    /// # Errors
    /// The reason, in words for a person.
    pub fn open() -> Result<Kvm, KvmError> {
        let kvm = Kvm::new().map_err(|error| match error.errno() {
            libc::ENOENT | libc::ENODEV | libc::ENXIO => KvmError::NoDevice,
            libc::EACCES | libc::EPERM => KvmError::NoPermission,
            _ => KvmError::Open(error.into()),
        })?;
        match kvm.get_api_version() {
            12 => Ok(kvm),
            found => Err(KvmError::Version { found }),
        }
    }

    /// A machine with `memory` bytes of RAM, split at the hole below 4 GiB, in-kernel local APICs
    /// and 32-bit interrupt destinations.
    ///
    /// # Errors
    /// KVM is missing or lacks something, or memory ran out.
    pub fn new(memory: MemorySize) -> Result<Self, KvmError> {
        let kvm = Self::open()?;
        let fd = kvm
            .create_vm()
            .map_err(KvmError::call("create a virtual machine"))?;
        require(&fd)?;
        // Only a host with VT-x looks at these two; elsewhere the calls may be refused.
        if let Err(error) = fd.set_identity_map_address(layout::KVM_IDENTITY_MAP) {
            log::debug!("no identity map page: {error}");
        }
        if let Err(error) = fd.set_tss_address(layout::KVM_TSS as usize) {
            log::debug!("no task state pages: {error}");
        }
        fd.enable_cap(&kvm_enable_cap {
            cap: KVM_CAP_SPLIT_IRQCHIP,
            args: [IOAPIC_PINS as u64, 0, 0, 0],
            ..Default::default()
        })
        .map_err(KvmError::call("split the interrupt controllers"))?;
        let flags = KVM_X2APIC_API_USE_32BIT_IDS | KVM_X2APIC_API_DISABLE_BROADCAST_QUIRK;
        fd.enable_cap(&kvm_enable_cap {
            cap: KVM_CAP_X2APIC_API,
            args: [flags.into(), 0, 0, 0],
            ..Default::default()
        })
        .map_err(KvmError::call("take 32-bit interrupt destinations"))?;
        let vm = Self {
            fd,
            ram: reserve(memory)?,
            kvm,
        };
        vm.map_memory()?;
        Ok(vm)
    }

    /// The machine's memory.
    pub fn ram(&self) -> &GuestRam {
        &self.ram
    }

    /// KVM's handle of the machine.
    pub fn fd(&self) -> &VmFd {
        &self.fd
    }

    /// The KVM that runs the machine.
    pub fn kvm(&self) -> &Kvm {
        &self.kvm
    }

    fn map_memory(&self) -> Result<(), KvmError> {
        for (slot, region) in (0..).zip(self.ram.memory().iter()) {
            let host = self
                .ram
                .memory()
                .get_host_address(region.start_addr())
                .map_err(|error| KvmError::Host {
                    action: "find guest memory in this process",
                    source: std::io::Error::other(error),
                })?;
            // SAFETY: the region stays mapped while `ram` lives, which drops after `fd`.
            unsafe {
                self.fd.set_user_memory_region(kvm_userspace_memory_region {
                    slot,
                    flags: 0,
                    guest_phys_addr: region.start_addr().0,
                    memory_size: region.len(),
                    userspace_addr: host as u64,
                })
            }
            .map_err(KvmError::call("map guest memory"))?;
        }
        Ok(())
    }
}

fn reserve(size: MemorySize) -> Result<GuestRam, KvmError> {
    let low = size.bytes().min(layout::LOW_RAM_END);
    let high = size.bytes() - low;
    let mut ranges = vec![(GuestAddress(0), low as usize)];
    if high > 0 {
        ranges.push((GuestAddress(layout::HIGH_RAM_START), high as usize));
    }
    let memory: GuestMemoryMmap =
        GuestMemoryMmap::from_ranges(&ranges).map_err(|source| KvmError::Memory {
            bytes: size.bytes(),
            source,
        })?;
    for region in memory.iter() {
        let region: &MmapRegion = region;
        advise_huge_pages(region);
    }
    Ok(GuestRam::new(memory))
}

/// Fewer, larger pages save both the first touch of guest memory and the walks of every later one.
fn advise_huge_pages(region: &MmapRegion) {
    // SAFETY: the range is the region's own mapping; the advice changes no content.
    let outcome =
        unsafe { libc::madvise(region.as_ptr().cast(), region.size(), libc::MADV_HUGEPAGE) };
    if outcome != 0 {
        log::debug!("no huge pages: {}", std::io::Error::last_os_error());
    }
}

fn require(fd: &VmFd) -> Result<(), KvmError> {
    let needed = [
        (Cap::SplitIrqchip, "KVM_CAP_SPLIT_IRQCHIP"),
        (Cap::X2ApicApi, "KVM_CAP_X2APIC_API"),
        (Cap::SignalMsi, "KVM_CAP_SIGNAL_MSI"),
        (Cap::IrqRouting, "KVM_CAP_IRQ_ROUTING"),
        (Cap::Irqfd, "KVM_CAP_IRQFD"),
        (Cap::Ioeventfd, "KVM_CAP_IOEVENTFD"),
        (Cap::MpState, "KVM_CAP_MP_STATE"),
        (Cap::ExtCpuid, "KVM_CAP_EXT_CPUID"),
    ];
    match needed.iter().find(|(cap, _)| !fd.check_extension(*cap)) {
        Some(&(_, capability)) => Err(KvmError::Capability { capability }),
        None => Ok(()),
    }
}
