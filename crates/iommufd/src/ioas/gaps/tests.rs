use proptest::prelude::*;

use super::Gaps;

fn free(gaps: &Gaps) -> Vec<u64> {
    gaps.ranges
        .iter()
        .flat_map(|(first, last)| *first..=*last)
        .collect()
}

proptest! {
    #[test]
    fn gives_and_takes_as_a_set_does(events in prop::collection::vec((0_u64..96, 1_u64..20, any::<bool>()), 1..60)) {
        let mut gaps = Gaps::default();
        let mut model = std::collections::BTreeSet::new();
        for (first, length, give) in events {
            let range = first..=first + length - 1;
            // Whatever of the range is free is first taken: `give` wants none of it free.
            gaps.take(range.clone());
            range.clone().for_each(|p| { model.remove(&p); });
            if give {
                gaps.give(range.clone());
                model.extend(range);
            }
            prop_assert_eq!(free(&gaps), model.iter().copied().collect::<Vec<_>>());
            // Neighbours are joined, and the classes name the same ranges.
            let starts: usize = gaps.classes.values().map(|s| s.len()).sum();
            prop_assert_eq!(starts, gaps.ranges.len());
            prop_assert!(gaps.ranges.iter().zip(gaps.ranges.keys().skip(1)).all(|((_, last), next)| last + 1 < *next));
        }
    }

    #[test]
    fn finds_room_if_and_only_if_there_is(
        taken in prop::collection::vec((0_u64..96, 1_u64..20), 0..12),
        length in 1_u64..40,
        (modulus, residue) in (0_u32..4).prop_flat_map(|log| (Just(1 << log), 0_u64..1 << log)),
    ) {
        let mut gaps = Gaps::default();
        gaps.give(0..=127);
        let mut used = [false; 128];
        for (first, size) in taken {
            gaps.take(first..=first + size - 1);
            (first..first + size).for_each(|p| used[p as usize] = true);
        }
        let room = |start: u64| start % modulus == residue && start + length <= 128
            && (start..start + length).all(|p| !used[p as usize]);
        let found = gaps.find(length, modulus, residue);
        prop_assert_eq!(found.is_some(), (0..128).any(room));
        prop_assert!(found.is_none_or(room));
    }
}

#[test]
fn the_whole_space_is_a_range() {
    let mut gaps = Gaps::default();
    gaps.give(0..=u64::MAX);
    assert_eq!(gaps.find(u64::MAX, 1, 0), Some(0));
    gaps.take(6..=u64::MAX - 1);
    assert_eq!(free(&gaps).len(), 7);
    assert_eq!(gaps.find(1, 4, 3), Some(3));
    assert_eq!(gaps.find(2, 1 << 63, 0), Some(0));
}
