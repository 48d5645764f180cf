//! Caches hold what was read until it is invalidated, and drop exactly that.

use vm_iommu_dma::IotlbConfig;
use vm_iommu_spec::RequesterId;
use vm_iommu_spec::vtd::descriptor::raw;
use vm_iommu_spec::vtd::registers::Granularity;

use super::machine::*;
use crate::VtdConfig;

fn context_device(source: u16, mask: u8) -> [u64; 2] {
    let low = raw::ContextInvalidate::new()
        .with_granularity(Granularity::Selective)
        .with_source(source)
        .with_function_mask(mask)
        .with_domain(DOMAIN);
    [low.into_bits(), 0]
}

fn context_domain(domain: u16) -> [u64; 2] {
    let low = raw::ContextInvalidate::new()
        .with_granularity(Granularity::Domain)
        .with_domain(domain);
    [low.into_bits(), 0]
}

/// Functions 0 to 7 of the device, each in a domain of its own, all with the same tables.
fn functions(config: VtdConfig) -> Machine {
    let machine = Machine::translating(config, 4);
    machine.map(0x5000, 0x20_0000, 12, 3);
    for function in 0..8 {
        machine.set_context(
            SOURCE + function,
            context(4, TABLES).with_domain(DOMAIN + function),
        );
    }
    machine
}

/// The functions that still reach memory, after their context entries were cleared.
fn reaching(machine: &Machine) -> Vec<u16> {
    (0..8)
        .filter(|function| {
            machine
                .port
                .set_requester(RequesterId::from_source_id(0, SOURCE + function));
            machine.read_at(0x5000).is_ok()
        })
        .collect()
}

#[test]
fn context_invalidations_drop_exactly_what_they_name() {
    let cases = [
        (context_device(SOURCE + 5, 0), vec![0, 1, 2, 3, 4, 6, 7]),
        (context_device(SOURCE + 5, 1), vec![0, 2, 3, 4, 6, 7]),
        (context_device(SOURCE + 5, 2), vec![0, 2, 4, 6]),
        (context_device(SOURCE + 5, 3), vec![]),
        (context_device(SOURCE + 8, 3), vec![0, 1, 2, 3, 4, 5, 6, 7]),
        (context_domain(DOMAIN + 2), vec![0, 1, 3, 4, 5, 6, 7]),
        (context_domain(1), vec![0, 1, 2, 3, 4, 5, 6, 7]),
        (context_global(), vec![]),
    ];
    for (descriptor, left) in cases {
        let machine = functions(VtdConfig::default());
        assert_eq!(reaching(&machine).len(), 8);
        for function in 0..8 {
            machine.set_context(SOURCE + function, context(4, TABLES).with_present(false));
        }
        assert_eq!(reaching(&machine).len(), 8);
        assert!(machine.invalidate(&[descriptor]));
        assert_eq!(reaching(&machine), left, "{descriptor:x?}");
    }
}

#[test]
fn iotlb_invalidations_drop_exactly_what_they_name() {
    let cases = [
        (
            iotlb_pages(DOMAIN, 0x4000, 0),
            vec![0x5000, 0x6000, 0x20_0000],
        ),
        (iotlb_pages(DOMAIN, 0x4000, 1), vec![0x6000, 0x20_0000]),
        // The mask aligns the address.
        (iotlb_pages(DOMAIN, 0x5000, 2), vec![0x20_0000]),
        // Any page in a large one drops it.
        (
            iotlb_pages(DOMAIN, 0x2f_f000, 0),
            vec![0x4000, 0x5000, 0x6000],
        ),
        (
            iotlb_pages(DOMAIN + 1, 0x4000, 18),
            vec![0x4000, 0x5000, 0x6000, 0x20_0000],
        ),
        (
            iotlb_domain(DOMAIN + 1),
            vec![0x4000, 0x5000, 0x6000, 0x20_0000],
        ),
        (iotlb_domain(DOMAIN), vec![]),
        (iotlb_global(), vec![]),
    ];
    let pages = [(0x4000, 12), (0x5000, 12), (0x6000, 12), (0x20_0000, 21)];
    for (descriptor, left) in cases {
        let machine = Machine::translating(VtdConfig::default(), 4);
        for (page, shift) in pages {
            machine.map(page, 0x20_0000 + (page & 0xf000), shift, 3);
        }
        let reaching = || -> Vec<u64> {
            let pages = pages.iter().map(|(page, _)| *page);
            pages
                .filter(|page| machine.read_at(*page).is_ok())
                .collect()
        };
        // The 4-KiB pages are in a table that the large page's output must not cover.
        assert_eq!(reaching().len(), 4, "{descriptor:x?}");
        for (page, shift) in pages {
            machine.map(page, 0, shift, 0);
        }
        assert_eq!(reaching().len(), 4);
        assert!(machine.invalidate(&[descriptor]));
        assert_eq!(reaching(), left, "{descriptor:x?}");
    }
}

