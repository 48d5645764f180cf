//! Tables and address spaces as the framework's objects would have them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, Weak};

use vm_iommu_driver::iommu::{Domain, Iommu, PagingOptions, ReservedRegion};
use vm_iommu_spec::{Pasid, RequesterId};
use vm_iommufd::ownership::{AddressSpace, ContextId, OwnershipError, SpaceId, Table};

/// Gives the domain of a new automatic table its label.
pub type Labeller = Box<dyn Fn(&Arc<dyn Domain>) -> u64 + Send + Sync>;

pub struct TestSpace {
    pub id: SpaceId,
    pub context: ContextId,
    /// Devices whose regions meet what is mapped.
    pub conflicts: BTreeSet<RequesterId>,
    pub reserved: Mutex<Vec<RequesterId>>,
    automatic: Mutex<Vec<Weak<TestTable>>>,
    labeller: Labeller,
    this: Weak<TestSpace>,
}

impl std::fmt::Debug for TestSpace {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:?}", self.id)
    }
}

impl TestSpace {
    pub fn new(
        id: u64,
        context: ContextId,
        conflicts: &[RequesterId],
        labeller: Labeller,
    ) -> Arc<Self> {
        Arc::new_cyclic(|this| Self {
            id: SpaceId(id),
            context,
            conflicts: conflicts.iter().copied().collect(),
            reserved: Mutex::default(),
            automatic: Mutex::default(),
            labeller,
            this: Weak::clone(this),
        })
    }

    pub fn table(self: &Arc<Self>, domain: Arc<dyn Domain>, label: u64) -> TestTable {
        TestTable {
            space: Arc::clone(self),
            domain,
            label,
            for_pasids: false,
            fault_queue: false,
            uses: Mutex::default(),
            cancelled: Mutex::default(),
        }
    }

    /// The automatic tables that have users.
    pub fn automatic(&self) -> Vec<Arc<TestTable>> {
        let automatic = self.automatic.lock().unwrap();
        let tables = automatic.iter().filter_map(Weak::upgrade);
        tables.filter(|table| table.users() != 0).collect()
    }
}

#[derive(Debug)]
pub struct TestTable {
    pub space: Arc<TestSpace>,
    pub domain: Arc<dyn Domain>,
    /// What a device reads where the label is mapped.
    pub label: u64,
    pub for_pasids: bool,
    pub fault_queue: bool,
    pub uses: Mutex<BTreeMap<(RequesterId, Option<Pasid>), usize>>,
    /// Whose page requests were answered because they left the table.
    pub cancelled: Mutex<Vec<(RequesterId, Option<Pasid>)>>,
}

impl TestTable {
    pub fn users(&self) -> usize {
        self.uses.lock().unwrap().values().sum()
    }
}

impl Table for TestTable {
    fn context(&self) -> ContextId {
        self.space.context
    }

    fn domain(&self) -> Arc<dyn Domain> {
        Arc::clone(&self.domain)
    }

    fn space(&self) -> SpaceId {
        self.space.id
    }

    fn for_pasids(&self) -> bool {
        self.for_pasids
    }

    fn has_fault_queue(&self) -> bool {
        self.fault_queue
    }

    fn begin_use(&self, device: RequesterId, pasid: Option<Pasid>) {
        let mut uses = self.uses.lock().unwrap();
        *uses.entry((device, pasid)).or_default() += 1;
    }

    fn end_use(&self, device: RequesterId, pasid: Option<Pasid>) {
        let mut uses = self.uses.lock().unwrap();
        let count = uses.get_mut(&(device, pasid)).expect("a use that began");
        *count -= 1;
        if *count == 0 {
            uses.remove(&(device, pasid));
        }
    }

    fn reserve(
        &self,
        device: RequesterId,
        _regions: &[ReservedRegion],
    ) -> Result<(), OwnershipError> {
        if self.space.conflicts.contains(&device) {
            return Err(OwnershipError::AddressInUse);
        }
        self.space.reserved.lock().unwrap().push(device);
        Ok(())
    }

    fn unreserve(&self, device: RequesterId) {
        let mut reserved = self.space.reserved.lock().unwrap();
        let place = reserved.iter().position(|other| *other == device);
        reserved.remove(place.expect("what was reserved"));
    }

    fn cancel_page_requests(&self, device: RequesterId, pasid: Option<Pasid>) {
        self.cancelled.lock().unwrap().push((device, pasid));
    }
}

impl AddressSpace for TestSpace {
    fn context(&self) -> ContextId {
        self.context
    }

    fn automatic_tables(&self) -> Vec<Arc<dyn Table>> {
        let tables = self.automatic().into_iter();
        tables.map(|table| table as Arc<dyn Table>).collect()
    }

    fn create_automatic_table(
        &self,
        unit: &Arc<dyn Iommu>,
        device: RequesterId,
    ) -> Result<Arc<dyn Table>, OwnershipError> {
        let domain = unit.paging_domain(device, PagingOptions::default(), None)?;
        let this = self.this.upgrade().expect("this space");
        let label = (self.labeller)(&domain);
        if label == 0 {
            return Err(OwnershipError::NoMemory);
        }
        let table = Arc::new(this.table(domain, label));
        let mut automatic = self.automatic.lock().unwrap();
        automatic.retain(|table| table.strong_count() != 0);
        automatic.push(Arc::downgrade(&table));
        Ok(table)
    }
}
