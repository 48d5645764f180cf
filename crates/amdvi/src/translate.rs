//! DMA remapping: from a request to a page (section 2.2).

use std::sync::Arc;

use vm_iommu_dma::{DmaRemapper, Iotlb, Space, Translation};
use vm_iommu_pagetable::{
    AmdV1, AmdV1Config, AttributeFlags, Translation as Page, X86_64, X86_64Config,
};
use vm_iommu_spec::amd::{Device, FaultReason as Reason, GuestTables, HostTables};
use vm_iommu_spec::{
    Access, AddressType, DmaRequest, DomainId, Fault, FaultReason, Iova, Pasid, PhysAddr,
};

use crate::AmdViConfig;
use crate::control::Snapshot;
use crate::device_table::{DteLookup, Kind, Owner};
use crate::event::Refusal;
use crate::explain::WalkStep;
use crate::ranges::{self, Ruling};
use crate::unit::AmdVi;

/// What a space's requests get.
#[derive(Clone, Debug)]
pub(crate) enum Binding {
    /// The unit is disabled.
    Bypass,
    /// V of the device table entry is clear.
    Forward,
    /// What the device table entry says.
    Device(Box<Bound>),
}

/// A device, and the tables of one of its address spaces.
#[derive(Clone, Debug)]
pub(crate) struct Bound {
    pub(crate) device: Device,
    /// Whose guest tables these are.
    pub(crate) pasid: Option<Pasid>,
    pub(crate) stage: Stage,
}

/// Which tables translate.
#[derive(Clone, Debug)]
pub(crate) enum Stage {
    /// None.
    Direct,
    /// Host tables.
    Host(AmdV1, PhysAddr),
    /// Guest tables.
    Guest(X86_64, PhysAddr),
    /// Guest tables whose addresses host tables translate.
    Nested {
        first: X86_64,
        first_root: PhysAddr,
        second: AmdV1,
        second_root: PhysAddr,
    },
}

/// The page that untranslated addresses are answered with, a power of two in bytes.
const IDENTITY_SHIFT: u8 = 30;

impl DmaRemapper for AmdVi {
    fn bind(&self, request: &DmaRequest) -> Result<Arc<Space>, Fault> {
        // Before the snapshot is read: a change after that voids the token.
        let token = self.devices.token();
        let snapshot = self.snapshot();
        let device = request.requester.source_id();
        let owner = match snapshot.control.enable() {
            true => Owner::Device(device, request.pasid),
            false => Owner::Bypass,
        };
        if owner == Owner::Bypass && request.pasid.is_some() {
            return Err(request.fault(FaultReason::NotMemory));
        }
        if let Some(space) = self.devices.find(owner) {
            return Ok(space);
        }
        let binding = match owner {
            Owner::Bypass => Binding::Bypass,
            Owner::Device(..) => self
                .binding(&snapshot, request, &mut Vec::new())
                .map_err(|refusal| self.refuse(request, refusal))?,
        };
        let (domain, kind) = kind_of(&binding);
        let tag = self.devices.tag(domain, kind, &self.iotlb);
        let space = Space::new(domain.unwrap_or(DomainId(0)), tag, binding);
        self.devices.insert(token, owner, &space);
        Ok(space)
    }

    fn translate(&self, space: &Space, request: &DmaRequest) -> Result<Translation, Fault> {
        let untranslated = request.address_type != AddressType::TranslationRequest;
        match space.context::<Binding>() {
            None => Err(request.fault(FaultReason::NotMemory)),
            Some(Binding::Bypass | Binding::Forward) if untranslated => {
                Ok(identity(request.address, IDENTITY_SHIFT))
            }
            Some(Binding::Bypass) => Err(request.fault(FaultReason::NotMemory)),
            Some(Binding::Forward) => {
                Err(self.refuse(request, Reason::TranslationRequestDenied.into()))
            }
            Some(Binding::Device(bound)) => self
                .translate_in(space, bound, request)
                .map_err(|refusal| self.refuse(request, refusal.of(&bound.device))),
        }
    }

    fn iotlb(&self) -> &Arc<Iotlb> {
        &self.iotlb
    }

    /// INVALID_DEVICE_REQUEST of type 0, unless the address is guest virtual (GIoV) or the device
    /// table entry says nothing about the device.
    fn refuse_in_interrupt_range(&self, request: &DmaRequest) -> Fault {
        let space = match self.bind(request) {
            Ok(space) => space,
            Err(fault) => return fault,
        };
        match space.context::<Binding>() {
            Some(Binding::Device(bound)) if !bound.is_guest() => {
                let refusal = Refusal::from(Reason::InterruptRange);
                self.refuse(request, refusal.of(&bound.device))
            }
            _ => request.fault(FaultReason::InterruptRange),
        }
    }
}

