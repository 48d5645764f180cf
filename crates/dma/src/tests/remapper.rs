//! A remapper whose tables are a map, and that counts what it is asked.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock, Weak};

use vm_iommu_spec::{
    Access, AddressType, DmaRequest, DomainId, Fault, FaultReason, Iova, MsiMessage, PhysAddr,
    RequesterId, vtd,
};
use vm_memory::{GuestAddress, GuestMemoryMmap};

use crate::{
    Attributes, DiscardMsi, DmaPort, DmaRemapper, Epochs, GuestRam, Iotlb, IotlbConfig, MsiSink,
    MsiVector, Space, Tag, Translation, Upstream,
};

pub(super) const READ_WRITE: Access = Access::READ.union(Access::WRITE);

/// 64 KiB at 0 and 64 KiB at 1 MiB, with a hole between.
pub(super) fn ram() -> GuestRam {
    let ranges = [
        (GuestAddress(0), 0x10000),
        (GuestAddress(0x10_0000), 0x10000),
    ];
    GuestRam::new(GuestMemoryMmap::from_ranges(&ranges).unwrap())
}

pub(super) struct MapRemapper {
    pages: Mutex<BTreeMap<u64, (PhysAddr, u8, Access)>>,
    iotlb: Arc<Iotlb>,
    pub(super) tag: Arc<Tag>,
    space: Mutex<Arc<Space>>,
    pub(super) binds: AtomicUsize,
    pub(super) walks: AtomicUsize,
    /// Translated requests.
    pub(super) translated: AtomicUsize,
    pub(super) recorded: Mutex<Vec<Fault>>,
    /// Of all pages.
    pub(super) attributes: Mutex<Attributes>,
}

impl MapRemapper {
    pub(super) fn new(config: IotlbConfig) -> Arc<Self> {
        let iotlb = Iotlb::new(config);
        let tag = iotlb.tag();
        Arc::new(Self {
            pages: Mutex::default(),
            space: Mutex::new(Space::new(DomainId(1), Arc::clone(&tag), ())),
            iotlb,
            tag,
            binds: AtomicUsize::new(0),
            walks: AtomicUsize::new(0),
            translated: AtomicUsize::new(0),
            recorded: Mutex::default(),
            attributes: Mutex::default(),
        })
    }

    pub(super) fn map(&self, iova: u64, output: u64, shift: u8, permissions: Access) {
        let page = (PhysAddr(output), shift, permissions);
        self.pages.lock().unwrap().insert(iova, page);
    }

    /// Removes a page, but leaves it cached.
    pub(super) fn unmap(&self, iova: u64) {
        self.pages.lock().unwrap().remove(&iova);
    }

    pub(super) fn invalidate_context(&self) {
        let fresh = Space::new(DomainId(1), Arc::clone(&self.tag), ());
        std::mem::replace(&mut *self.space.lock().unwrap(), fresh).invalidate();
    }

    pub(super) fn port(self: &Arc<Self>, ram: &GuestRam) -> Arc<DmaPort> {
        let port = DmaPort::new(Upstream {
            output: Arc::new(ram.clone()),
            remapper: Some(self.clone()),
            epochs: Arc::new(Epochs::default()),
            msi: Arc::new(DiscardMsi),
        });
        port.set_bus_master(true);
        port
    }

    fn fault(&self, request: &DmaRequest, reason: vtd::FaultReason) -> Fault {
        let fault = request.fault(FaultReason::Vtd(reason));
        if !request.probe {
            self.recorded.lock().unwrap().push(fault);
        }
        fault
    }
}

impl DmaRemapper for MapRemapper {
    fn bind(&self, _request: &DmaRequest) -> Result<Arc<Space>, Fault> {
        self.binds.fetch_add(1, Ordering::Relaxed);
        Ok(Arc::clone(&self.space.lock().unwrap()))
    }

