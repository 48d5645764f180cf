use std::sync::Arc;

use vm_iommu_spec::PhysAddr;

use super::{Backing, BackingId, Frames, HostProcess, Run};
use crate::{Errno, PAGE_SIZE, Process, ProcessId};

const GIB: u64 = 1 << 30;

struct Blank(u64);

impl Backing for Blank {
    fn id(&self) -> BackingId {
        BackingId::Process(ProcessId(self.0))
    }

    fn read(&self, _: u64, _: &mut [u8]) -> Result<(), Errno> {
        Err(Errno::EFAULT)
    }

    fn write(&self, _: u64, _: &[u8]) -> Result<(), Errno> {
        Err(Errno::EFAULT)
    }
}

fn run(process: u64, offset: u64, length: u64) -> Run {
    Run {
        length,
        backing: Arc::new(Blank(process)),
        offset,
    }
}

#[test]
fn the_same_page_has_one_address_and_neighbours_are_neighbours() {
    let frames = Frames::new(PhysAddr(GIB)..PhysAddr(4 * GIB));
    let first = frames.pin(&run(1, 5 * PAGE_SIZE, 2 * PAGE_SIZE)).unwrap();
    let again = frames.pin(&run(1, 6 * PAGE_SIZE, PAGE_SIZE)).unwrap();
    assert_eq!(first.len(), 1);
    assert_eq!(again[0].address.0, first[0].address.0 + PAGE_SIZE);
    let id = BackingId::Process(ProcessId(1));
    assert_eq!(frames.pins(id, 6 * PAGE_SIZE), 2);
    let (backing, offset) = frames.find(PhysAddr(again[0].address.0 + 7)).unwrap();
    assert_eq!((backing.id(), offset), (id, 6 * PAGE_SIZE + 7));
    frames.unpin(&first[0].run);
    assert_eq!(frames.pins(id, 5 * PAGE_SIZE), 0);
    assert!(frames.find(first[0].address).is_none());
    assert!(frames.find(again[0].address).is_some());
    frames.unpin(&again[0].run);
    assert!(frames.find(again[0].address).is_none());
}

#[test]
fn addresses_end_and_come_back() {
    let frames = Frames::new(PhysAddr(1)..PhysAddr(3 * GIB + 5));
    // Two whole pieces are in the range, and a run over their boundary takes both.
    let both = frames.pin(&run(1, GIB - PAGE_SIZE, 2 * PAGE_SIZE)).unwrap();
    assert_eq!(both.len(), 2);
    assert_eq!(frames.pin(&run(2, 0, PAGE_SIZE)).err(), Some(Errno::ENOMEM));
    frames.unpin(&both[1].run);
    // It fails half way, and leaves nothing.
    let over = run(2, GIB - PAGE_SIZE, 2 * PAGE_SIZE);
    assert_eq!(frames.pin(&over).err(), Some(Errno::ENOMEM));
    assert_eq!(frames.pins(over.backing.id(), GIB - PAGE_SIZE), 0);
    assert!(frames.pin(&run(3, 0, PAGE_SIZE)).is_ok());
}

#[test]
fn memory_of_this_process_is_known_by_its_address_or_its_file() {
    // SAFETY: nothing is written by it here.
    let process = unsafe { HostProcess::this() };
    let bytes = vec![0_u8; 4 * PAGE_SIZE as usize];
    let start = (bytes.as_ptr() as u64).next_multiple_of(PAGE_SIZE);
    let runs = process.resolve(start, 2 * PAGE_SIZE, true).unwrap();
    let length: u64 = runs.iter().map(|run| run.length).sum();
    assert_eq!(length, 2 * PAGE_SIZE);
    assert_eq!(
        (runs[0].backing.id(), runs[0].offset),
        (BackingId::Process(ProcessId(0)), start)
    );
    let mut word = [1; 4];
    runs[0].backing.read(runs[0].offset, &mut word).unwrap();
    assert_eq!(word, [0; 4]);
    assert_eq!(
        process.resolve(0x1000, PAGE_SIZE, false).err(),
        Some(Errno::EFAULT)
    );
    assert_eq!(
        process.resolve(u64::MAX - 4095, PAGE_SIZE, false).err(),
        Some(Errno::EFAULT)
    );
    // Code can be read, but not written.
    let code = (memory_of_this_process_is_known_by_its_address_or_its_file as fn()) as usize as u64;
    let code = code & !(PAGE_SIZE - 1);
    assert!(process.resolve(code, PAGE_SIZE, false).is_ok());
    assert_eq!(
        process.resolve(code, PAGE_SIZE, true).err(),
        Some(Errno::EFAULT)
    );
}
