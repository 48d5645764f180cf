use std::sync::Arc;
use std::sync::atomic::Ordering;

use vm_iommu_spec::{Access, FaultReason, Iova, MsiMessage, RequesterId, vtd};

use super::remapper::{MapRemapper, READ_WRITE, RecordMsi, ram};
use crate::{DmaPort, DmaRemapper, Epochs, IotlbConfig, Upstream};

#[test]
fn bytes_scatter_over_pages_and_come_back() {
    let remapper = MapRemapper::new(IotlbConfig::default());
    remapper.map(0x4000, 0x8000, 12, READ_WRITE);
    remapper.map(0x5000, 0x10_2000, 12, READ_WRITE);
    let memory = ram();
    let handle = remapper.port(&memory).handle();
    let data: Vec<u8> = (0..200).collect();
    handle.write(Iova(0x4fa0), &data).unwrap();
    let mut back = vec![0; 200];
    handle.read(Iova(0x4fa0), &mut back).unwrap();
    assert_eq!(back, data);

    let direct = DmaPort::new(Upstream::direct(memory));
    direct.set_bus_master(true);
    let mut tail = vec![0; 104];
    direct.handle().read(Iova(0x10_2000), &mut tail).unwrap();
    assert_eq!(tail, data[96..]);
}

#[test]
fn a_fault_reports_progress_and_is_recorded_once() {
    let remapper = MapRemapper::new(IotlbConfig::default());
    remapper.map(0x4000, 0x8000, 12, READ_WRITE);
    let handle = remapper.port(&ram()).handle();
    let partial = handle.write(Iova(0x4ff0), &[1; 64]).unwrap_err();
    assert_eq!(partial.done, 16);
    assert_eq!(partial.fault.address, Iova(0x5000));
    assert_eq!(partial.fault.access, Access::WRITE);
    assert_eq!(*remapper.recorded.lock().unwrap(), [partial.fault]);
}

#[test]
fn a_write_never_uses_an_entry_cached_for_reading() {
    let remapper = MapRemapper::new(IotlbConfig::default());
    remapper.map(0x4000, 0x8000, 12, Access::READ);
    let handle = remapper.port(&ram()).handle();
    handle.read(Iova(0x4000), &mut [0; 8]).unwrap();
    let refused = handle.write(Iova(0x4000), &[0; 8]).unwrap_err();
    let reason = FaultReason::Vtd(vtd::FaultReason::WriteDenied);
    assert_eq!(refused.fault.reason, reason);
}

#[test]
fn a_hit_asks_nobody() {
    let remapper = MapRemapper::new(IotlbConfig::default());
    remapper.map(0x20_0000, 0x10_0000, 16, READ_WRITE);
    let handle = remapper.port(&ram()).handle();
    for page in 0..16 {
        handle
            .write(Iova(0x20_0000 + page * 0x1000), &[1; 8])
            .unwrap();
    }
    assert_eq!(remapper.walks.load(Ordering::Relaxed), 1);
}

#[test]
fn a_page_that_is_only_partly_memory_is_cached_only_where_it_is() {
    let remapper = MapRemapper::new(IotlbConfig::default());
    // 2 MiB onto memory that ends after 64 KiB, and has a hole before 1 MiB.
    remapper.map(0, 0, 21, READ_WRITE);
    let handle = remapper.port(&ram()).handle();
    for good in [0, 0xffff, 0x10_0000, 0x10_ffff] {
        handle.write(Iova(good), &[1]).unwrap();
    }
    for bad in [0x1_0000, 0xf_ffff, 0x11_0000] {
        let refused = handle.write(Iova(bad), &[1]).unwrap_err();
        assert_eq!(refused.fault.reason, FaultReason::NotMemory, "{bad:#x}");
    }
}

#[test]
fn ranges_that_wrap_are_refused_before_any_lookup() {
    let remapper = MapRemapper::new(IotlbConfig::default());
    let handle = remapper.port(&ram()).handle();
    for (address, len) in [(u64::MAX, 2), (u64::MAX - 6, 8), (u64::MAX - 0xfff, 0x2000)] {
        let refused = handle.read(Iova(address), &mut vec![0; len]).unwrap_err();
        assert_eq!(refused.fault.reason, FaultReason::AddressWrap);
    }
    assert_eq!(remapper.binds.load(Ordering::Relaxed), 0);
    // The last byte of the address space is not a wrap.
    let last = handle.read(Iova(u64::MAX), &mut [0]).unwrap_err();
    assert_ne!(last.fault.reason, FaultReason::AddressWrap);
    handle.read(Iova(u64::MAX), &mut []).unwrap();
}

