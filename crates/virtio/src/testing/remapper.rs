//! Stand-ins for a unit and for an interrupt controller.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use vm_iommu_dma::{DmaRemapper, Iotlb, IotlbConfig, MsiSink, MsiVector, Space, Translation};
use vm_iommu_spec::{
    Access, DmaRequest, DomainId, Fault, FaultReason, Iova, MsiMessage, PhysAddr, RequesterId, vtd,
};

/// A remapper whose pages all lie at a fixed distance from their output, and can be taken away.
pub struct PageMap {
    iotlb: Arc<Iotlb>,
    space: Arc<Space>,
    /// What each 4 KiB page allows, by its address.
    pages: Mutex<BTreeMap<u64, Access>>,
    faults: Mutex<Vec<Fault>>,
}

impl PageMap {
    /// The distance from a physical address to the input address of its page.
    pub const OFFSET: u64 = 0x4000_0000;

    /// Maps the first `len` bytes of memory.
    pub fn new(len: u64) -> Arc<Self> {
        // No cache, so that what a test changes holds at once.
        let iotlb = Iotlb::new(IotlbConfig { sets: 0 });
        let all = Access::READ | Access::WRITE;
        let pages = (0..len / 0x1000).map(|page| (Self::OFFSET + page * 0x1000, all));
        Arc::new(Self {
            space: Space::new(DomainId(1), iotlb.tag(), ()),
            iotlb,
            pages: Mutex::new(pages.collect()),
            faults: Mutex::default(),
        })
    }

    /// Sets what the page at `address` allows.
    pub fn allow(&self, address: u64, access: Access) {
        self.pages.lock().unwrap().insert(address & !0xfff, access);
    }

    /// The faults so far.
    pub fn take_faults(&self) -> Vec<Fault> {
        std::mem::take(&mut self.faults.lock().unwrap())
    }
}

impl DmaRemapper for PageMap {
    fn bind(&self, _request: &DmaRequest) -> Result<Arc<Space>, Fault> {
        Ok(Arc::clone(&self.space))
    }

    fn translate(&self, _space: &Space, request: &DmaRequest) -> Result<Translation, Fault> {
        let page = request.address.0 & !0xfff;
        let pages = self.pages.lock().unwrap();
        let permissions = pages.get(&page).copied().unwrap_or(Access::empty());
        if permissions.contains(request.access) {
            return Ok(Translation {
                output: PhysAddr(page - Self::OFFSET),
                page_shift: 12,
                permissions,
                attributes: Default::default(),
            });
        }
        let reason = if request.access.writes() {
            vtd::FaultReason::WriteDenied
        } else {
            vtd::FaultReason::ReadDenied
        };
        let fault = request.fault(FaultReason::Vtd(reason));
        if !request.probe {
            self.faults.lock().unwrap().push(fault);
        }
        Err(fault)
    }

    fn iotlb(&self) -> &Arc<Iotlb> {
        &self.iotlb
    }
}

/// A sink that remembers what arrived.
#[derive(Clone, Debug, Default)]
pub struct RecordMsi(Arc<Mutex<Vec<(RequesterId, MsiMessage)>>>);

impl RecordMsi {
    /// What arrived since the last call.
    #[must_use]
    pub fn take(&self) -> Vec<(RequesterId, MsiMessage)> {
        std::mem::take(&mut self.0.lock().unwrap())
    }
}

impl MsiSink for RecordMsi {
    fn signal(&self, requester: RequesterId, message: MsiMessage) {
        self.0.lock().unwrap().push((requester, message));
    }

    fn vector(&self) -> Box<dyn MsiVector> {
        Box::new(RecordVector {
            sink: self.clone(),
            message: Mutex::default(),
        })
    }
}

struct RecordVector {
    sink: RecordMsi,
    message: Mutex<Option<(RequesterId, MsiMessage)>>,
}

impl MsiVector for RecordVector {
    fn configure(&self, message: Option<(RequesterId, MsiMessage)>) {
        *self.message.lock().unwrap() = message;
    }

    fn signal(&self) {
        if let Some((requester, message)) = *self.message.lock().unwrap() {
            self.sink.signal(requester, message);
        }
    }
}

/// The address as a test's remapper sees it.
pub(super) fn input(address: u64, translated: bool) -> Iova {
    Iova(if translated {
        address + PageMap::OFFSET
    } else {
        address
    })
}
