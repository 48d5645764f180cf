//! Commands by registers: GCMD_REG, CCMD_REG and IOTLB_REG (sections 11.4.4, 11.4.6, 11.4.8).

use vm_iommu_spec::DomainId;
use vm_iommu_spec::vtd::descriptor::{ContextScope, IotlbScope, function_mask};
use vm_iommu_spec::vtd::registers::{
    ContextCommand, Granularity, InvalidateAddress, IotlbInvalidate, offset,
};

use crate::context::is_doomed;
use crate::control::{IOTLB, Pending};
use crate::unit::Vtd;

impl Vtd {
    /// Carries a command out, short of telling software.
    pub(crate) fn apply(&self, pending: &Pending) {
        if pending.translation {
            self.contexts.invalidate_all();
            self.walk_cache.invalidate_all();
            self.iotlb.invalidate_all();
        }
        if pending.interrupts {
            self.irtes.invalidate(|_| true);
            self.routes.refresh();
        }
        if let Some(scope) = pending.context.and_then(context_scope) {
            self.contexts
                .invalidate(|owner, space| is_doomed(scope, owner, space));
        }
        if let Some(scope) = pending
            .iotlb
            .and_then(|(command, address)| self.iotlb_scope(command, address))
        {
            self.invalidate_iotlb(&scope);
        }
    }

    /// Tells software that a command is complete (sections 11.4.4, 11.4.6 and 11.4.8).
    pub(crate) fn complete(&self, pending: &Pending) {
        let mut control = self.control();
        if let Some(status) = pending.status {
            control.set_status(status);
        }
        if let Some(command) = pending.context {
            let actual = match context_scope(command) {
                Some(_) => command.requested(),
                None => Granularity::Reserved,
            };
            let answer = command.with_invalidate(false).with_actual(actual);
            control.file.set(offset::CCMD, answer.into_bits());
        }
        if let Some((command, address)) = pending.iotlb {
            let actual = match self.iotlb_scope(command, address) {
                Some(scope) => granularity(&scope),
                None => Granularity::Reserved,
            };
            let answer = command.with_invalidate(false).with_actual(actual);
            control.file.set(IOTLB, answer.into_bits());
        }
    }

    fn iotlb_scope(
        &self,
        command: IotlbInvalidate,
        address: InvalidateAddress,
    ) -> Option<IotlbScope> {
        let domain = DomainId(command.domain());
        match command.requested() {
            Granularity::Reserved => None,
            Granularity::Global => Some(IotlbScope::Global),
            Granularity::Domain => Some(IotlbScope::Domain(domain)),
            Granularity::Selective => match self.config.maximum_address_mask {
                None => Some(IotlbScope::Domain(domain)),
                Some(maximum) => IotlbScope::pages(domain, address, maximum),
            },
        }
    }
}

/// What CCMD_REG asks for; `None` if it is incorrect.
fn context_scope(command: ContextCommand) -> Option<ContextScope> {
    let domain = DomainId(command.domain());
    match command.requested() {
        Granularity::Reserved => None,
        Granularity::Global => Some(ContextScope::Global),
        Granularity::Domain => Some(ContextScope::Domain(domain)),
        Granularity::Selective => Some(ContextScope::Device {
            domain,
            source: command.source(),
            ignored: function_mask(command.function_mask()),
        }),
    }
}

fn granularity(scope: &IotlbScope) -> Granularity {
    match scope {
        IotlbScope::Global => Granularity::Global,
        IotlbScope::Domain(_) => Granularity::Domain,
        IotlbScope::Pages { .. } => Granularity::Selective,
    }
}