#[test]
fn the_gates_of_the_port_refuse_with_their_own_reasons() {
    let port = DmaPort::new(Upstream::direct(ram()));
    let handle = port.handle();
    let reason = |handle: &crate::DmaHandle| {
        let refused = handle.write(Iova(0), &[1]);
        refused.err().map(|partial| partial.fault.reason)
    };
    assert_eq!(reason(&handle), Some(FaultReason::BusMasterDisabled));
    port.set_bus_master(true);
    assert_eq!(reason(&handle), None);
    port.stop();
    assert_eq!(reason(&handle), Some(FaultReason::Stopped));
    assert!(port.signal_msi(MsiMessage::default()).is_err());
    port.restart();
    assert_eq!(reason(&handle), None);
}

#[test]
fn a_doubleword_to_the_interrupt_range_is_an_interrupt_and_never_memory() {
    let msi = Arc::new(RecordMsi::default());
    let port = DmaPort::new(Upstream {
        output: Arc::new(ram()),
        remapper: None,
        epochs: Arc::new(Epochs::default()),
        msi: msi.clone(),
    });
    port.set_bus_master(true);
    port.set_requester(RequesterId::from_source_id(0, 8));
    let handle = port.handle();
    handle
        .write(Iova(0xfee0_1000), &0x41_u32.to_le_bytes())
        .unwrap();
    let message = MsiMessage {
        address: 0xfee0_1000,
        data: 0x41,
    };
    let expected = (RequesterId::from_source_id(0, 8), message);
    assert_eq!(*msi.0.lock().unwrap(), [expected]);

    let in_range = FaultReason::InterruptRange;
    let write = |address, len| handle.write(Iova(address), &vec![0; len]);
    for (address, len) in [
        (0xfee0_0002, 4),
        (0xfee0_0000, 8),
        (0xfedf_fffc, 8),
        (0xfeef_fffe, 4),
    ] {
        let refused = write(address, len).unwrap_err();
        assert_eq!(refused.fault.reason, in_range, "{address:#x}+{len}");
    }
    let read = handle.read(Iova(0xfee0_0000), &mut [0; 4]).unwrap_err();
    assert_eq!(read.fault.reason, in_range);
    assert_eq!(msi.0.lock().unwrap().len(), 1);
}

#[test]
fn atomics_are_naturally_aligned() {
    let port = DmaPort::new(Upstream::direct(ram()));
    port.set_bus_master(true);
    let handle = port.handle();
    handle
        .store(Iova(0x100), 0xabcd_u16, Ordering::Release)
        .unwrap();
    assert_eq!(
        handle.load::<u16>(Iova(0x100), Ordering::Acquire),
        Ok(0xabcd)
    );
    let refused = handle.load::<u32>(Iova(0x102), Ordering::Acquire);
    assert_eq!(refused.unwrap_err().reason, FaultReason::Misaligned);
}

#[test]
fn a_check_answers_as_the_access_would_and_records_nothing() {
    let remapper = MapRemapper::new(IotlbConfig::default());
    remapper.map(0x4000, 0x8000, 12, Access::READ);
    let handle = remapper.port(&ram()).handle();
    assert_eq!(handle.check(Iova(0x4000), 0x1000, Access::READ), Ok(()));
    assert!(handle.check(Iova(0x4000), 0x1001, Access::READ).is_err());
    assert!(handle.check(Iova(0x4000), 1, Access::WRITE).is_err());
    assert!(remapper.recorded.lock().unwrap().is_empty());
}

#[test]
fn without_a_cache_the_answers_are_the_same() {
    let remapper = MapRemapper::new(IotlbConfig { sets: 0 });
    remapper.map(0x4000, 0x8000, 12, READ_WRITE);
    let handle = remapper.port(&ram()).handle();
    handle.write(Iova(0x4000), b"abc").unwrap();
    remapper.unmap(0x4000);
    assert!(handle.read(Iova(0x4000), &mut [0; 3]).is_err());
    assert_eq!(remapper.iotlb().counters().hits, 0);
}
