//! The invariants after every event of any sequence, with faults and without.

use proptest::prelude::*;

use crate::events::{Event, event};
use crate::machine::Machine;
use crate::mock::MockMachine;
use crate::unit::{AmdViKind, CACHES_ABSENT, USUAL, UnitMachine, VtdKind, WRITE_BUFFER};
use crate::world::World;

/// A sequence of events, some of them with a fault at an operation.
fn sequence() -> impl Strategy<Value = Vec<(Event, Option<u64>)>> {
    let fault = prop_oneof![3 => Just(None), 1 => (0..12_u64).prop_map(Some)];
    prop::collection::vec((event(), fault), 1..80)
}

fn run<M: Machine + Send + Sync + 'static>(sequence: Vec<(Event, Option<u64>)>) {
    let mut world = World::new(M::new());
    for (event, fault) in sequence {
        let _ = world.apply(event, fault);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1024, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_invariants_hold_after_every_event_on_the_mock(sequence in sequence()) {
        run::<MockMachine>(sequence);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_invariants_hold_after_every_event_on_a_vtd_unit(sequence in sequence()) {
        run::<UnitMachine<VtdKind<USUAL>>>(sequence);
    }

    #[test]
    fn the_invariants_hold_after_every_event_in_caching_mode(sequence in sequence()) {
        run::<UnitMachine<VtdKind<CACHES_ABSENT>>>(sequence);
    }

    #[test]
    fn the_invariants_hold_after_every_event_with_a_write_buffer(sequence in sequence()) {
        run::<UnitMachine<VtdKind<WRITE_BUFFER>>>(sequence);
    }

    #[test]
    fn the_invariants_hold_after_every_event_on_an_amdvi_unit(sequence in sequence()) {
        run::<UnitMachine<AmdViKind<USUAL>>>(sequence);
    }

    #[test]
    fn the_invariants_hold_after_every_event_with_np_cache(sequence in sequence()) {
        run::<UnitMachine<AmdViKind<CACHES_ABSENT>>>(sequence);
    }
}