#[test]
fn answers_are_the_same_with_caches_of_any_size() {
    for (sets, contexts, interrupts) in [(0, 0, 0), (1, 1, 1), (0, 256, 256), (512, 0, 0)] {
        let config = VtdConfig {
            iotlb: IotlbConfig { sets },
            context_cache: contexts,
            interrupt_cache: interrupts,
            ..VtdConfig::default()
        };
        let machine = functions(config);
        for _ in 0..3 {
            assert_eq!(reaching(&machine), [0, 1, 2, 3, 4, 5, 6, 7]);
        }
        machine.set_context(SOURCE + 3, context(4, TABLES).with_present(false));
        assert!(machine.invalidate(&[context_device(SOURCE + 3, 0), iotlb_domain(DOMAIN + 3)]));
        assert_eq!(reaching(&machine), [0, 1, 2, 4, 5, 6, 7]);
        let counters = machine.unit.inspect().context_cache;
        assert!(counters.entries <= contexts as u64);
    }
}

#[test]
fn the_context_cache_is_bounded_and_counts() {
    let config = VtdConfig {
        context_cache: 2,
        ..VtdConfig::default()
    };
    let machine = functions(config);
    reaching(&machine);
    let counters = machine.unit.inspect().context_cache;
    assert_eq!(
        (counters.entries, counters.evictions, counters.hits),
        (2, 6, 0)
    );
    machine
        .port
        .set_requester(RequesterId::from_source_id(0, SOURCE + 7));
    machine.read_at(0x5000).unwrap();
    assert_eq!(machine.unit.inspect().context_cache.hits, 1);
    // An evicted entry is no longer used by a handle that was bound to it, so that an
    // invalidation need not find it.
    let config = VtdConfig {
        context_cache: 1,
        ..VtdConfig::default()
    };
    let machine = functions(config);
    machine
        .port
        .set_requester(RequesterId::from_source_id(0, SOURCE));
    let handle = machine.port.handle();
    handle.read(vm_iommu_spec::Iova(0x5000), &mut [0]).unwrap();
    let other = vm_iommu_dma::DmaPort::new(machine.port.upstream().clone());
    other.set_requester(RequesterId::from_source_id(0, SOURCE + 1));
    other.set_bus_master(true);
    other
        .handle()
        .read(vm_iommu_spec::Iova(0x5000), &mut [0])
        .unwrap();
    machine.set_context(SOURCE, context(4, TABLES).with_present(false));
    handle
        .read(vm_iommu_spec::Iova(0x5000), &mut [0])
        .unwrap_err();
}

#[test]
fn two_domains_with_different_tables_do_not_alias() {
    let machine = Machine::translating(VtdConfig::default(), 4);
    machine.map(0x5000, 0x20_0000, 12, 3);
    let tables = machine.table();
    machine.set_context(SOURCE + 1, context(4, tables).with_domain(DOMAIN + 1));
    machine.read_at(0x5000).unwrap();
    machine
        .port
        .set_requester(RequesterId::from_source_id(0, SOURCE + 1));
    machine.read_at(0x5000).unwrap_err();
}

#[test]
fn pass_through_and_translation_of_one_domain_do_not_alias() {
    use vm_iommu_spec::vtd::TranslationType;
    let machine = Machine::translating(VtdConfig::default(), 4);
    let through = context(4, 0).with_translation_type(TranslationType::PassThrough);
    machine.set_context(SOURCE + 1, through);
    machine
        .port
        .set_requester(RequesterId::from_source_id(0, SOURCE + 1));
    machine.write_at(0x5000, 1).unwrap();
    machine.port.set_requester(requester());
    machine.write_at(0x5000, 1).unwrap_err();
}

#[test]
fn tables_of_3_4_and_5_levels_with_all_page_sizes() {
    let config = VtdConfig::with_address_width(57).unwrap();
    for levels in [3, 4, 5_u8] {
        for (shift, offset) in [(12, 0x123), (21, 0x1f_e123), (30, 0x12_3456)] {
            let machine = Machine::translating(config, levels);
            let iova = 1_u64 << (12 + 9 * levels - 1) & !((1 << shift) - 1);
            let output = if shift == 30 { 0 } else { 0x20_0000 };
            machine.map(iova, output, shift, 3);
            machine.write_at(iova + offset, 0xabcd).unwrap();
            assert_eq!(machine.read_at(iova + offset).unwrap(), 0xabcd);
            machine.disable(TE);
            assert_eq!(
                machine.read_at(output + offset).unwrap(),
                0xabcd,
                "{levels} {shift}"
            );
        }
    }
}
