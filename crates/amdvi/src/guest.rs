//! Guest CR3 tables (section 2.2.6.3): from a PASID to the guest tables of an address space.

use vm_iommu_pagetable::{AmdV1, TableMemory, Walker};
use vm_iommu_spec::amd::{FaultReason as Reason, GuestCr3Entry, GuestTables};
use vm_iommu_spec::{Access, Iova, Pasid, PhysAddr};

use crate::event::Refusal;
use crate::explain::WalkStep;
use crate::unit::AmdVi;

impl AmdVi {
    /// The topmost guest table of `pasid`. With host tables, the addresses in guest CR3 tables are
    /// guest physical, and that of the topmost one is if `root_is_guest` (GCR3TRPMode) says so.
    pub(crate) fn guest_root(
        &self,
        guest: &GuestTables,
        host: Option<&(AmdV1, PhysAddr)>,
        root_is_guest: bool,
        pasid: Pasid,
        steps: &mut Vec<WalkStep>,
    ) -> Result<PhysAddr, Refusal> {
        let width = GuestCr3Entry::pasid_width(guest.cr3_levels).min(self.config.pasid_bits);
        if pasid.raw() >> width != 0 {
            return Err(Reason::PasidBeyondTable.into());
        }
        let mut table = guest.cr3_table;
        for level in (1..=guest.cr3_levels).rev() {
            let topmost = level == guest.cr3_levels;
            let offset = GuestCr3Entry::offset(pasid.raw(), level);
            let address = table.checked_add(offset).ok_or(Reason::TableAccess)?;
            let place = match host {
                Some((format, root)) if !topmost || root_is_guest => {
                    self.host_address(format, *root, address)?
                }
                _ => address,
            };
            let loaded = self.ram.load(place);
            let word = loaded.map_err(|_| Refusal::from(Reason::TableAccess).at(Some(place)))?;
            steps.push(WalkStep::of_guest_cr3(level, place, word));
            table = GuestCr3Entry::from_bits(word).check(level)?;
        }
        Ok(table)
    }

    /// Where host tables have a guest physical address that is to be read.
    fn host_address(
        &self,
        format: &AmdV1,
        root: PhysAddr,
        address: PhysAddr,
    ) -> Result<PhysAddr, Refusal> {
        let address = Iova(address.0);
        let outcome = self
            .ram
            .tables(|tables| format.translate(tables, root, address, Access::READ));
        match outcome {
            Ok(page) => Ok(page.output),
            Err(fault) => Err(Refusal::of_walk(&fault, false).for_guest_physical(address)),
        }
    }
}
