//! The whole AMD-Vi unit: a guest that writes anything to memory and registers, devices that ask
//! for anything, and an embedder that works off what is left. What the unit answers is compared
//! with the model.

mod model;
mod seeds;

use std::sync::Arc;

use vm_iommu_amdvi::{AmdVi, AmdViConfig, Progress};
use vm_iommu_dma::{
    DmaHandle, DmaPort, Epochs, GuestRam, InterruptRemapper, IotlbConfig, Upstream, WalkCacheConfig,
};
use vm_iommu_pagetable::TableMemory;
use vm_iommu_spec::amd::PageRequest;
use vm_iommu_spec::{Access, Iova, MsiMessage, Pasid, PhysAddr};
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

use crate::input::Input;
use model::Model;
pub use seeds::seeds;

/// Bytes of RAM: few, so that arbitrary addresses meet.
const RAM: u64 = 1 << 20;
/// More actions than this prove nothing new.
const ACTIONS: usize = 1024;
/// A command buffer holds at most 2^15 commands; a step works off some of them.
const STEPS: usize = 1 << 15;

/// Registers that a guest's driver uses, more likely to lead on than arbitrary offsets.
const REGISTERS: &[u64] = &[
    0x00, 0x08, 0x10, 0x18, 0x20, 0x28, 0x38, 0x60, 0xe0, 0xe8, 0x100, 0x108, 0x158, 0x15c, 0x160,
    0x164, 0x170, 0x178, 0x180, 0x2000, 0x2008, 0x2010, 0x2018, 0x2020, 0x2030, 0x2038, 0x2040,
    0x2048, 0x2080, 0x2088,
];
/// IOMMU Control Register.
const CONTROL: u64 = 0x18;
/// Command Buffer Tail Pointer.
const COMMAND_TAIL: u64 = 0x2008;

struct Machine {
    ram: GuestRam,
    unit: Arc<AmdVi>,
    port: Arc<DmaPort>,
    handle: DmaHandle,
    model: Model,
}

/// Performs what `data` encodes. A finding is a panic, a loop that does not end, an access
/// outside of memory, or an answer that is not the model's.
pub fn amdvi_unit(data: &[u8]) {
    let mut input = Input(data);
    let Some(config) = config(&mut input) else {
        return;
    };
    let Some(mut machine) = machine(config) else {
        return;
    };
    for _ in 0..ACTIONS {
        if act(&mut machine, &mut input).is_none() {
            break;
        }
    }
    let ended = (0..STEPS).any(|_| machine.unit.step() == Progress::Idle);
    assert!(ended, "work does not end although no access is in flight");
    let state = machine.unit.save();
    assert_eq!(machine.unit.restore(&state), Ok(()));
}

fn config(input: &mut Input<'_>) -> Option<AmdViConfig> {
    let (bits, more) = (input.u16()?, input.byte()?);
    let on = |bit: u32| bits >> bit & 1 != 0;
    let caches = if on(15) { 8 } else { 0 };
    let guest = on(2);
    let config = AmdViConfig {
        physical_address_width: if more & 1 != 0 { 40 } else { 52 },
        host_levels: [Some(4), Some(5), Some(6), None][usize::from(bits & 3)],
        host_accessed: on(3),
        host_dirty: on(3) && on(4),
        guest_translation: guest,
        guest_levels: if on(5) { 5 } else { 4 },
        guest_cr3_levels: 1 + more % 3,
        pasid_bits: if more & 2 != 0 { 20 } else { 12 },
        guest_io: guest && on(6),
        no_execute: on(7),
        user_supervisor: on(8),
        guest_cr3_mode: guest && on(9),
        iotlb_support: on(10),
        ppr: on(10),
        enhanced_ppr: on(10),
        ppr_auto_response: on(10),
        ppr_overflow_early: on(10),
        prefetch: on(11),
        invalidate_iotlb_type: on(11),
        guest_apic: on(12),
        x2apic: on(12),
        guest_apic_mode: on(12) && more & 4 != 0,
        interrupt_table_2048: on(13),
        smi_filters: if more & 8 != 0 { 2 } else { 0 },
        device_table_segments: more >> 4 & 3,
        ht_range_ignore: on(14),
        msi_registers: more & 64 != 0,
        iotlb: IotlbConfig { sets: caches },
        walk_cache: WalkCacheConfig { sets: caches },
        device_cache: caches,
        interrupt_cache: caches,
        ..AmdViConfig::default()
    };
    config.validate().is_ok().then_some(config)
}

