//! Sequences of calls against the model of the fuzz target.

use proptest::prelude::*;

/// Calls that mostly concern objects that exist.
fn call() -> impl Strategy<Value = [u8; 5]> {
    let what = prop_oneof![
        2 => Just(0_u8), 1 => Just(1), 5 => Just(2), 4 => Just(3), 4 => Just(4), 4 => Just(5),
        1 => Just(6), 1 => Just(7), 3 => Just(8), 1 => Just(9)
    ];
    (what, 0..6_u8, 0..48_u8, 0..34_u8, any::<u8>()).prop_map(|(a, b, c, d, e)| [a, b, c, d, e])
}

proptest! {
    #[test]
    fn every_answer_is_the_models(calls in prop::collection::vec(call(), 1..80)) {
        let mut bytes = vec![0; 5];
        bytes.extend(calls.into_iter().flatten());
        vm_iommu_fuzz::iommufd_calls(&bytes);
    }
}
