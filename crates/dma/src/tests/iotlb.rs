use std::ptr::NonNull;

use proptest::prelude::*;
use vm_iommu_spec::{Access, Iova};

use super::remapper::READ_WRITE;
use crate::{AttributeFlags, Attributes, Iotlb, IotlbConfig, IotlbEntry, Tag};

fn entry(page: u64, page_shift: u8, permissions: Access) -> IotlbEntry {
    IotlbEntry {
        page: Iova(page),
        page_shift,
        permissions,
        attributes: Attributes::default(),
        host: NonNull::new(0x1000 as *mut u8).unwrap(),
    }
}

fn fill(iotlb: &Iotlb, tag: &Tag, entry: IotlbEntry) {
    let token = iotlb.lookup(tag, entry.page, Access::all()).unwrap_err();
    iotlb.insert(token, entry);
}

#[test]
fn an_entry_keeps_all_that_was_found() {
    let iotlb = Iotlb::new(IotlbConfig { sets: 16 });
    let tag = iotlb.tag();
    let permissions = [Access::READ, READ_WRITE, Access::READ | Access::EXECUTE];
    let cases = (0..64_u8).flat_map(|flags| (0..8).map(move |memory_type| (flags, memory_type)));
    for (index, (flags, memory_type)) in cases.enumerate() {
        let mut entry = entry(0x1000 * index as u64, 12, permissions[index % 3]);
        entry.attributes = Attributes {
            flags: AttributeFlags::from_bits(flags).unwrap(),
            memory_type,
        };
        fill(&iotlb, &tag, entry);
        let found = iotlb.find(&tag, entry.page, Access::READ).unwrap();
        assert_eq!(found.attributes, entry.attributes);
        assert_eq!(found.permissions, entry.permissions);
        assert_eq!(found.host, entry.host);
    }
}

#[test]
fn a_global_invalidation_drops_everything_however_often_it_came() {
    let iotlb = Iotlb::new(IotlbConfig { sets: 16 });
    let tag = iotlb.tag();
    for round in 0..300 {
        fill(&iotlb, &tag, entry(0x1000 * (round % 64), 12, READ_WRITE));
        iotlb.invalidate_all();
        assert!(
            (0..64).all(|page| !hits(&iotlb, &tag, page << 12)),
            "{round}"
        );
    }
}

fn hits(iotlb: &Iotlb, tag: &Tag, address: u64) -> bool {
    iotlb.lookup(tag, Iova(address), Access::READ).is_ok()
}

#[test]
fn an_entry_answers_for_its_page_its_tag_and_its_permissions() {
    let iotlb = Iotlb::new(IotlbConfig::default());
    let (tag, other) = (iotlb.tag(), iotlb.tag());
    fill(&iotlb, &tag, entry(0x20_0000, 21, Access::READ));
    assert!(hits(&iotlb, &tag, 0x20_0000) && hits(&iotlb, &tag, 0x3f_ffff));
    assert!(!hits(&iotlb, &tag, 0x1f_ffff) && !hits(&iotlb, &tag, 0x40_0000));
    assert!(!hits(&iotlb, &other, 0x20_0000));
    assert!(iotlb.lookup(&tag, Iova(0x20_0000), Access::WRITE).is_err());
}

#[test]
fn an_invalidation_of_the_parent_drops_what_is_nested_in_it_and_not_the_other_way_round() {
    let iotlb = Iotlb::new(IotlbConfig::default());
    let parent = iotlb.tag();
    let (nested, stranger) = (iotlb.nested_tag(&parent), iotlb.tag());
    let refill = || {
        for tag in [&parent, &nested, &stranger] {
            if !hits(&iotlb, tag, 0x5000) {
                fill(&iotlb, tag, entry(0x5000, 12, READ_WRITE));
            }
        }
    };
    let cached = || [&parent, &nested, &stranger].map(|tag| hits(&iotlb, tag, 0x5000));
    refill();
    // Another page of the parent: which of the nested ones lead there is not known.
    iotlb.invalidate_range(&parent, Iova(0x9000), Iova(0x9fff));
    assert_eq!(cached(), [true, false, true]);
    iotlb.invalidate_tag(&parent);
    refill();
    iotlb.invalidate_tag(&parent);
    assert_eq!(cached(), [false, false, true]);
    iotlb.invalidate_tag(&stranger);
    refill();
    iotlb.invalidate_tag(&nested);
    assert_eq!(cached(), [true, false, true]);
}

#[test]
fn each_granularity_drops_what_it_names_and_nothing_else() {
    let iotlb = Iotlb::new(IotlbConfig::default());
    let (tag, other) = (iotlb.tag(), iotlb.tag());
    let refill = || {
        for tag in [&tag, &other] {
            for page in [0x1000, 0x2000, 0x3000] {
                fill(&iotlb, tag, entry(page, 12, READ_WRITE));
            }
        }
        assert!(hits(&iotlb, &tag, 0x1000) && hits(&iotlb, &other, 0x3000));
    };
    refill();
    iotlb.invalidate_range(&tag, Iova(0x2000), Iova(0x2fff));
    assert!(hits(&iotlb, &tag, 0x1000) && hits(&iotlb, &tag, 0x3000));
    assert!(!hits(&iotlb, &tag, 0x2000) && hits(&iotlb, &other, 0x2000));
    iotlb.invalidate_tag(&tag);
    assert!(!hits(&iotlb, &tag, 0x1000) && hits(&iotlb, &other, 0x1000));
    iotlb.invalidate_all();
    assert!(!hits(&iotlb, &other, 0x1000));
}

