//! Page requests and events.

use super::*;
use vm_iommufd::Readiness;

/// A device on a table with a fault queue, the number of the queue and its file.
fn with_queue(bench: &Bench) -> (u32, u32, u32, i32) {
    let ioas = bench.ioas();
    let (device, _, bound) = bench.device(ioas, 0).unwrap();
    let mut queue = uapi::iommu_fault_alloc {
        size: 16,
        ..Default::default()
    };
    bench
        .call(calls::IOMMU_FAULT_QUEUE_ALLOC, &mut queue)
        .unwrap();
    let mut command = uapi::iommu_hwpt_alloc {
        size: 48,
        flags: 4,
        dev_id: bound,
        pt_id: ioas,
        fault_id: queue.out_fault_id,
        ..Default::default()
    };
    bench.call(calls::IOMMU_HWPT_ALLOC, &mut command).unwrap();
    let mut replace = test(Operation::MockDomainReplace, device);
    replace.set_word(0, command.out_hwpt_id);
    bench.test(&mut replace).unwrap();
    (device, bound, queue.out_fault_id, queue.out_fault_fd as i32)
}

fn request(bench: &Bench, bound: u32) {
    let mut command = test(Operation::TriggerIopf, 0);
    command.set_word(0, bound);
    command.set_word(8, 2);
    command.set_word(12, 3);
    command.set_long(16, 0xdead_b000);
    bench.test(&mut command).unwrap();
}

#[test]
fn page_requests_are_read_and_answered_once() {
    let bench = Bench::new();
    let (_, bound, _, fd) = with_queue(&bench);
    let file = bench.program.context_file(fd).unwrap();
    let read = |length| file.read(&bench.program, MEMORY, length);
    let write = |length| file.write(&bench.program, MEMORY, length);
    assert_eq!(
        file.readiness(),
        Readiness {
            readable: false,
            writable: true
        }
    );
    assert_eq!(read(39), Err(Errno::ESPIPE));
    assert_eq!(read(40), Ok(0));
    request(&bench, bound);
    request(&bench, bound);
    assert!(file.readiness().readable);
    assert_eq!(read(0), Err(Errno::EINVAL), "not even one fits");
    assert_eq!(file.read(&bench.program, 8, 40), Err(Errno::EFAULT));
    assert_eq!(read(40), Ok(40), "a read that failed lost nothing");
    let mut bytes = [0; 40];
    bench.program.peek(MEMORY, &mut bytes).unwrap();
    let fault = uapi::iommu_hwpt_pgfault::from_bytes(&bytes);
    assert_eq!((fault.flags, fault.dev_id, fault.pasid), (2, bound, 0));
    assert_eq!((fault.grpid, fault.perm, fault.addr), (2, 3, 0xdead_b000));
    assert_eq!(read(400), Ok(40));
    let answer = |cookie, code| {
        let answer = uapi::iommu_hwpt_page_response { cookie, code };
        bench.program.poke(MEMORY, &answer.to_bytes()).unwrap();
        write(8)
    };
    assert_eq!(write(7), Err(Errno::ESPIPE));
    assert_eq!(answer(fault.cookie, 2), Err(Errno::EINVAL));
    assert_eq!(answer(0, 0), Err(Errno::EINVAL));
    assert_eq!(answer(fault.cookie, 0), Ok(8));
    assert_eq!(answer(fault.cookie, 0), Err(Errno::EINVAL));
}

#[test]
fn page_requests_are_answered_when_their_table_goes() {
    let bench = Bench::new();
    let (device, bound, queue, fd) = with_queue(&bench);
    let answers = Arc::new(std::sync::Mutex::new(Vec::new()));
    let requester = vm_iommu_spec::RequesterId::from_raw(0);
    let ask = || {
        let answers = Arc::clone(&answers);
        let page = vm_iommufd::PageRequest {
            address: 0x1000,
            permissions: 1,
            group: 0,
            pasid: None,
            last: true,
        };
        let respond = Box::new(move |answer| answers.lock().unwrap().push(answer));
        bench
            .context
            .report_page_requests(requester, vec![page], respond);
    };
    let file = bench.program.context_file(fd).unwrap();
    ask();
    assert_eq!(file.read(&bench.program, MEMORY, 40), Ok(40));
    ask();
    assert!(answers.lock().unwrap().is_empty());
    // One was read and one was not: both are answered.
    let other = bench.ioas();
    let mut replace = test(Operation::MockDomainReplace, device);
    replace.set_word(0, other);
    bench.test(&mut replace).unwrap();
    assert_eq!(
        *answers.lock().unwrap(),
        [vm_iommufd::PageResponse::Invalid; 2]
    );
    assert!(!file.readiness().readable);
    // Nobody takes requests any more.
    ask();
    assert_eq!(answers.lock().unwrap().len(), 3);
    let _ = bound;
    assert_eq!(
        bench.destroy(queue),
        Err(Errno::EBUSY),
        "its table is there"
    );
}

#[test]
fn a_context_lives_as_long_as_its_files() {
    let bench = Bench::new();
    let ioas = bench.ioas();
    let iova = bench.map(ioas, MEMORY, PAGE, None).unwrap();
    let access = bench.access(ioas, true).unwrap();
    bench.pin(access, iova, PAGE).unwrap();
    let Bench {
        system,
        context,
        program,
    } = bench;
    let pinned = || system.pins(program.id()).pinned_pages;
    let user: std::sync::Weak<Nobody> = std::sync::Weak::new();
    let held = context.access(ioas, true, user).unwrap();
    drop(context);
    program.close(access as i32);
    assert_eq!(pinned(), 0);
    assert_eq!(held.pin(iova, PAGE, false).map(|pages| pages.len()), Ok(1));
    assert_eq!(pinned(), 1);
    drop(held);
    assert_eq!(pinned(), 0);
}

struct Nobody;

impl vm_iommufd::AccessUser for Nobody {
    fn unmap(&self, _: u64, _: u64) {}
}
