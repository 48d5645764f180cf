//! DMA remapping: from a request to a page (chapter 3, legacy mode).

use std::sync::Arc;

use vm_iommu_dma::{DmaRemapper, Iotlb, Space, Translation};
use vm_iommu_pagetable::{
    Levels, Reason, SecondStage, Translation as Page, Walk, WalkFault, Walker,
};
use vm_iommu_spec::vtd::registers::TableMode;
use vm_iommu_spec::vtd::{self, Context, TranslationType};
use vm_iommu_spec::{
    Access, AddressType, DmaRequest, DomainId, Fault, FaultReason, Iova, MSI_WINDOW, PhysAddr,
};

use crate::context::{ContextLookup, Owner};
use crate::explain::WalkStep;
use crate::unit::Vtd;

/// What a space's requests get.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Binding {
    /// Translation is disabled.
    Bypass,
    /// What the context entry says.
    Context(Context),
}

/// The page that untranslated addresses are answered with, a power of two in bytes.
const IDENTITY_SHIFT: u8 = 30;

impl DmaRemapper for Vtd {
    fn bind(&self, request: &DmaRequest) -> Result<Arc<Space>, Fault> {
        // Before the snapshot is read: a change after that voids the token.
        let token = self.contexts.token();
        let snapshot = self.snapshot();
        let owner = if snapshot.translates() {
            Owner::Source(request.requester.source_id())
        } else {
            Owner::Bypass
        };
        if snapshot.translates() {
            let reason = match (snapshot.root.mode(), request.pasid) {
                (TableMode::Legacy, None) => None,
                (TableMode::Legacy, Some(_)) => Some(vtd::FaultReason::PasidInLegacyMode),
                _ => Some(vtd::FaultReason::RootTableAddressInvalid),
            };
            if let Some(reason) = reason {
                return Err(self.refuse(request, reason, false, Vec::new()));
            }
        } else if request.pasid.is_some() {
            return Err(request.fault(FaultReason::NotMemory));
        }
        if let Some(space) = self.contexts.find(owner) {
            return Ok(space);
        }
        let (domain, pass_through, binding) = match owner {
            Owner::Bypass => (None, false, Binding::Bypass),
            Owner::Source(source) => {
                let lookup =
                    ContextLookup::new(&self.ram, snapshot.root, source, &self.table_rules);
                let context = lookup.outcome.map_err(|reason| {
                    let suppressed = lookup.fault_processing_disable();
                    self.refuse(request, reason, suppressed, WalkStep::of_lookup(&lookup))
                })?;
                let pass_through = context.translation_type == TranslationType::PassThrough;
                (
                    Some(context.domain),
                    pass_through,
                    Binding::Context(context),
                )
            }
        };
        let tag = self.contexts.tag(domain, pass_through, &self.iotlb);
        let space = Space::new(domain.unwrap_or(DomainId(0)), tag, binding);
        self.contexts.insert(token, owner, &space);
        Ok(space)
    }

    fn translate(&self, space: &Space, request: &DmaRequest) -> Result<Translation, Fault> {
        match space.context::<Binding>() {
            None => Err(request.fault(FaultReason::NotMemory)),
            // Requests of device-TLBs are not supported while translation is disabled.
            Some(Binding::Bypass) if request.address_type != AddressType::Untranslated => {
                Err(request.fault(FaultReason::NotMemory))
            }
            Some(Binding::Bypass) => Ok(identity(request.address)),
            Some(Binding::Context(context)) => {
                self.translate_in(space, context, request)
                    .map_err(|refusal| {
                        let Some(reason) = refusal.reason else {
                            return request.fault(FaultReason::Contended);
                        };
                        let suppressed = context.fault_processing_disable;
                        self.refuse(
                            request,
                            reason,
                            suppressed,
                            WalkStep::of_walk(&refusal.visited),
                        )
                    })
            }
        }
    }

    fn iotlb(&self) -> &Arc<Iotlb> {
        &self.iotlb
    }
}

/// Why a translation was refused: a reason to record, or contention if there is none.
pub(crate) struct Refusal {
    pub(crate) reason: Option<vtd::FaultReason>,
    pub(crate) visited: vm_iommu_pagetable::Visited,
}

impl From<vtd::FaultReason> for Refusal {
    fn from(reason: vtd::FaultReason) -> Self {
        Self {
            reason: Some(reason),
            visited: Default::default(),
        }
    }
}

