use proptest::prelude::*;

use super::RangeCount;

/// Counts point by point.
struct Model([u64; 64]);

fn of(pieces: &[std::ops::RangeInclusive<u64>]) -> Vec<u64> {
    pieces.iter().cloned().flatten().collect()
}

proptest! {
    #[test]
    fn counts_as_an_array_does(events in prop::collection::vec((0_u64..64, 0_u64..64, any::<bool>()), 1..60)) {
        let mut counts = RangeCount::default();
        let mut model = Model([0; 64]);
        let mut added = Vec::new();
        for (a, b, add) in events {
            if add || added.is_empty() {
                let range = a.min(b)..=a.max(b);
                let fresh: Vec<_> = range.clone().filter(|p| model.0[*p as usize] == 0).collect();
                range.clone().for_each(|p| model.0[p as usize] += 1);
                prop_assert_eq!(of(&counts.add(range.clone())), fresh);
                added.push(range);
            } else {
                let range = added.swap_remove(a as usize % added.len());
                range.clone().for_each(|p| model.0[p as usize] -= 1);
                let bare: Vec<_> = range.clone().filter(|p| model.0[*p as usize] == 0).collect();
                prop_assert_eq!(of(&counts.remove(range)), bare);
            }
            for point in 0..64 {
                prop_assert_eq!(counts.at(point), model.0[point as usize]);
            }
            let probe = a.min(b)..=a.max(b);
            let holes: Vec<_> = probe.clone().filter(|p| model.0[*p as usize] == 0).collect();
            prop_assert_eq!(counts.any(probe.clone()), holes.len() as u64 != probe.end() - probe.start() + 1);
            prop_assert_eq!(of(&counts.holes(probe)), holes);
            prop_assert_eq!(counts.is_empty(), added.is_empty());
        }
    }
}

#[test]
fn the_last_address_is_a_point_as_any_other() {
    let mut counts = RangeCount::default();
    assert_eq!(counts.add(5..=u64::MAX), vec![5..=u64::MAX]);
    assert_eq!(counts.holes(0..=u64::MAX), vec![0..=4]);
    assert_eq!(counts.remove(5..=u64::MAX), vec![5..=u64::MAX]);
    assert!(counts.is_empty());
}
