use std::sync::atomic::Ordering;

use vm_iommu_pci::PciFunction;

use super::echo::Echo;
use crate::Features;
use crate::testing::Machine;

fn machine(access_platform: bool) -> Machine {
    Machine::new(Echo::new(&[16, 64]), access_platform)
}

#[test]
fn the_registers_come_up_as_a_driver_expects() {
    let machine = machine(true);
    for (offset, len, expected) in [
        (16, 2, 0xffff), // no config vector
        (18, 2, 2),      // queues
        (20, 1, 0),      // status
        (22, 2, 0),      // queue select
        (24, 2, 16),     // size of queue 0
        (26, 2, 0xffff), // no vector
        (28, 2, 0),      // not enabled
        (32, 8, 0),
    ] {
        assert_eq!(machine.read(offset, len), expected, "at {offset}");
    }
    machine.write(22, 2, 1);
    assert_eq!(machine.read(24, 2), 64);
    assert_eq!(machine.read(30, 2), 1);
    machine.write(22, 2, 2);
    assert_eq!(machine.read(24, 2), 0, "no such queue");
}

#[test]
fn the_offer_follows_the_platform() {
    let common = Features::VERSION_1
        | Features::INDIRECT_DESC
        | Features::EVENT_IDX
        | Features::RING_RESET
        | Echo::OWN_FEATURE;
    assert_eq!(machine(false).offered(), common);
    assert_eq!(machine(true).offered(), common | Features::ACCESS_PLATFORM);
    let machine = machine(true);
    machine.write(0, 4, 2);
    assert_eq!(machine.read(4, 4), 0, "nothing beyond 64 bits");
}

#[test]
fn features_are_agreed_on_only_if_they_work() {
    let platform = Features::ACCESS_PLATFORM;
    let version = Features::VERSION_1;
    for (translated, accepted, agreed) in [
        (false, version, true),
        (
            false,
            version | Echo::OWN_FEATURE | Features::EVENT_IDX,
            true,
        ),
        (false, Echo::OWN_FEATURE, false),
        (false, Features::empty(), false),
        (false, version | platform, false),
        (true, version, false),
        (true, platform, false),
        (true, version | platform, true),
        (true, version | platform | Features::bit(7), false),
    ] {
        let machine = machine(translated);
        assert_eq!(machine.negotiate(accepted), agreed, "{accepted:?}");
    }
}

#[test]
fn features_beyond_64_bits_are_refused() {
    let machine = machine(false);
    machine.write(20, 1, 3);
    for (select, word) in [(1, 1), (2, 1)] {
        machine.write(8, 4, select);
        machine.write(12, 4, word);
    }
    machine.write(20, 1, 0xb);
    assert_eq!(machine.status(), 3);
    machine.write(12, 4, 0);
    machine.write(20, 1, 0xb);
    assert_eq!(machine.status(), 0xb);
}

#[test]
fn accepted_features_are_settled_by_features_ok() {
    let machine = machine(false);
    assert!(machine.negotiate(Features::VERSION_1));
    machine.write(8, 4, 0);
    machine.write(12, 4, 1 << 29);
    assert_eq!(machine.read(12, 4), 0);
}

#[test]
fn the_device_runs_only_once_features_are_agreed_on() {
    let echo = Echo::new(&[16]);
    let machine = Machine::new(echo.clone(), false);
    machine.write(20, 1, 0x7);
    assert_eq!(machine.status(), 0x3, "DRIVER_OK without FEATURES_OK");
    assert!(!echo.active.load(Ordering::SeqCst));
    machine.write(22, 2, 0);
    machine.write(28, 2, 1);
    assert_eq!(machine.read(28, 2), 0, "no queue before FEATURES_OK");

    assert!(machine.negotiate(Features::VERSION_1 | Echo::OWN_FEATURE));
    machine.write(20, 1, 0xf);
    assert_eq!(machine.status(), 0xf);
    machine.write(20, 1, 0xf);
    assert!(echo.active.load(Ordering::SeqCst));
    assert_eq!(
        echo.features.load(Ordering::SeqCst),
        (Features::VERSION_1 | Echo::OWN_FEATURE).bits()
    );
}

#[test]
fn a_reset_returns_everything_to_power_on() {
    let echo = Echo::new(&[16, 64]);
    let mut machine = Machine::new(echo.clone(), true);
    let fresh: Vec<u64> = (0..15).map(|word| machine.read(word * 4, 4)).collect();
    type Reset = fn(&Machine);
    let by_status: Reset = |machine| machine.write(20, 1, 0);
    let by_function: Reset = |machine| machine.function.reset();
    for reset in [by_status, by_function] {
        machine.start(Features::empty());
        machine.function.config_changed();
        machine.write(22, 2, 1);
        reset(&machine);
        assert!(!echo.active.load(Ordering::SeqCst));
        let after: Vec<u64> = (0..15).map(|word| machine.read(word * 4, 4)).collect();
        for (word, (before, after)) in fresh.iter().zip(&after).enumerate() {
            // The configuration's generation, in the word of the status, goes on.
            let mask = if word == 5 { 0xffff_00ff } else { u64::MAX };
            assert_eq!(before & mask, after & mask, "word {word}");
        }
        assert_eq!(machine.read(0x1000, 1), 0, "ISR");
    }
}

#[test]
fn only_a_registers_own_width_writes() {
    let machine = machine(false);
    assert!(machine.negotiate(Features::VERSION_1));
    machine.write(22, 4, 0x10_0001);
    assert_eq!(machine.read(22, 2), 0);
    machine.write(20, 2, 0);
    assert_eq!(machine.status(), 0xb);
    machine.write(24, 2, 12);
    assert_eq!(machine.read(24, 2), 16, "not a power of two");
    machine.write(24, 2, 32);
    assert_eq!(machine.read(24, 2), 16, "above the maximum");
    machine.write(24, 2, 8);
    assert_eq!(machine.read(24, 2), 8);
    // Addresses: either half, or the whole.
    machine.write(32, 4, 0x1111_0000);
    machine.write(36, 4, 0x2222);
    assert_eq!(machine.read(32, 8), 0x2222_1111_0000);
    machine.write(40, 8, 0x3333_4444_0000);
    assert_eq!(machine.read(44, 4), 0x3333);
    machine.write(48, 2, 0xffff);
    assert_eq!(machine.read(48, 8), 0);
}

#[test]
fn vectors_read_back_as_what_the_function_has() {
    let machine = machine(false);
    for (vector, expected) in [(0, 0), (2, 2), (3, 0xffff), (0xffff, 0xffff)] {
        machine.write(16, 2, vector);
        assert_eq!(machine.read(16, 2), expected);
        machine.write(22, 2, 1);
        machine.write(26, 2, vector);
        assert_eq!(machine.read(26, 2), expected);
    }
    machine.write(22, 2, 9);
    machine.write(26, 2, 0);
    assert_eq!(machine.read(26, 2), 0xffff, "no such queue");
}
