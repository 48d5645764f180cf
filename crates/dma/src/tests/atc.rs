use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use vm_iommu_spec::{Access, FaultReason, Iova, Pasid, RequesterId};
use vm_memory::{Bytes, GuestAddress};

use super::remapper::{MapRemapper, READ_WRITE, ram};
use crate::{Atc, AtcConfig, AttributeFlags, Awaited, DeviceTlb, DmaPort, GuestRam, IotlbConfig};

struct Machine {
    remapper: Arc<MapRemapper>,
    ram: GuestRam,
    port: Arc<DmaPort>,
    atc: Arc<Atc>,
}

fn machine(entries: usize) -> Machine {
    let remapper = MapRemapper::new(IotlbConfig::default());
    remapper.map(0x4000, 0x8000, 12, READ_WRITE);
    remapper.map(0x5000, 0x10_2000, 12, READ_WRITE);
    remapper.map(0x20_0000, 0x10_0000, 16, Access::READ);
    let ram = ram();
    let port = remapper.port(&ram);
    let atc = Atc::new(&port, None, AtcConfig { entries });
    Machine {
        remapper,
        ram,
        port,
        atc,
    }
}

impl Machine {
    fn invalidate(&self, pasid: Option<Pasid>, first: u64, last: u64) -> Awaited {
        let (done, awaited) = self.port.upstream().epochs.acknowledgement();
        let range = Iova(first)..=Iova(last);
        let requester = RequesterId::from_source_id(0, 0);
        self.atc.invalidate(requester, pasid, range, done);
        awaited
    }

    fn asked(&self) -> u64 {
        self.atc.counters().requests
    }
}

#[test]
fn pages_for_untranslated_requests_alone_are_reached_by_these() {
    let machine = machine(8);
    machine.remapper.attributes.lock().unwrap().flags = AttributeFlags::UNTRANSLATED_ONLY;
    let device = machine.atc.handle();
    let data: Vec<u8> = (0..100).collect();
    device.write(Iova(0x4fce), &data).unwrap();
    let mut back = vec![0; 100];
    device.read(Iova(0x4fce), &mut back).unwrap();
    assert_eq!(back, data);
    // Each page was asked for, by a translation request and by the first access itself.
    assert_eq!(machine.asked(), 2);
    assert_eq!(machine.remapper.walks.load(Ordering::Relaxed), 4);
    assert_eq!(machine.remapper.translated.load(Ordering::Relaxed), 0);
    let refused = device.hold(Iova(0x4000), Access::READ).err().unwrap();
    assert_eq!(refused.reason, FaultReason::UntranslatedOnly);
    machine.remapper.attributes.lock().unwrap().flags = AttributeFlags::empty();
    machine.atc.clear();
    device.read(Iova(0x4fce), &mut back).unwrap();
    assert_eq!(machine.remapper.translated.load(Ordering::Relaxed), 2);
}

#[test]
fn translations_are_asked_for_once_and_used_for_the_whole_page() {
    let machine = machine(8);
    let device = machine.atc.handle();
    let data: Vec<u8> = (0..100).collect();
    for _ in 0..3 {
        device.write(Iova(0x4fce), &data).unwrap();
    }
    assert_eq!(machine.asked(), 2);
    assert_eq!(machine.remapper.walks.load(Ordering::Relaxed), 2);
    let mut back = vec![0; 100];
    device.read(Iova(0x4fce), &mut back).unwrap();
    assert_eq!(back, data);
    let mut tail = vec![0; 50];
    let memory = machine.ram.memory();
    memory
        .read_slice(&mut tail, GuestAddress(0x10_2000))
        .unwrap();
    assert_eq!(tail, data[50..]);
}

#[test]
fn what_is_not_permitted_is_asked_for_again_and_refused() {
    let machine = machine(8);
    let device = machine.atc.handle();
    device.read(Iova(0x20_0000), &mut [0; 8]).unwrap();
    assert!(device.write(Iova(0x20_0000), &[0; 8]).is_err());
    let refused = device.read(Iova(0x5ff8), &mut [0; 16]).unwrap_err();
    assert_eq!((refused.done, refused.fault.address), (8, Iova(0x6000)));
    let interrupt = device.write(Iova(0xfee0_0000), &[0; 4]).unwrap_err();
    assert_eq!(interrupt.fault.reason, FaultReason::InterruptRange);
    machine.port.stop();
    let stopped = device.read(Iova(0x4000), &mut [0; 8]).unwrap_err();
    assert_eq!(stopped.fault.reason, FaultReason::Stopped);
}