/// The domain of a binding, and what tells it from others of that domain.
fn kind_of(binding: &Binding) -> (Option<DomainId>, Kind) {
    let none = Kind {
        host: None,
        guest: None,
        guest_root: None,
        read: false,
        write: false,
        exclusion: false,
        rest: 0,
    };
    match binding {
        Binding::Bypass => (None, none),
        Binding::Forward => (None, Kind { rest: 1, ..none }),
        Binding::Device(bound) => {
            let Bound { device, pasid, .. } = &**bound;
            let rest = u8::from(device.translation_valid) << 1
                | (device.io_control as u8) << 2
                | (device.system_management as u8) << 4;
            let kind = Kind {
                host: device.host,
                guest: device.guest.zip(*pasid),
                guest_root: bound.stage.guest_root(),
                read: device.read,
                write: device.write,
                exclusion: device.exclusion,
                rest,
            };
            (Some(device.domain), kind)
        }
    }
}

impl AmdVi {
    /// What the tables say about the requester and address space of `request`, with the entries
    /// read.
    pub(crate) fn binding(
        &self,
        snapshot: &Snapshot,
        request: &DmaRequest,
        steps: &mut Vec<WalkStep>,
    ) -> Result<Binding, Refusal> {
        let source = request.requester.source_id();
        let lookup = DteLookup::new(&self.ram, &self.config, snapshot, source);
        let entry = match lookup.entry {
            Ok(entry) => entry,
            Err(Reason::DeviceBeyondTable)
                if request.address_type == AddressType::TranslationRequest =>
            {
                return Err(Reason::TranslationRequestBeyondTable.into());
            }
            Err(reason) => return Err(Refusal::from(reason).at(lookup.place)),
        };
        if let Some(place) = lookup.place {
            steps.push(WalkStep::of_device(place, entry));
        }
        let rules = self.dte_rules(snapshot);
        let device = match entry.check_dma(&rules) {
            Ok(Some(device)) => device,
            Ok(None) if request.pasid.is_some() => {
                return Err(Refusal::from(Reason::PasidBeyondTable).with_steps(steps));
            }
            Ok(None) => return Ok(Binding::Forward),
            Err(reason) => {
                return Err(Refusal::from(reason)
                    .of_entry(entry.domain)
                    .with_steps(steps));
            }
        };
        let stage = self
            .stage(snapshot, &device, request.pasid, steps)
            .map_err(|refusal| refusal.of(&device).with_steps(steps))?;
        let pasid = match stage {
            Stage::Direct | Stage::Host(..) => None,
            _ => request.pasid.or(Pasid::new(0)),
        };
        Ok(Binding::Device(Box::new(Bound {
            device,
            pasid,
            stage,
        })))
    }

    /// The tables that translate for `pasid`.
    fn stage(
        &self,
        snapshot: &Snapshot,
        device: &Device,
        pasid: Option<Pasid>,
        steps: &mut Vec<WalkStep>,
    ) -> Result<Stage, Refusal> {
        let guest = device
            .guest
            .filter(|_| snapshot.control.guest_translation());
        let used = match (guest, pasid) {
            (Some(guest), Some(pasid)) => Some((guest, pasid)),
            (Some(guest), None) if guest.without_pasid => Pasid::new(0).map(|zero| (guest, zero)),
            (None, Some(_)) => return Err(Reason::PasidBeyondTable.into()),
            _ => None,
        };
        let host = device
            .host
            .map(|host| (host_format(&self.config, &host), host.root));
        if !device.translation_valid {
            return Ok(Stage::Direct);
        }
        let Some((guest, pasid)) = used else {
            return Ok(match host {
                None => Stage::Direct,
                Some((format, root)) => Stage::Host(format, root),
            });
        };
        let root_is_guest = snapshot.control.guest_cr3_is_guest_physical();
        let root = self.guest_root(&guest, host.as_ref(), root_is_guest, pasid, steps)?;
        let first = guest_format(&self.config, &guest, host.is_some());
        Ok(match host {
            None => Stage::Guest(first, root),
            Some((second, second_root)) => Stage::Nested {
                first,
                first_root: root,
                second,
                second_root,
            },
        })
    }

    fn translate_in(
        &self,
        space: &Space,
        bound: &Bound,
        request: &DmaRequest,
    ) -> Result<Translation, Refusal> {
        let device = &bound.device;
        let snapshot = self.snapshot();
        let ranges = ranges::of(&self.config, &snapshot, device, bound.is_guest());
        match ranges.ruling(device, request)? {
            Ruling::Forward => {
                let shift = ranges.fit(request.address, IDENTITY_SHIFT);
                return Ok(identity(request.address, shift));
            }
            Ruling::Translate => {}
        }
        match request.address_type {
            AddressType::Untranslated => {}
            AddressType::TranslationRequest if !device.iotlb => {
                return Err(Reason::TranslationRequestDenied.into());
            }
            AddressType::Translated if !device.iotlb => {
                return Err(Reason::PretranslatedDenied.into());
            }
            AddressType::Translated => {
                let shift = ranges.fit(request.address, IDENTITY_SHIFT);
                return Ok(identity(request.address, shift));
            }
            AddressType::TranslationRequest => {}
        }
        let access = self.checked_access(device, request)?;
        let page = self.page(space, bound, request.address, access)?;
        let shift = ranges.fit(request.address, page.page_shift);
        let output = PhysAddr(page.output.0).align_down(1 << shift);
        Ok(Translation {
            output,
            page_shift: shift,
            permissions: permitted(device, bound.is_guest(), access, &page),
            attributes: page.attributes,
        })
    }

