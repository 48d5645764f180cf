use std::io::{Read, Write};
use virtio_queue::desc::RawDescriptor;
use virtio_queue::desc::split::Descriptor as SplitDescriptor;
use virtio_queue::mock::MockSplitQueue;
use virtio_queue::{QueueT, Reader, Writer};

use vm_iommu_spec::{FaultReason, Iova};
use vm_memory::{Bytes, GuestAddress, GuestMemory, Permissions};

use super::remapper::{MapRemapper, READ_WRITE, ram};
use crate::{DmaPort, IotlbConfig, Upstream};

#[test]
fn a_session_is_guest_memory() {
    let remapper = MapRemapper::new(IotlbConfig::default());
    remapper.map(0x4000, 0x8000, 12, READ_WRITE);
    remapper.map(0x5000, 0x10_2000, 12, READ_WRITE);
    let mut handle = remapper.port(&ram()).handle();
    let session = handle.session();
    let data: Vec<u8> = (0..200).collect();
    session.write_slice(&data, GuestAddress(0x4fa0)).unwrap();
    let mut back = vec![0; 200];
    session.read_slice(&mut back, GuestAddress(0x4fa0)).unwrap();
    assert_eq!(back, data);
    assert!(session.check_range(GuestAddress(0x4000), 0x2000, Permissions::ReadWrite));
    assert!(!session.check_range(GuestAddress(0x4000), 0x2001, Permissions::Read));
    assert_eq!(session.take_fault(), None);
    assert!(remapper.recorded.lock().unwrap().is_empty());
}

#[test]
fn a_session_latches_the_first_fault() {
    let remapper = MapRemapper::new(IotlbConfig::default());
    let mut handle = remapper.port(&ram()).handle();
    let session = handle.session();
    for address in [0x7000, 0x9000] {
        assert!(session.read_obj::<u32>(GuestAddress(address)).is_err());
    }
    assert_eq!(session.take_fault().unwrap().address, Iova(0x7000));
    assert_eq!(session.take_fault(), None);
    let wrapped = session.read_slice(&mut [0; 8], GuestAddress(u64::MAX - 3));
    assert!(wrapped.is_err());
    let fault = session.take_fault().unwrap();
    assert_eq!(fault.reason, FaultReason::AddressWrap);
}

#[test]
fn a_drain_waits_for_the_end_of_a_session() {
    let remapper = MapRemapper::new(IotlbConfig::default());
    let port = remapper.port(&ram());
    let mut handle = port.handle();
    let session = handle.session();
    let mut drain = port.upstream().epochs.drain();
    assert!(!drain.is_complete());
    drop(session);
    assert!(drain.is_complete());
}

#[test]
fn a_virtio_queue_works_over_a_session() {
    let memory = ram();
    let guest = memory.memory().clone();
    let queue_memory = MockSplitQueue::new(&*guest, 16);
    let descriptors = [
        SplitDescriptor::new(0x8000, 5, 0, 0),
        SplitDescriptor::new(0x9000, 16, 2, 0),
    ]
    .map(RawDescriptor::from);
    guest.write_slice(b"hello", GuestAddress(0x8000)).unwrap();
    queue_memory.build_desc_chain(&descriptors).unwrap();
    let mut queue: virtio_queue::Queue = queue_memory.create_queue().unwrap();

    let port = DmaPort::new(Upstream::direct(memory));
    port.set_bus_master(true);
    let mut handle = port.handle();
    let session = handle.session();
    let chain = queue.pop_descriptor_chain(&session).unwrap();
    let mut request = Vec::new();
    let mut reader = Reader::new(&session, chain.clone()).unwrap();
    reader.read_to_end(&mut request).unwrap();
    assert_eq!(request, b"hello");
    let mut writer = Writer::new(&session, chain.clone()).unwrap();
    writer.write_all(b"world").unwrap();
    queue.add_used(&session, chain.head_index(), 5).unwrap();
    let mut answer = [0; 5];
    guest.read_slice(&mut answer, GuestAddress(0x9000)).unwrap();
    assert_eq!(&answer, b"world");
}
