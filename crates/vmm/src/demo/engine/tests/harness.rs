//! The smallest machine: one processor, 8 MiB of memory, an APIC.

use kvm_bindings::{KVM_CAP_SPLIT_IRQCHIP, kvm_enable_cap, kvm_msi, kvm_userspace_memory_region};
use kvm_ioctls::{Kvm, VcpuExit, VcpuFd, VmFd};
use vm_iommu_dma::GuestRam;
use vm_iommu_pagetable::TableMemory;
use vm_iommu_spec::PhysAddr;
use vm_memory::{GuestAddress, GuestMemoryBackend, GuestMemoryMmap};

use crate::demo::engine::{Image, Operation, Placement, State};
use crate::layout;

const MEMORY: usize = 8 << 20;

pub struct Harness {
    image: Option<Image>,
    ram: GuestRam,
    placement: Placement,
    vcpu: VcpuFd,
    vm: VmFd,
}

impl Harness {
    /// A vector written here is raised.
    pub const RAISE: u64 = 0xd000_0000;

    /// `None`, said on standard error, where there is no KVM.
    pub fn new() -> Option<Self> {
        let kvm = match Kvm::new() {
            Ok(kvm) => kvm,
            Err(error) => {
                eprintln!("skipped: /dev/kvm does not open: {error}");
                return None;
            }
        };
        let vm = kvm.create_vm().expect("a machine");
        vm.set_tss_address(layout::KVM_TSS as usize).ok();
        vm.enable_cap(&kvm_enable_cap {
            cap: KVM_CAP_SPLIT_IRQCHIP,
            args: [24, 0, 0, 0],
            ..Default::default()
        })
        .expect("a split interrupt controller");
        let memory =
            GuestMemoryMmap::<()>::from_ranges(&[(GuestAddress(0), MEMORY)]).expect("guest memory");
        let host = memory.get_host_address(GuestAddress(0)).expect("address 0");
        // SAFETY: the memory outlives the machine: fields drop in order, and no thread runs it.
        unsafe {
            vm.set_user_memory_region(kvm_userspace_memory_region {
                slot: 0,
                guest_phys_addr: 0,
                memory_size: MEMORY as u64,
                userspace_addr: host as u64,
                flags: 0,
            })
        }
        .expect("a memory slot");
        let vcpu = vm.create_vcpu(0).expect("a processor");
        Some(Self {
            image: None,
            ram: GuestRam::new(memory),
            placement: Placement::new(PhysAddr(0x10_0000)),
            vcpu,
            vm,
        })
    }

    pub fn placement(&self) -> &Placement {
        &self.placement
    }

    pub fn write(&self, address: u64, value: u64) {
        self.ram.store(PhysAddr(address), value).expect("memory");
    }

    pub fn read(&self, address: u64) -> u64 {
        self.ram.load(PhysAddr(address)).expect("memory")
    }

    /// What the wait with this index of the last program loaded.
    pub fn result(&self, index: usize) -> u64 {
        let image = self.image.as_ref().expect("a program");
        image.result(index).expect("a result")
    }

    /// Runs a program from its start to its end.
    pub fn run(&mut self, program: impl IntoIterator<Item = Operation>) -> State {
        for address in (self.placement.start().0..self.placement.end().0).step_by(8) {
            self.write(address, 0);
        }
        let image = Image::load(&self.ram, self.placement, program).expect("room");
        let mut sregs = self.vcpu.get_sregs().expect("system registers");
        self.placement.set_system_registers(&mut sregs);
        self.vcpu.set_sregs(&sregs).expect("system registers");
        self.vcpu
            .set_regs(&self.placement.registers())
            .expect("registers");
        loop {
            match self.vcpu.run().expect("the processor runs") {
                VcpuExit::IoOut(layout::EXIT_DEVICE, _) => break,
                VcpuExit::MmioWrite(Self::RAISE, data) => {
                    let msi = kvm_msi {
                        address_lo: 0xfee0_0000,
                        data: u32::from(data[0]),
                        ..Default::default()
                    };
                    self.vm.signal_msi(msi).expect("an interrupt");
                }
                other => panic!("unexpected exit {other:?} in {:?}", image.state()),
            }
        }
        let state = image.state().expect("a status");
        self.image = Some(image);
        state
    }
}