    /// What `request` asks of the tables, once the device table entry permits it.
    pub(crate) fn checked_access(
        &self,
        device: &Device,
        request: &DmaRequest,
    ) -> Result<Access, Refusal> {
        if !device.translation_valid {
            return Err(Reason::TranslationInvalid.into());
        }
        if request.access.writes() && !device.write {
            return Err(Reason::WriteDenied.into());
        }
        if request.access.reads() && !device.read {
            return Err(Reason::ReadDenied.into());
        }
        let mut access = request.access;
        if !self.config.user_supervisor {
            access -= Access::PRIVILEGED;
        }
        Ok(access)
    }

    /// Walks the tables of `bound` from where the paging-structure cache knows the way.
    fn page(
        &self,
        space: &Space,
        bound: &Bound,
        address: Iova,
        access: Access,
    ) -> Result<Page, Refusal> {
        let (cache, ram) = (&self.walk_cache, &self.ram);
        let outcome = match &bound.stage {
            Stage::Direct => return Ok(direct(address)),
            Stage::Host(format, root) => {
                cache.translate(ram, space, format, *root, address, access)
            }
            Stage::Guest(format, root) => {
                cache.translate(ram, space, format, *root, address, access)
            }
            Stage::Nested {
                first,
                first_root,
                second,
                second_root,
            } => {
                let stages = ((first, *first_root), (second, *second_root));
                let walk = cache
                    .translate_nested(ram, space, stages.0, stages.1, address, access)
                    .map_err(Refusal::of_nested)?;
                return Ok(Page {
                    output: walk.output,
                    page_shift: walk.page_shift,
                    permissions: walk.permissions,
                    cacheable: walk.cacheable,
                    attributes: walk.attributes(),
                });
            }
        };
        outcome.map_err(|fault| Refusal::of_walk(&fault, bound.is_guest()))
    }
}

impl Bound {
    /// Whether addresses are guest virtual.
    pub(crate) fn is_guest(&self) -> bool {
        matches!(self.stage, Stage::Guest(..) | Stage::Nested { .. })
    }
}

impl Stage {
    /// The topmost guest table.
    fn guest_root(&self) -> Option<PhysAddr> {
        match self {
            Self::Direct | Self::Host(..) => None,
            Self::Guest(_, root) => Some(*root),
            Self::Nested { first_root, .. } => Some(*first_root),
        }
    }
}

/// What later requests may do with a page without asking again. Those with supervisor privilege
/// always ask, and leave nothing that a user's request may not do.
fn permitted(device: &Device, guest: bool, access: Access, page: &Page) -> Access {
    let mut permissions = page.cacheable;
    if !device.read {
        permissions -= Access::READ | Access::EXECUTE;
    }
    if !device.write {
        permissions -= Access::WRITE;
    }
    let of_user = page.attributes.flags.contains(AttributeFlags::USER);
    if guest && access.contains(Access::PRIVILEGED) && !of_user {
        permissions = Access::empty();
    }
    permissions
}

/// The format of host tables.
pub(crate) fn host_format(config: &AmdViConfig, host: &HostTables) -> AmdV1 {
    let mut format = AmdV1Config::new(host.levels);
    format.host_address_width = config.physical_address_width;
    format.accessed = host.accessed;
    format.dirty = host.dirty;
    AmdV1::new(format)
}

/// The format of guest tables; `nested` if host tables translate their addresses.
pub(crate) fn guest_format(config: &AmdViConfig, guest: &GuestTables, nested: bool) -> X86_64 {
    let mut format = X86_64Config::new(AmdViConfig::levels(guest.levels));
    if !nested {
        format.host_address_width = config.physical_address_width;
    }
    format.no_execute = config.no_execute;
    X86_64::new(format)
}

/// The page of an address that no table translates.
pub(crate) fn direct(address: Iova) -> Page {
    let all = Access::READ | Access::WRITE | Access::EXECUTE;
    Page {
        output: PhysAddr(address.0),
        page_shift: IDENTITY_SHIFT,
        permissions: all,
        cacheable: all,
        attributes: Default::default(),
    }
}

/// The answer where addresses are not translated.
fn identity(address: Iova, shift: u8) -> Translation {
    Translation {
        output: PhysAddr(address.align_down(1 << shift).0),
        page_shift: shift,
        permissions: Access::READ | Access::WRITE | Access::EXECUTE,
        attributes: Default::default(),
    }
}
