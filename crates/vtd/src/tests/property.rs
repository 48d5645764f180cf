//! Whatever software and devices do, nothing panics, loops, or leaves memory.

use proptest::collection::vec;
use proptest::prelude::*;
use vm_iommu_dma::{InterruptRemapper, IotlbConfig, WalkCacheConfig};
use vm_iommu_pagetable::TableMemory;
use vm_iommu_spec::{Access, Iova, MsiMessage, Pasid, PhysAddr, RequesterId};

use super::machine::{Machine, RAM};
use crate::{AddressWidths, Progress, VtdConfig};

#[derive(Clone, Debug)]
enum Action {
    Store(u64, u64),
    Write(u64, u64, usize),
    Read(u64, usize),
    Dma(u16, u64, usize, bool),
    Pasid(u32, u64),
    Interrupt(u16, u32, u32),
    Explain(u16, u64),
    Inspect,
    Session(u64),
    Step,
}

/// Values that mean something more often than arbitrary ones do.
fn word() -> impl Strategy<Value = u64> {
    let page = (0..32_u64).prop_map(|page| page << 12);
    prop_oneof![
        3 => (page.clone(), 0..0x1000_u64).prop_map(|(page, low)| page | low),
        2 => (page, prop::sample::select(vec![1, 3, 7, 0x80 | 3, 0xf, 0x80f, 0x21])).prop_map(|(page, low)| page | low),
        1 => any::<u64>(),
        1 => prop::sample::select(vec![0, u64::MAX, 1 << 63, 0x0000_0000_0000_0102, 0x12, 0x25, 0x14, 0x11]),
        1 => (0..6_u64, any::<u32>()).prop_map(|(kind, high)| kind | u64::from(high) << 32 | 0x30),
    ]
}

fn register() -> impl Strategy<Value = u64> {
    prop_oneof![
        8 => prop::sample::select(vec![
            0x18, 0x20, 0x28, 0x2c, 0x34, 0x38, 0x3c, 0x40, 0x44, 0x80, 0x88, 0x90, 0x9c, 0xa0,
            0xa4, 0xa8, 0xb0, 0xb8, 0xf0, 0xf8, 0xfc, 0x220, 0x228, 0x22c,
        ]),
        1 => 0..0x400_u64,
        1 => any::<u64>(),
    ]
}

fn command() -> impl Strategy<Value = Action> {
    (0..0x200_u64).prop_map(|bits| Action::Write(0x18, bits << 23, 4))
}

fn action() -> impl Strategy<Value = Action> {
    let len = prop::sample::select(vec![4, 8, 8, 4, 1, 3, 0]);
    prop_oneof![
        6 => (0..0x4000_u64, word()).prop_map(|(place, value)| Action::Store(place * 8, value)),
        6 => (register(), word(), len.clone()).prop_map(|(r, v, len)| Action::Write(r, v, len)),
        2 => command(),
        1 => (register(), len).prop_map(|(r, len)| Action::Read(r, len)),
        3 => (0..64_u16, word(), 0..10_000_usize, any::<bool>())
            .prop_map(|(source, at, len, write)| Action::Dma(source, at, len, write)),
        1 => (0..1_u32 << 20, word()).prop_map(|(pasid, at)| Action::Pasid(pasid, at)),
        2 => (0..64_u16, 0..1_u32 << 20, any::<u32>())
            .prop_map(|(source, low, data)| Action::Interrupt(source, 0xfee0_0000 | low, data & 0x1_00ff)),
        1 => (0..64_u16, word()).prop_map(|(source, at)| Action::Explain(source, at)),
        1 => Just(Action::Inspect),
        1 => word().prop_map(Action::Session),
        1 => Just(Action::Step),
    ]
}

fn config() -> impl Strategy<Value = VtdConfig> {
    (1..8_u8, any::<u16>(), prop::sample::select(vec![0, 1, 16])).prop_map(
        |(widths, bits, caches)| {
            let on = |bit: u32| bits >> bit & 1 != 0;
            VtdConfig {
                address_widths: AddressWidths::from_bits_truncate(widths << 1),
                two_mib_pages: on(0),
                one_gib_pages: on(1),
                device_tlb: on(2),
                interrupt_remapping: on(3),
                extended_interrupt_mode: on(3) && on(4),
                pass_through: on(5),
                fault_records: if on(6) { 1 } else { 20 },
                maximum_address_mask: on(7).then_some(18),
                snoop_control: on(8),
                iotlb: IotlbConfig { sets: caches },
                walk_cache: WalkCacheConfig { sets: caches },
                context_cache: caches,
                interrupt_cache: caches,
                ..VtdConfig::default()
            }
        },
    )
}