#[test]
fn an_invalidation_drops_what_it_overlaps_and_nothing_else() {
    let machine = machine(8);
    let device = machine.atc.handle();
    let touch = || {
        for address in [0x4000, 0x5000, 0x20_8000] {
            device.read(Iova(address), &mut [0; 8]).unwrap();
        }
        machine.asked()
    };
    assert_eq!(touch(), 3);
    assert!(machine.invalidate(None, 0x5000, 0x5fff).is_answered());
    assert_eq!(touch(), 4);
    // The large page, by one address of it.
    assert!(machine.invalidate(None, 0x20_f000, 0x20_ffff).is_answered());
    assert_eq!(touch(), 5);
    assert!(machine.invalidate(Pasid::new(1), 0, u64::MAX).is_answered());
    assert_eq!(touch(), 5);
    assert!(machine.invalidate(None, 0, u64::MAX).is_answered());
    assert_eq!(touch(), 8);
    machine.atc.clear();
    assert_eq!(touch(), 11);
}

#[test]
fn the_cache_is_bounded_and_may_be_off() {
    let small = machine(1);
    let device = small.atc.handle();
    for _ in 0..3 {
        device.read(Iova(0x4000), &mut [0; 8]).unwrap();
        device.read(Iova(0x5000), &mut [0; 8]).unwrap();
    }
    assert_eq!((small.asked(), small.atc.counters().evictions), (6, 5));
    let off = machine(0);
    let device = off.atc.handle();
    for _ in 0..3 {
        device.read(Iova(0x4000), &mut [0; 8]).unwrap();
    }
    assert_eq!(off.asked(), 3);
}

#[test]
fn a_page_that_is_held_holds_the_acknowledgement() {
    let machine = machine(8);
    let device = machine.atc.handle();
    let page = device.hold(Iova(0x4010), Access::WRITE).unwrap();
    assert_eq!(page.range(), Iova(0x4000)..=Iova(0x4fff));
    assert!(machine.invalidate(None, 0x5000, 0x5fff).is_answered());
    let awaited = machine.invalidate(None, 0x4000, 0x4fff);
    let mut drain = machine.port.upstream().epochs.drain();
    assert!(!awaited.is_answered() && !drain.is_complete());
    // The device goes on with the address that it was given.
    device.write_held(&page, 0x20, b"late").unwrap();
    let mut bytes = [0; 4];
    device.read_held(&page, 0x20, &mut bytes).unwrap();
    assert_eq!(&bytes, b"late");
    assert!(device.write_held(&page, 0xffe, b"long").is_err());
    drop(page);
    assert!(awaited.is_answered() && drain.is_complete());
}

#[test]
fn a_unit_that_gives_up_waits_no_more() {
    let machine = machine(8);
    let device = machine.atc.handle();
    let page = device.hold(Iova(0x4000), Access::READ).unwrap();
    let awaited = machine.invalidate(None, 0, u64::MAX);
    let mut drain = machine.port.upstream().epochs.drain();
    assert!(!drain.is_complete());
    awaited.abandon();
    assert!(drain.is_complete());
    drop(page);
}

/// As for accesses that the unit translates: once an invalidation completed, no device uses the
/// page, whatever it has cached or was about to.
#[test]
fn no_write_lands_in_a_page_after_the_invalidation_of_the_device_completed() {
    const FRAMES: [u64; 2] = [0x2000, 0x10_3000];
    let machine = machine(2);
    machine.remapper.map(0x4000, FRAMES[0], 12, READ_WRITE);
    let memory = machine.ram.memory();
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        for device in 0..2_u64 {
            let (handle, stop) = (machine.atc.handle(), &stop);
            scope.spawn(move || {
                let mut count = 0_u64;
                while !stop.load(Ordering::Relaxed) {
                    count += 1;
                    let at = Iova(0x4000 + device * 0x800);
                    handle.write(at, &count.to_le_bytes()).unwrap();
                }
            });
        }
        while machine.atc.counters().hits < 10 {
            thread::yield_now();
        }
        for round in 0..2000_usize {
            let (old, new) = (round % 2, 1 - round % 2);
            machine.remapper.map(0x4000, FRAMES[new], 12, READ_WRITE);
            let awaited = machine.invalidate(None, 0x4000, 0x4fff);
            machine.port.upstream().epochs.drain().wait();
            assert!(awaited.is_answered());
            let frame = || {
                let mut bytes = [0; 0x1000];
                let place = GuestAddress(FRAMES[old]);
                memory.read_slice(&mut bytes, place).unwrap();
                bytes
            };
            let before = frame();
            if round % 64 == 0 {
                thread::yield_now();
            }
            assert!(before == frame(), "a late write in round {round}");
        }
        stop.store(true, Ordering::Relaxed);
    });
}