impl Vtd {
    fn translate_in(
        &self,
        space: &Space,
        context: &Context,
        request: &DmaRequest,
    ) -> Result<Translation, Refusal> {
        let untranslated = request.address_type == AddressType::Untranslated;
        if !untranslated && context.translation_type != TranslationType::DeviceTlb {
            return Err(vtd::FaultReason::TranslationTypeBlocked.into());
        }
        if context.translation_type == TranslationType::PassThrough {
            let width = self.config.mgaw().min(self.widest_tables);
            if request.address.0.checked_shr(u32::from(width)).unwrap_or(0) != 0 {
                return Err(vtd::FaultReason::AddressBeyondMgaw.into());
            }
            return Ok(identity(request.address));
        }
        if request.address_type == AddressType::Translated {
            return Ok(identity(request.address));
        }
        let page = self.walk_cached(space, context, request)?;
        Ok(Translation {
            output: page.page(),
            page_shift: page.page_shift,
            permissions: page.cacheable,
            attributes: page.attributes,
        })
    }

    /// Walks the tables of `context` for `request` from where the paging-structure cache knows
    /// the way (section 6.2.4), with all checks of an untranslated request.
    fn walk_cached(
        &self,
        space: &Space,
        context: &Context,
        request: &DmaRequest,
    ) -> Result<Page, Refusal> {
        let format = self.format_for(context, request)?;
        let (root, address) = (context.tables, request.address);
        let page = self
            .walk_cache
            .translate(&self.ram, space, format, root, address, request.access)
            .map_err(|fault| Refusal {
                reason: reason_of(&fault, context.levels, request.access),
                visited: fault.visited,
            })?;
        if MSI_WINDOW.contains(&Iova(page.output.0)) {
            let reason = vtd::FaultReason::OutputInterruptRange;
            // What is recorded with the fault is the way from the root.
            return match self.walk(context, request) {
                Ok(_) => Err(reason.into()),
                Err(refusal) => Err(refusal),
            };
        }
        Ok(page)
    }

    /// The format of the tables of `context`, if they can hold the address of `request`.
    fn format_for(&self, context: &Context, request: &DmaRequest) -> Result<&SecondStage, Refusal> {
        if request.address.0 >> self.config.mgaw() != 0 {
            return Err(vtd::FaultReason::AddressBeyondMgaw.into());
        }
        self.format(context.levels)
            .ok_or(vtd::FaultReason::ContextEntryInvalid.into())
    }

    /// Walks the tables of `context` for `request` from the root, with all checks of an
    /// untranslated request.
    pub(crate) fn walk(&self, context: &Context, request: &DmaRequest) -> Result<Walk, Refusal> {
        let format = self.format_for(context, request)?;
        let (root, address) = (context.tables, request.address);
        let walk = self
            .ram
            .tables(|tables| format.walk(tables, root, address, request.access))
            .map_err(|fault| Refusal {
                reason: reason_of(&fault, context.levels, request.access),
                visited: fault.visited,
            })?;
        // No page may be used to write interrupts (section 3.14).
        if MSI_WINDOW.contains(&Iova(walk.output.0)) {
            return Err(Refusal {
                reason: Some(vtd::FaultReason::OutputInterruptRange),
                visited: walk.visited,
            });
        }
        Ok(walk)
    }

    pub(crate) fn format(&self, levels: u8) -> Option<&SecondStage> {
        self.formats
            .iter()
            .find(|format| format.config().levels.count() == levels)
    }
}

/// The fault reason of legacy mode (section 7.1.3); `None` for contention, which is no fault of
/// the tables.
fn reason_of(fault: &WalkFault, levels: u8, access: Access) -> Option<vtd::FaultReason> {
    // A topmost table that cannot be read is a fault of the context entry that points to it.
    if fault.reason == Reason::TableAccess && fault.level == levels {
        return Some(vtd::FaultReason::ContextEntryInvalid);
    }
    match SecondStage::legacy_fault(fault.reason, access) {
        FaultReason::Vtd(reason) => Some(reason),
        _ => None,
    }
}

/// The answer where addresses are not translated.
fn identity(address: Iova) -> Translation {
    Translation {
        output: PhysAddr(address.align_down(1 << IDENTITY_SHIFT).0),
        page_shift: IDENTITY_SHIFT,
        permissions: Access::READ | Access::WRITE | Access::EXECUTE,
        attributes: Default::default(),
    }
}

/// The formats of 3, 4 and 5 levels.
pub(crate) fn formats(config: &crate::VtdConfig) -> [SecondStage; 3] {
    [Levels::Three, Levels::Four, Levels::Five].map(|levels| config.second_stage(levels))
}
