//! Arbitrary requests: whatever the shape of a chain, it is used, and the disk keeps its size.

use proptest::prelude::*;
use vm_iommu_spec::Access;
use vm_iommu_virtio::testing::Descriptor;

use super::disk::*;

#[derive(Clone, Debug)]
struct Part {
    /// Where in the 32 KiB that the test uses.
    at: u64,
    len: u32,
    write: bool,
}

fn part() -> impl Strategy<Value = Part> {
    let len = prop_oneof![
        Just(0_u32),
        Just(1),
        Just(16),
        Just(512),
        0..5000_u32,
        any::<u32>()
    ];
    (0..0x7000_u64, len, any::<bool>()).prop_map(|(at, len, write)| Part { at, len, write })
}

fn kind() -> impl Strategy<Value = u32> {
    prop_oneof![0..16_u32, any::<u32>()]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn every_chain_is_given_back(
        kind in kind(),
        sector in prop_oneof![0..SECTORS + 2, any::<u64>()],
        ranges in proptest::array::uniform4((0..SECTORS + 2, any::<u16>(), 0..3_u32)),
        parts in proptest::collection::vec(part(), 1..8),
        denied in proptest::option::of(0..8_u64),
    ) {
        let mut driver = Driver::new(MemoryDisk::new(), false);
        let area = driver.machine.buffer(0x8000);
        // Headers and ranges all over, so that most chains begin with one.
        for place in 0..0x800_u64 {
            let (first, sectors, flags) = ranges[(place % 4) as usize];
            let bytes = if place % 2 == 0 {
                header(kind, sector)
            } else {
                range(first, sectors.into(), flags)
            };
            driver.machine.put(area + place * 16, &bytes);
        }
        let pages = driver.machine.pages.clone().unwrap();
        if let Some(page) = denied {
            pages.allow(driver.machine.bus(area + page * 0x1000), Access::empty());
        }
        let count = parts.len();
        let chain: Vec<Descriptor> = (1_u16..)
            .zip(&parts)
            .map(|(next, part)| Descriptor {
                address: driver.machine.bus(area + part.at / 16 * 16),
                len: part.len,
                flags: [part.write, usize::from(next) < count]
                    .into_iter()
                    .zip([Descriptor::WRITE, Descriptor::NEXT])
                    .filter_map(|(set, flag)| set.then_some(flag))
                    .sum(),
                next,
            })
            .collect();
        driver.machine.push(1, &chain);
        driver.machine.kick(1);
        let used = driver.machine.used(1);
        prop_assert_eq!(used.len(), 1);
        let writable: u64 = parts
            .iter()
            .filter(|part| part.write)
            .map(|part| u64::from(part.len))
            .sum();
        prop_assert!(u64::from(used[0].1) <= writable);
        prop_assert_eq!(driver.disk.bytes.lock().unwrap().len() as u64, SECTORS * 512);
        prop_assert_eq!(driver.machine.status(), 0xf);
        let outcome = driver.request(&[&header(IN, 0)], &[512, 1]);
        prop_assert_eq!(outcome.status, OK);
    }
}
