//! A unit as `vm-memory` knows one, for VMMs that already use its `IommuMemory`.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use vm_iommu_spec::{Access, Iova, Pasid};
use vm_memory::iommu::{Error, Iommu, Iotlb, IotlbIterator, IovaRange};
use vm_memory::{GuestAddress, Permissions};

use crate::{Acknowledgement, DmaPort, Mapping, MappingObserver, Observation};

/// The most mappings that are kept; one more, and all are forgotten.
const KEPT: usize = 1024;

/// What a port's function may reach, as a [`vm_memory::Iommu`](Iommu): give it to an
/// `IommuMemory` whose backend is the guest memory behind the port.
///
/// **It gives no drain.** `IommuMemory` translates, and then accesses what it found for as long as
/// it likes; nobody can tell when it stopped. When the unit reports an invalidation complete, later
/// translations are the new ones, but an access or a slice that was translated before may still
/// use a page that the guest took back. A guest that relies on the invalidation (every kernel in
/// strict mode) is not protected from such a device. Devices that take a
/// [`DmaHandle`](crate::DmaHandle) or a [`DmaSession`](crate::DmaSession) have no such window.
///
/// Other limits: host memory that is replaced is not awaited either, and `IommuMemory` keeps the
/// memory that it was made with; doublewords to the interrupt range are refused, not delivered;
/// writes are logged by `IommuMemory`'s own means. A translation allocates.
#[derive(Debug)]
pub struct PortIommu {
    observation: Arc<Observation>,
    mappings: Arc<Mappings>,
}

impl PortIommu {
    /// The function's requests, those with `pasid` if there is one.
    pub fn new(port: &Arc<DmaPort>, pasid: Option<Pasid>) -> Self {
        let mappings = Arc::<Mappings>::default();
        Self {
            observation: Observation::new(port, pasid, mappings.clone()),
            mappings,
        }
    }

    /// A mapping that holds `address` and allows `access`, from those kept or the unit.
    fn mapping(&self, address: Iova, access: Access) -> Result<Mapping, vm_iommu_spec::Fault> {
        match self.mappings.find(address) {
            Some(mapping) if mapping.permissions.contains(access) => Ok(mapping),
            _ => self.observation.request(address.align_down(0x1000), access),
        }
    }
}

impl Iommu for PortIommu {
    type IotlbGuard<'a> = Box<Iotlb>;

    fn translate(
        &self,
        iova: GuestAddress,
        length: usize,
        access: Permissions,
    ) -> Result<IotlbIterator<Box<Iotlb>>, Error> {
        let refused = |reason: String| Error::CannotResolve {
            iova_range: IovaRange { base: iova, length },
            reason,
        };
        let end = iova
            .0
            .checked_add(length as u64)
            .ok_or_else(|| refused("the range leaves the address space".into()))?;
        let wanted = access_of(access);
        // Of this translation alone: what was handed out cannot be invalidated, and must not hold
        // a lock that an invalidation takes.
        let mut found = Box::new(Iotlb::new());
        let mut at = iova.0;
        while at < end {
            let mapping = self
                .mapping(Iova(at), wanted)
                .map_err(|fault| refused(fault.to_string()))?;
            let skipped = at - mapping.first.0;
            let len = (mapping.memory.len - skipped).min(end - at);
            let target = GuestAddress(mapping.memory.start.0 + skipped);
            found.set_mapping(GuestAddress(at), target, len as usize, access)?;
            at += len;
        }
        Iotlb::lookup(found, iova, length, access)
            .map_err(|_| refused("the translation is incomplete".into()))
    }
}

fn access_of(permissions: Permissions) -> Access {
    match permissions {
        Permissions::No => Access::empty(),
        Permissions::Read => Access::READ,
        Permissions::Write => Access::WRITE,
        Permissions::ReadWrite => Access::READ | Access::WRITE,
    }
}

/// Mappings that do not overlap, by their first address.
#[derive(Debug, Default)]
struct Mappings(Mutex<BTreeMap<Iova, Mapping>>);

impl Mappings {
    fn find(&self, address: Iova) -> Option<Mapping> {
        let kept = self.kept();
        let (_, mapping) = kept.range(..=address).next_back()?;
        mapping.range().contains(&address).then_some(*mapping)
    }

    fn kept(&self) -> MutexGuard<'_, BTreeMap<Iova, Mapping>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl MappingObserver for Mappings {
    fn mapped(&self, mapping: &Mapping) {
        let mut kept = self.kept();
        remove(&mut kept, &mapping.range());
        if kept.len() >= KEPT {
            kept.clear();
        }
        kept.insert(mapping.first, *mapping);
    }

    fn unmapped(&self, range: RangeInclusive<Iova>, done: Acknowledgement) {
        remove(&mut self.kept(), &range);
        drop(done);
    }
}

/// Removes whatever overlaps `range`.
fn remove(kept: &mut BTreeMap<Iova, Mapping>, range: &RangeInclusive<Iova>) {
    while let Some((first, mapping)) = kept.range(..=range.end()).next_back()
        && mapping.range().end() >= range.start()
    {
        let first = *first;
        kept.remove(&first);
    }
}