fn machine(config: AmdViConfig) -> Option<Machine> {
    let memory = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), RAM as usize)]).ok()?;
    let ram = GuestRam::new(memory);
    let epochs = Arc::new(Epochs::default());
    let unit = AmdVi::new(config, ram.clone(), Arc::clone(&epochs), Arc::new(())).ok()?;
    let mut upstream = Upstream::direct(ram.clone());
    upstream.epochs = epochs;
    upstream.remapper = Some(Arc::clone(&unit) as _);
    let port = DmaPort::new(upstream);
    port.set_bus_master(true);
    Some(Machine {
        ram,
        unit,
        handle: port.handle(),
        port,
        model: Model::new(&config),
    })
}

/// Performs one action; `None` at the end of the input.
fn act(machine: &mut Machine, input: &mut Input<'_>) -> Option<()> {
    let Machine {
        ram,
        unit,
        port,
        handle,
        model,
    } = machine;
    let kind = input.byte()?;
    match kind % 16 {
        // The guest's memory and registers.
        0..=3 => {
            let place = u64::from(input.u16()?) * 8;
            let _ = ram.store(PhysAddr(place), input.word()?);
        }
        4 | 5 => {
            let register = REGISTERS[usize::from(input.byte()?) % REGISTERS.len()];
            let len = if kind & 0x10 != 0 { 8 } else { 4 };
            unit.mmio_write(register, &input.word()?.to_le_bytes()[..len]);
        }
        6 => unit.mmio_write(CONTROL, &input.u64()?.to_le_bytes()),
        7 => {
            let offset = input.word()?;
            let len = usize::from(kind >> 4) % 9;
            unit.mmio_write(offset, &input.u64()?.to_le_bytes()[..len]);
            unit.mmio_read(offset, &mut [0; 8][..len]);
        }
        // Devices.
        8 | 9 => {
            let requester = input.requester()?;
            port.set_requester(requester);
            let address = Iova(input.word()?);
            let write = kind & 0x10 != 0;
            model.compare_request(unit, handle, ram, requester, None, address, write);
            let len = usize::from(input.u16()?);
            let mut bytes = vec![kind; len];
            let moved = if write {
                handle.write(address, &bytes)
            } else {
                handle.read(address, &mut bytes)
            };
            if let Err(partial) = moved {
                assert!(partial.done <= len);
            }
        }
        10 => {
            let requester = input.requester()?;
            port.set_requester(requester);
            let address = Iova(input.word()?);
            let pasid = Pasid::new(u32::from(input.u16()?))?;
            let handle = port.handle_with_pasid(pasid);
            let write = kind & 0x10 != 0;
            model.compare_request(unit, &handle, ram, requester, Some(pasid), address, write);
            let _ = handle.check(address, usize::from(kind), Access::READ | Access::WRITE);
            let _ = handle.read(address, &mut [0; 16]);
        }
        11 => {
            let requester = input.requester()?;
            let low = input.u64()?;
            let message = MsiMessage {
                address: 0xfee0_0000 | low & 0xf_ffff,
                data: (low >> 32) as u32,
            };
            model.compare_interrupt(unit, ram, requester, message);
            let resolved = unit.resolve(requester, message);
            assert_eq!(resolved, unit.remap(requester, message));
        }
        // A session during which the guest invalidates.
        12 => {
            let address = GuestAddress(input.word()?);
            let tail = u64::from(input.u16()?) << 4;
            let session = handle.session();
            let _ = session.write_slice(&[kind; 32], address);
            unit.mmio_write(COMMAND_TAIL, &tail.to_le_bytes());
            let _ = unit.step();
        }
        // The embedder.
        13 => {
            let _ = unit.step();
        }
        14 => {
            let requester = input.requester()?;
            let explanation = unit.explain(requester, None, Iova(input.word()?));
            assert!(!explanation.to_string().is_empty());
        }
        // Seldom: it looks at each of up to 65,536 device table entries.
        _ if kind >> 4 == 1 => {
            let inspection = unit.inspect();
            assert!(inspection.last_faults.len() <= 32);
        }
        _ => {
            let request = PageRequest {
                requester: input.requester()?,
                pasid: Pasid::new(u32::from(input.byte()?)).filter(|_| kind & 0x20 != 0),
                address: Iova(input.word()?),
                access: Access::READ,
                group: input.u16()?,
                last: kind & 0x40 != 0,
            };
            let _ = unit.page_request(request);
        }
    }
    Some(())
}