    fn translate(&self, _space: &Space, request: &DmaRequest) -> Result<Translation, Fault> {
        if request.address_type == AddressType::Translated {
            self.translated.fetch_add(1, Ordering::Relaxed);
            return Ok(Translation {
                output: PhysAddr(request.address.align_down(0x1000).0),
                page_shift: 12,
                permissions: READ_WRITE,
                attributes: Attributes::default(),
            });
        }
        self.walks.fetch_add(1, Ordering::Relaxed);
        let pages = self.pages.lock().unwrap();
        let below = pages.range(..=request.address.0).next_back();
        match below {
            Some((start, &(output, page_shift, permissions)))
                if request.address.0 - start < 1 << page_shift =>
            {
                if request.access.writes() && !permissions.writes() {
                    return Err(self.fault(request, vtd::FaultReason::WriteDenied));
                }
                Ok(Translation {
                    output,
                    page_shift,
                    permissions,
                    attributes: *self.attributes.lock().unwrap(),
                })
            }
            _ => Err(self.fault(request, vtd::FaultReason::ReadDenied)),
        }
    }

    fn iotlb(&self) -> &Arc<Iotlb> {
        &self.iotlb
    }
}

/// A sink that remembers the messages it got.
#[derive(Default)]
pub(super) struct RecordMsi(pub(super) Mutex<Vec<(RequesterId, MsiMessage)>>);

impl MsiSink for RecordMsi {
    fn signal(&self, requester: RequesterId, message: MsiMessage) {
        self.0.lock().unwrap().push((requester, message));
    }

    fn vector(&self) -> Box<dyn MsiVector> {
        DiscardMsi.vector()
    }
}

#[test]
fn a_stale_space_is_bound_again_and_a_live_one_is_not() {
    let remapper = MapRemapper::new(IotlbConfig::default());
    remapper.map(0, 0, 12, READ_WRITE);
    let port = remapper.port(&ram());
    let handle = port.handle();
    for _ in 0..3 {
        handle.write(Iova(0), b"x").unwrap();
    }
    assert_eq!(remapper.binds.load(Ordering::Relaxed), 1);
    remapper.invalidate_context();
    port.upstream().epochs.drain().wait();
    handle.write(Iova(0), b"x").unwrap();
    assert_eq!(remapper.binds.load(Ordering::Relaxed), 2);
}

#[test]
fn a_renumbered_requester_is_bound_again() {
    let remapper = MapRemapper::new(IotlbConfig::default());
    remapper.map(0, 0, 12, READ_WRITE);
    let port = remapper.port(&ram());
    let handle = port.handle();
    handle.write(Iova(0), b"x").unwrap();
    port.set_requester(RequesterId::from_source_id(0, 0x100));
    handle.write(Iova(0), b"x").unwrap();
    assert_eq!(remapper.binds.load(Ordering::Relaxed), 2);
}

/// A remapper whose first walk is overtaken by a renumbering of the bus.
struct Overtaken {
    inner: Arc<MapRemapper>,
    port: OnceLock<Weak<DmaPort>>,
    bound: Mutex<Vec<RequesterId>>,
}

impl DmaRemapper for Overtaken {
    fn bind(&self, request: &DmaRequest) -> Result<Arc<Space>, Fault> {
        self.bound.lock().unwrap().push(request.requester);
        self.inner.bind(request)
    }

    fn translate(&self, space: &Space, request: &DmaRequest) -> Result<Translation, Fault> {
        let port = self.port.get().and_then(Weak::upgrade).unwrap();
        port.set_requester(RequesterId::from_source_id(0, 0x200));
        self.inner.translate(space, request)
    }

    fn iotlb(&self) -> &Arc<Iotlb> {
        self.inner.iotlb()
    }
}

#[test]
fn a_transfer_that_a_renumbering_overtakes_goes_on_under_the_new_requester() {
    let inner = MapRemapper::new(IotlbConfig::default());
    inner.map(0, 0, 12, READ_WRITE);
    inner.map(0x1000, 0x1000, 12, READ_WRITE);
    let remapper = Arc::new(Overtaken {
        port: OnceLock::new(),
        bound: Mutex::default(),
        inner: inner.clone(),
    });
    let port = DmaPort::new(Upstream {
        remapper: Some(remapper.clone()),
        ..inner.port(&ram()).upstream().clone()
    });
    remapper.port.set(Arc::downgrade(&port)).unwrap();
    port.set_requester(RequesterId::from_source_id(0, 0x100));
    port.set_bus_master(true);
    port.handle().read(Iova(0xff8), &mut [0; 16]).unwrap();
    let asked = [0x100, 0x200].map(|id| RequesterId::from_source_id(0, id));
    assert_eq!(*remapper.bound.lock().unwrap(), asked);
}
