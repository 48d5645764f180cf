//! The router, with a remapper whose answers the test sets.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, Weak};

use vm_iommu_dma::{InterruptRemapper, MsiSink, RouteSink};
use vm_iommu_spec::{
    Access, AddressType, DmaRequest, Fault, FaultReason, Interrupt, Iova, MsiMessage, RequesterId,
};

use crate::config::MemorySize;
use crate::interrupt::{LocalApics, Messages, MsiRouter};
use crate::kvm::{KvmError, Vm};

const FUNCTION: RequesterId = RequesterId::from_devfn(0, 0, 8);
const MESSAGE: MsiMessage = MsiMessage {
    address: 0xfee0_0010,
    data: 0,
};

/// Answers everything with `answer`, and counts what would have been recorded.
#[derive(Default)]
struct Remapper {
    answer: Mutex<Option<Interrupt>>,
    recorded: AtomicU64,
    watcher: Mutex<Option<Weak<dyn RouteSink>>>,
}

impl Remapper {
    /// Changes the answer, as an invalidation of the guest's would.
    fn set(&self, answer: Option<Interrupt>) {
        *self.answer.lock().unwrap() = answer;
        let watcher = self.watcher.lock().unwrap().clone();
        watcher.unwrap().upgrade().unwrap().refresh();
    }
}

impl InterruptRemapper for Remapper {
    fn remap(&self, requester: RequesterId, message: MsiMessage) -> Result<Interrupt, Fault> {
        let outcome = self.resolve(requester, message);
        if outcome.is_err() {
            self.recorded.fetch_add(1, Ordering::Relaxed);
        }
        outcome
    }

    fn resolve(&self, requester: RequesterId, message: MsiMessage) -> Result<Interrupt, Fault> {
        self.answer.lock().unwrap().ok_or_else(|| {
            DmaRequest {
                requester,
                pasid: None,
                address: Iova(message.address),
                access: Access::WRITE,
                address_type: AddressType::Untranslated,
                probe: false,
            }
            .fault(FaultReason::Stopped)
        })
    }

    fn watch(&self, sink: Weak<dyn RouteSink>) {
        *self.watcher.lock().unwrap() = Some(sink);
    }
}

/// A router over a machine; `None`, said on standard error, where there is no KVM.
fn router() -> Option<Arc<MsiRouter>> {
    let vm = match Vm::new(MemorySize::MIN) {
        Ok(vm) => Arc::new(vm),
        Err(error @ (KvmError::NoDevice | KvmError::NoPermission | KvmError::Open(_))) => {
            eprintln!("skipped: {error}");
            return None;
        }
        Err(error) => panic!("{error}"),
    };
    let apics = LocalApics::new(Arc::clone(&vm));
    Some(MsiRouter::new(vm, apics).unwrap())
}

fn remapped() -> Option<(Arc<MsiRouter>, Arc<Remapper>)> {
    let router = router()?;
    let remapper = Arc::new(Remapper::default());
    router.set_remappers(vec![Arc::clone(&remapper) as _]);
    Some((router, remapper))
}

fn interrupt(destination: u32, vector: u8) -> Interrupt {
    Interrupt {
        destination,
        vector,
        ..Interrupt::default()
    }
}

#[test]
fn without_a_unit_a_vector_has_a_route_while_it_is_configured() {
    let Some(router) = router() else { return };
    let vector = Messages::remapped(Arc::clone(&router), 0).vector();
    vector.signal();
    assert_eq!(router.counters().routes, 0);
    vector.configure(Some((FUNCTION, MESSAGE)));
    assert_eq!(router.counters().routes, 1);
    vector.signal();
    vector.configure(None);
    assert_eq!(router.counters().routes, 0);
    vector.signal();
    let counters = router.counters();
    assert_eq!((counters.routed, counters.delivered), (1, 0));
}

#[test]
fn what_does_not_resolve_is_remapped_and_recorded_at_each_event() {
    let Some((router, remapper)) = remapped() else {
        return;
    };
    let vector = Messages::remapped(Arc::clone(&router), 0).vector();
    vector.configure(Some((FUNCTION, MESSAGE)));
    assert_eq!(remapper.recorded.load(Ordering::Relaxed), 0);
    vector.signal();
    vector.signal();
    assert_eq!(remapper.recorded.load(Ordering::Relaxed), 2);
    assert_eq!(router.counters().routes, 0);
    assert_eq!(router.counters().refused, 2);

    remapper.set(Some(interrupt(0, 0x40)));
    assert_eq!(router.counters().routes, 1);
    vector.signal();
    assert_eq!(router.counters().routed, 1);
    assert_eq!(remapper.recorded.load(Ordering::Relaxed), 2);

    remapper.set(None);
    vector.signal();
    let counters = router.counters();
    assert_eq!((counters.routes, counters.routed), (0, 1));
    assert_eq!(remapper.recorded.load(Ordering::Relaxed), 3);
}

#[test]
fn an_invalidation_sets_all_routes_in_one_call_and_none_if_nothing_changed() {
    let Some((router, remapper)) = remapped() else {
        return;
    };
    let sink = Messages::remapped(Arc::clone(&router), 0);
    let vectors: Vec<_> = (0..16).map(|_| sink.vector()).collect();
    for vector in &vectors {
        vector.configure(Some((FUNCTION, MESSAGE)));
    }
    let before = router.counters().route_updates;
    remapper.set(Some(interrupt(0x1234, 0x41)));
    assert_eq!(router.counters().route_updates, before + 1);
    assert_eq!(router.counters().routes, 16);
    remapper.set(Some(interrupt(0x1234, 0x41)));
    assert_eq!(router.counters().route_updates, before + 1);
}

#[test]
fn a_dropped_vector_gives_its_route_and_its_gsi_back() {
    let Some(router) = router() else { return };
    let sink = Messages::remapped(Arc::clone(&router), 0);
    for _ in 0..50 {
        let vector = sink.vector();
        vector.configure(Some((FUNCTION, MESSAGE)));
        assert_eq!(router.counters().routes, 1);
        // The first GSI past the I/O APIC's pins is free again.
        assert_eq!(router.table().highest(), Some(24));
    }
    assert_eq!(router.counters().routes, 0);
}

#[test]
fn functions_beside_the_unit_are_not_remapped() {
    let Some((router, remapper)) = remapped() else {
        return;
    };
    let sink = Messages::direct(Arc::clone(&router));
    let vector = sink.vector();
    vector.configure(Some((FUNCTION, MESSAGE)));
    vector.signal();
    sink.signal(FUNCTION, MESSAGE);
    let counters = router.counters();
    assert_eq!((counters.routed, counters.delivered), (1, 1));
    assert_eq!((counters.refused, counters.routes), (0, 1));
    assert_eq!(remapper.recorded.load(Ordering::Relaxed), 0);
}

#[test]
fn vectors_that_race_with_invalidations_lose_no_interrupt() {
    const SIGNALS: u64 = 2000;
    let Some((router, remapper)) = remapped() else {
        return;
    };
    let vector = Messages::remapped(Arc::clone(&router), 0).vector();
    vector.configure(Some((FUNCTION, MESSAGE)));
    std::thread::scope(|scope| {
        scope.spawn(|| (0..SIGNALS).for_each(|_| vector.signal()));
        for turn in 0..200_u8 {
            remapper.set((turn % 3 != 0).then(|| interrupt(turn.into(), turn | 0x20)));
        }
    });
    let counters = router.counters();
    // Each was routed, delivered by hand, or refused.
    assert_eq!(
        counters.routed + counters.delivered + counters.refused,
        SIGNALS
    );
}