#[test]
fn a_range_drops_large_pages_that_it_touches() {
    let iotlb = Iotlb::new(IotlbConfig::default());
    let tag = iotlb.tag();
    fill(&iotlb, &tag, entry(1 << 30, 30, READ_WRITE));
    fill(&iotlb, &tag, entry(0x1000, 12, READ_WRITE));
    iotlb.invalidate_range(&tag, Iova((1 << 30) + 0x5000), Iova((1 << 30) + 0x5fff));
    assert!(!hits(&iotlb, &tag, 1 << 30) && hits(&iotlb, &tag, 0x1000));
    iotlb.invalidate_range(&tag, Iova(0), Iova(u64::MAX));
    assert!(!hits(&iotlb, &tag, 0x1000));
}

#[test]
fn what_a_walk_found_before_an_invalidation_is_not_inserted_after_it() {
    let iotlb = Iotlb::new(IotlbConfig::default());
    let tag = iotlb.tag();
    let invalidations: [&dyn Fn(); 3] = [
        &|| iotlb.invalidate_all(),
        &|| iotlb.invalidate_tag(&tag),
        &|| iotlb.invalidate_range(&tag, Iova(0x1000), Iova(0x1fff)),
    ];
    for invalidate in invalidations {
        let token = iotlb.lookup(&tag, Iova(0x1000), Access::READ).unwrap_err();
        invalidate();
        iotlb.insert(token, entry(0x1000, 12, READ_WRITE));
        assert!(!hits(&iotlb, &tag, 0x1000));
    }
}

#[test]
fn the_cache_is_bounded_and_evicts() {
    let iotlb = Iotlb::new(IotlbConfig { sets: 4 });
    let tag = iotlb.tag();
    for page in 0..1000 {
        fill(&iotlb, &tag, entry(page << 12, 12, READ_WRITE));
    }
    let cached = (0..1000).filter(|page| hits(&iotlb, &tag, page << 12));
    assert!((1..=8).contains(&cached.count()));
    assert!(iotlb.counters().evictions > 900);
}

#[test]
fn a_cache_without_sets_is_off() {
    let iotlb = Iotlb::new(IotlbConfig { sets: 0 });
    let tag = iotlb.tag();
    fill(&iotlb, &tag, entry(0, 12, READ_WRITE));
    assert!(!hits(&iotlb, &tag, 0));
    iotlb.invalidate_range(&tag, Iova(0), Iova(0xfff));
}

#[derive(Clone, Debug)]
enum Step {
    Fill(usize, u64, u8),
    Range(usize, u64, u64),
    Tag(usize),
    All,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        8 => (0..2_usize, 0..64_u64, prop::sample::select(vec![12_u8, 14, 16]))
            .prop_map(|(tag, page, shift)| Step::Fill(tag, page << 12 & !((1 << shift) - 1), shift)),
        4 => (0..2_usize, 0..64_u64, 0..64_u64).prop_map(|(tag, a, b)| {
            Step::Range(tag, a.min(b) << 12, a.max(b) << 12 | 0xfff)
        }),
        1 => (0..2_usize).prop_map(Step::Tag),
        1 => Just(Step::All),
    ]
}

proptest! {
    /// Whatever is cached was inserted, and not invalidated since.
    #[test]
    fn a_hit_is_never_stale(steps in prop::collection::vec(step(), 1..80)) {
        let iotlb = Iotlb::new(IotlbConfig { sets: 8 });
        let tags = [iotlb.tag(), iotlb.tag()];
        let mut live: Vec<(usize, u64, u8)> = Vec::new();
        for step in steps {
            match step {
                Step::Fill(tag, page, shift) => {
                    if let Err(token) = iotlb.lookup(&tags[tag], Iova(page), Access::READ) {
                        iotlb.insert(token, entry(page, shift, READ_WRITE));
                        live.push((tag, page, shift));
                    }
                }
                Step::Range(tag, first, last) => {
                    iotlb.invalidate_range(&tags[tag], Iova(first), Iova(last));
                    live.retain(|&(t, page, shift)| {
                        t != tag || page > last || page + (1 << shift) <= first
                    });
                }
                Step::Tag(tag) => {
                    iotlb.invalidate_tag(&tags[tag]);
                    live.retain(|&(t, ..)| t != tag);
                }
                Step::All => {
                    iotlb.invalidate_all();
                    live.clear();
                }
            }
            for (index, tag) in tags.iter().enumerate() {
                for page in (0..64_u64).map(|page| page << 12) {
                    if let Ok(hit) = iotlb.lookup(tag, Iova(page), Access::READ) {
                        prop_assert!(live.contains(&(index, hit.page.0, hit.page_shift)));
                    }
                }
            }
        }
    }
}
