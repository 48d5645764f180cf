//! The whole VT-d unit: a guest that writes anything to memory and registers, devices that ask
//! for anything, and an embedder that works off what is left. What the unit answers is compared
//! with the model.

mod model;

use std::sync::Arc;

use vm_iommu_dma::{
    DmaHandle, DmaPort, Epochs, GuestRam, InterruptRemapper, IotlbConfig, Upstream, WalkCacheConfig,
};
use vm_iommu_pagetable::TableMemory;
use vm_iommu_spec::{Access, Iova, MsiMessage, Pasid, PhysAddr};
use vm_iommu_vtd::{AddressWidths, Progress, Vtd, VtdConfig};
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

use crate::input::Input;
use model::Model;

/// Bytes of RAM: few, so that arbitrary addresses meet.
const RAM: u64 = 1 << 20;
/// More actions than this prove nothing new.
const ACTIONS: usize = 1024;
/// An invalidation queue is at most 2^7 pages long; a step works off some of it.
const STEPS: usize = 4096;

/// Registers that a guest's driver uses, more likely to lead on than arbitrary offsets.
const REGISTERS: &[u64] = &[
    0x18, 0x20, 0x28, 0x2c, 0x34, 0x38, 0x3c, 0x40, 0x44, 0x88, 0x90, 0x9c, 0xa0, 0xa4, 0xa8, 0xac,
    0xb8, 0xf0, 0xf8, 0xfc, 0x22c, 0x23c,
];

struct Machine {
    ram: GuestRam,
    unit: Arc<Vtd>,
    port: Arc<DmaPort>,
    handle: DmaHandle,
    model: Model,
}

/// Performs what `data` encodes. A finding is a panic, a loop that does not end, an access
/// outside of memory, or an answer that is not the model's.
pub fn vtd_unit(data: &[u8]) {
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

fn config(input: &mut Input<'_>) -> Option<VtdConfig> {
    let bits = input.u16()?;
    let on = |bit: u32| bits >> bit & 1 != 0;
    let caches = if on(13) { 8 } else { 0 };
    let config = VtdConfig {
        address_widths: AddressWidths::from_bits_truncate((bits as u8 & 7) << 1),
        two_mib_pages: on(3),
        one_gib_pages: on(4),
        device_tlb: on(5),
        interrupt_remapping: on(6),
        extended_interrupt_mode: on(6) && on(7),
        pass_through: on(8),
        fault_records: if on(9) { 1 } else { 20 },
        maximum_address_mask: on(10).then_some(18),
        snoop_control: on(11),
        coherent: on(12),
        iotlb: IotlbConfig { sets: caches },
        walk_cache: WalkCacheConfig { sets: caches },
        context_cache: caches,
        interrupt_cache: caches,
        ..VtdConfig::default()
    };
    config.validate().is_ok().then_some(config)
}

fn machine(config: VtdConfig) -> Option<Machine> {
    let memory = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), RAM as usize)]).ok()?;
    let ram = GuestRam::new(memory);
    let epochs = Arc::new(Epochs::default());
    let unit = Vtd::new(config, ram.clone(), Arc::clone(&epochs), Arc::new(())).ok()?;
    let mut upstream = Upstream::direct(ram.clone());
    upstream.epochs = epochs;
    upstream.remapper = Some(unit.clone());
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
            model.write(unit, register, &input.word()?.to_le_bytes()[..len]);
        }
        6 => {
            let command = u32::from(input.u16()?) << 16;
            model.write(unit, 0x18, &command.to_le_bytes());
        }
        7 => {
            let offset = input.word()?;
            let len = usize::from(kind >> 4) % 9;
            model.write(unit, offset, &input.u64()?.to_le_bytes()[..len]);
            unit.mmio_read(offset, &mut [0; 8][..len]);
        }
        // Devices.
        8 | 9 => {
            let requester = input.requester()?;
            port.set_requester(requester);
            let address = Iova(input.word()?);
            model.compare_request(handle, ram, requester, address, kind & 0x10 != 0);
            let len = usize::from(input.u16()?);
            let mut bytes = vec![kind; len];
            let moved = if kind & 0x10 != 0 {
                handle.write(address, &bytes)
            } else {
                handle.read(address, &mut bytes)
            };
            if let Err(partial) = moved {
                assert!(partial.done <= len);
            }
        }
        10 => {
            port.set_requester(input.requester()?);
            let address = Iova(input.word()?);
            let len = usize::from(input.u16()?);
            let _ = handle.check(address, len, Access::READ | Access::WRITE);
            let pasid = Pasid::new(u32::from(input.u16()?))?;
            let _ = port.handle_with_pasid(pasid).read(address, &mut [0; 16]);
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
            unit.mmio_write(0x88, &tail.to_le_bytes());
            let _ = unit.step();
        }
        // The embedder.
        13 => {
            let _ = unit.step();
        }
        14 => {
            let explanation = unit.explain(input.requester()?, None, Iova(input.word()?));
            assert!(!explanation.to_string().is_empty());
        }
        _ => {
            let inspection = unit.inspect();
            assert!(inspection.last_faults.len() <= 32);
        }
    }
    Some(())
}
