//! Arbitrary register accesses and ring contents: no panic, and bounded work.

use proptest::prelude::*;
use vm_iommu_pci::PciFunction;
use vm_iommu_spec::Access;

use super::echo::Echo;
use crate::Features;
use crate::testing::Machine;

#[derive(Clone, Debug)]
enum Step {
    Read(u64, usize),
    Write(u64, usize, u64),
    ReadConfig(u16, usize),
    WriteConfig(u16, usize, u32),
    Put(u64, u64),
    Map(u64, bool),
    Process(u16),
    Start(u64),
    FunctionReset,
}

/// Values that registers and rings make something of.
fn value() -> impl Strategy<Value = u64> {
    prop_oneof![
        any::<u64>(),
        0..20_u64,
        Just(0xf),
        Just(0xffff_ffff),
        (0..8_u64).prop_map(|page| 0x4001_0000 + page * 0x4000),
        (any::<u32>(), 0..8_u64).prop_map(|(len, flags)| u64::from(len) | flags << 32),
    ]
}

fn step() -> impl Strategy<Value = Step> {
    let width = prop_oneof![Just(1_usize), Just(2), Just(4), Just(8), 1..=8_usize];
    let offset = prop_oneof![
        0..0x48_u64,
        0x1000..0x1008_u64,
        0x2000..0x2008_u64,
        0x3000..0x3010_u64
    ];
    // The rings' first bytes, where the descriptors and indices are.
    let place = (0..3_u64, 0..0x60_u64).prop_map(|(part, at)| 0x1_0000 + part * 0x4000 + at);
    prop_oneof![
        1 => (offset.clone(), width.clone()).prop_map(|(at, len)| Step::Read(at, len)),
        4 => (offset, width, value()).prop_map(|(at, len, value)| Step::Write(at, len, value)),
        1 => (0..64_u16, 1..=4_usize).prop_map(|(at, len)| Step::ReadConfig(at * 4, len)),
        1 => (0..64_u16, 1..=4_usize, any::<u32>())
            .prop_map(|(at, len, value)| Step::WriteConfig(at * 4, len, value)),
        6 => (place, value()).prop_map(|(at, value)| Step::Put(at, value)),
        1 => (0..16_u64, any::<bool>()).prop_map(|(page, on)| Step::Map(page, on)),
        4 => (0..3_u16).prop_map(Step::Process),
        1 => any::<u64>().prop_map(Step::Start),
        1 => Just(Step::FunctionReset),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn whatever_a_guest_does_the_device_stays_up(steps in proptest::collection::vec(step(), 1..80)) {
        let mut machine = Machine::new(Echo::new(&[16, 16]), true);
        machine.start(Features::EVENT_IDX);
        let pages = machine.pages.clone().unwrap();
        for step in steps {
            match step {
                Step::Read(at, len) => drop(machine.read(at, len)),
                Step::Write(at, len, value) => machine.write(at, len, value),
                Step::ReadConfig(at, len) => {
                    machine.function.read_config(at, &mut [0; 4][..len]);
                }
                Step::WriteConfig(at, len, value) => {
                    machine.function.write_config(at, &value.to_le_bytes()[..len]);
                }
                Step::Put(at, value) => machine.put(at, &value.to_le_bytes()),
                Step::Map(page, on) => {
                    let access = if on { Access::READ | Access::WRITE } else { Access::empty() };
                    pages.allow(machine.bus(0x1_0000 + page * 0x1000), access);
                }
                Step::Process(queue) => {
                    let _ = machine.function.process_queue(queue);
                }
                Step::Start(features) => {
                    let offered = machine.offered();
                    machine.start(Features::from_bits_retain(features) & offered);
                }
                Step::FunctionReset => machine.function.reset(),
            }
        }
        // A driver that starts over finds a device that works.
        for page in 0..16 {
            pages.allow(machine.bus(0x1_0000 + page * 0x1000), Access::READ | Access::WRITE);
        }
        machine.start(Features::empty());
        machine.send(0, &[b"again"], &[5]);
        machine.kick(0);
        prop_assert_eq!(machine.used(0), [(0, 5)]);
    }
}