fn perform(machine: &Machine, action: &Action) {
    let requester = |source| RequesterId::from_source_id(0, source);
    match *action {
        Action::Store(place, value) => {
            let _ = machine.ram.store(PhysAddr(place), value);
        }
        Action::Write(offset, value, len) => {
            machine.unit.mmio_write(offset, &value.to_le_bytes()[..len]);
        }
        Action::Read(offset, len) => machine.unit.mmio_read(offset, &mut [0; 8][..len]),
        Action::Dma(source, at, len, write) => {
            machine.port.set_requester(requester(source));
            let handle = machine.port.handle();
            let mut data = vec![0; len];
            let done = if write {
                handle.write(Iova(at), &data)
            } else {
                handle.read(Iova(at), &mut data)
            };
            if let Err(partial) = done {
                assert!(partial.done < len.max(1));
            }
            let _ = handle.check(Iova(at), len, Access::READ | Access::WRITE);
        }
        Action::Pasid(pasid, at) => {
            let handle = machine.port.handle_with_pasid(Pasid::new(pasid).unwrap());
            let _ = handle.read(Iova(at), &mut [0; 16]);
        }
        Action::Interrupt(source, low, data) => {
            let message = MsiMessage {
                address: u64::from(low),
                data,
            };
            let resolved = machine.unit.resolve(requester(source), message);
            let remapped = machine.unit.remap(requester(source), message);
            assert_eq!(resolved, remapped);
        }
        Action::Explain(source, at) => {
            let explanation = machine.unit.explain(requester(source), None, Iova(at));
            assert!(!explanation.to_string().is_empty());
        }
        Action::Inspect => {
            serde_json::to_string(&machine.unit.inspect()).unwrap();
        }
        Action::Session(at) => {
            let mut handle = machine.port.handle();
            let session = handle.session();
            let _ =
                vm_memory::Bytes::read_slice(&session, &mut [0; 64], vm_memory::GuestAddress(at));
            machine.unit.mmio_write(0x88, &0x20_u64.to_le_bytes());
            let _ = machine.unit.step();
        }
        Action::Step => {
            let _ = machine.unit.step();
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, ..ProptestConfig::default() })]

    #[test]
    fn arbitrary_registers_memory_and_requests_do_no_harm(
        config in config(),
        actions in vec(action(), 1..200),
    ) {
        let machine = Machine::new(config);
        for action in &actions {
            perform(&machine, action);
        }
        // Without accesses in flight, all work ends after at most one batch a step.
        let steps = (RAM / 16) as usize;
        let idle = (0..steps).any(|_| machine.unit.step() == Progress::Idle);
        prop_assert!(idle);
    }

    #[test]
    fn caches_do_not_change_answers_when_everything_is_invalidated(
        stores in vec((0..0x2000_u64, word()), 0..64),
        requests in vec((0..64_u16, word(), any::<bool>()), 1..32),
    ) {
        let sized = |caches| VtdConfig {
            iotlb: IotlbConfig { sets: caches },
            walk_cache: WalkCacheConfig { sets: caches },
            context_cache: caches,
            interrupt_cache: caches,
            ..VtdConfig::default()
        };
        let machines = [Machine::translating(sized(0), 4), Machine::translating(sized(16), 4)];
        for (place, value) in stores {
            for machine in &machines {
                machine.ram.store(PhysAddr(0x2000 + place * 8), value).unwrap();
                // Not by the queue, which the stores may have overwritten.
                machine.command(super::machine::SRTP);
            }
        }
        for (source, at, write) in requests {
            let outcomes = machines.each_ref().map(|machine| {
                machine.port.set_requester(RequesterId::from_source_id(0, source));
                if write { machine.write_at(at, at).map(|()| 0) } else { machine.read_at(at) }
            });
            // A write may change the tables themselves.
            for machine in &machines {
                machine.command(super::machine::SRTP);
            }
            prop_assert_eq!(outcomes[0], outcomes[1]);
        }
    }

    #[test]
    fn arbitrary_bytes_do_no_harm(bytes in vec(any::<u8>(), 0..4096)) {
        vm_iommu_fuzz::vtd_unit(&bytes);
    }
}
