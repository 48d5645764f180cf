//! The program on a processor of its own: KVM, memory, nothing else.

mod harness;

use harness::Harness;

use super::{Operation, State, Width};

const DATA: u64 = 0x20_0000;

fn store(width: Width, value: u64) -> Operation {
    Operation::Store {
        width,
        address: DATA,
        value,
    }
}

fn wait(address: u64, mask: u64, value: u64, spins: u64) -> Operation {
    Operation::Wait {
        width: Width::Quad,
        address,
        mask,
        value,
        spins,
    }
}

#[test]
fn stores_of_each_width_leave_the_bytes_beside_alone() {
    let Some(mut guest) = Harness::new() else {
        return;
    };
    for (width, expected) in [
        (Width::Byte, 0x1111_1111_1111_1188),
        (Width::Word, 0x1111_1111_1111_7788),
        (Width::Double, 0x1111_1111_5566_7788),
        (Width::Quad, 0x1122_3344_5566_7788),
    ] {
        guest.write(DATA, 0x1111_1111_1111_1111);
        let state = guest.run([store(width, 0x1122_3344_5566_7788), Operation::Finish]);
        assert_eq!(state, State::Finished, "{width:?}");
        assert_eq!(guest.read(DATA), expected, "{width:?}");
    }
}

#[test]
fn waits_of_each_width_load_only_their_bytes() {
    let Some(mut guest) = Harness::new() else {
        return;
    };
    for (width, expected) in [
        (Width::Byte, 0x88),
        (Width::Word, 0x7788),
        (Width::Double, 0x5566_7788),
        (Width::Quad, 0x1122_3344_5566_7788),
    ] {
        guest.write(DATA, 0x1122_3344_5566_7788);
        let wait = Operation::Wait {
            width,
            address: DATA,
            mask: u64::MAX,
            value: expected,
            spins: 1,
        };
        let state = guest.run([wait, Operation::Finish]);
        assert_eq!(state, State::Finished, "{width:?}");
        assert_eq!(guest.result(0), expected, "{width:?}");
    }
}

#[test]
fn a_wait_ignores_bits_outside_its_mask() {
    let Some(mut guest) = Harness::new() else {
        return;
    };
    guest.write(DATA, 0xabcd);
    let state = guest.run([wait(DATA, 0xff00, 0xab00, 1), Operation::Finish]);
    assert_eq!(state, State::Finished);
}

#[test]
fn a_wait_gives_up_after_its_bound_and_tells_what_it_saw() {
    let Some(mut guest) = Harness::new() else {
        return;
    };
    guest.write(DATA, 0xabcd);
    let state = guest.run([
        store(Width::Byte, 0xce),
        wait(DATA, 0xff, 0xcd, 100),
        Operation::Finish,
    ]);
    assert_eq!(
        state,
        State::Failed {
            index: 1,
            value: 0xabce
        }
    );
}

#[test]
fn a_comparison_finds_the_first_word_that_differs() {
    let Some(mut guest) = Harness::new() else {
        return;
    };
    for word in 0..4 {
        guest.write(DATA + 8 * word, word);
        guest.write(DATA + 0x100 + 8 * word, word);
    }
    let compare = |words| Operation::Compare {
        address: DATA,
        with: DATA + 0x100,
        words,
    };
    assert_eq!(guest.run([compare(4), Operation::Finish]), State::Finished);
    guest.write(DATA + 0x110, 7);
    assert_eq!(
        guest.run([compare(2), compare(4), Operation::Finish]),
        State::Failed { index: 1, value: 2 }
    );
}

#[test]
fn a_sleeper_wakes_at_an_interrupt_and_counts_it() {
    let Some(mut guest) = Harness::new() else {
        return;
    };
    let counter = guest.placement().counter(0x41);
    let spurious = Operation::Store {
        width: Width::Double,
        address: crate::layout::LAPIC + 0xf0,
        value: 0x1ff,
    };
    let raise = |vector| Operation::Store {
        width: Width::Double,
        address: Harness::RAISE,
        value: vector,
    };
    let sleep = |times| Operation::Sleep { counter, times };
    let state = guest.run([
        spurious,
        raise(0x41),
        sleep(1),
        raise(0x41),
        sleep(2),
        Operation::Finish,
    ]);
    assert_eq!(state, State::Finished);
    assert_eq!(guest.read(counter), 2);
}

#[test]
fn an_exception_is_reported_with_its_vector_and_address() {
    let Some(mut guest) = Harness::new() else {
        return;
    };
    let beyond = Operation::Store {
        width: Width::Quad,
        address: 1 << 40,
        value: 0,
    };
    let State::Exception {
        index,
        vector,
        address,
        ..
    } = guest.run([store(Width::Byte, 0), beyond])
    else {
        panic!("no exception");
    };
    assert_eq!((index, vector, address), (1, 14, 1 << 40));
}

#[test]
fn an_unknown_operation_fails() {
    let Some(mut guest) = Harness::new() else {
        return;
    };
    // What follows the last operation is zero.
    let state = guest.run([store(Width::Byte, 0)]);
    assert!(matches!(state, State::Failed { index: 1, .. }), "{state:?}");
}
