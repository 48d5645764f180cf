//! What a group is attached to.

use std::collections::BTreeSet;
use std::sync::Arc;

use vm_iommu_driver::iommu::Reach;
use vm_iommu_spec::Pasid;

use super::group::Group;
use super::state::{DeviceKey, Endpoint, Row, State};
use super::write::cancel_page_requests;
use super::{AddressSpace, ContextId, OwnershipError, Table, Target};

const EINVAL: i32 = 22;

impl Group {
    pub(super) fn attach(
        &self,
        key: DeviceKey,
        context: ContextId,
        pasid: Option<Pasid>,
        target: &Target,
    ) -> Result<(), OwnershipError> {
        let mut state = self.lock();
        let device = state.for_attachment(key, context, target)?;
        if state.is_attached(key, pasid) {
            return Err(OwnershipError::Attached);
        }
        state.on_target(&device, pasid, target, |state, table| {
            state.attach(&device, pasid, table)
        })
    }

    pub(super) fn replace(
        &self,
        key: DeviceKey,
        context: ContextId,
        pasid: Option<Pasid>,
        target: &Target,
    ) -> Result<(), OwnershipError> {
        let mut state = self.lock();
        let device = state.for_attachment(key, context, target)?;
        if !state.is_attached(key, pasid) {
            return Err(OwnershipError::NotAttached);
        }
        state.on_target(&device, pasid, target, |state, table| {
            state.replace(&device, pasid, table)
        })
    }

    pub(super) fn detach(&self, key: DeviceKey, pasid: Option<Pasid>) {
        self.lock().detach(key, pasid);
    }
}

impl State {
    /// What precedes an attachment: the table is the context's, and so is the device.
    fn for_attachment(
        &self,
        key: DeviceKey,
        context: ContextId,
        target: &Target,
    ) -> Result<Arc<Endpoint>, OwnershipError> {
        self.present_member(key)?;
        if target.context() != context {
            return Err(OwnershipError::NoTable);
        }
        let member = self.claimed_member(key, context)?;
        Ok(Arc::clone(&member.endpoint))
    }

    /// Carries out `event` on the table, or on the first automatic table of the address space
    /// that it does not refuse as invalid, or else on a new one.
    fn on_target(
        &mut self,
        device: &Endpoint,
        pasid: Option<Pasid>,
        target: &Target,
        event: impl Fn(&mut Self, &Arc<dyn Table>) -> Result<(), OwnershipError>,
    ) -> Result<(), OwnershipError> {
        let space: &dyn AddressSpace = match target {
            Target::Table(table) => return event(self, table),
            Target::Space(space) => &**space,
        };
        // An automatic table is never made for PASIDs.
        if pasid.is_some() {
            return Err(OwnershipError::NotForPasids);
        }
        for table in space.automatic_tables() {
            match event(self, &table) {
                Err(error) if error.errno() == EINVAL => {}
                outcome => return outcome,
            }
        }
        // A device that is not attached yet must join the others.
        if let Some(row) = self.rows.get(&pasid)
            && !row.members.contains(&device.key)
        {
            return Err(OwnershipError::OtherTable);
        }
        let table = space.create_automatic_table(&device.unit, device.requester())?;
        event(self, &table)
    }

    fn attach(
        &mut self,
        device: &Endpoint,
        pasid: Option<Pasid>,
        table: &Arc<dyn Table>,
    ) -> Result<(), OwnershipError> {
        let joins = match self.rows.get(&pasid) {
            Some(row) if Arc::ptr_eq(&row.table, table) => true,
            Some(_) => return Err(OwnershipError::OtherTable),
            None => false,
        };
        let requester = device.requester();
        if pasid.is_none() {
            table.reserve(requester, &device.reserved())?;
        }
        if !joins && let Err(error) = self.put_on(device, pasid, table) {
            if pasid.is_none() {
                table.unreserve(requester);
            }
            return Err(error);
        }
        let written: BTreeSet<_> = self.written(pasid).collect();
        let row = self.rows.entry(pasid).or_insert_with(|| Row {
            table: Arc::clone(table),
            members: BTreeSet::new(),
            written,
        });
        row.members.insert(device.key);
        table.begin_use(requester, pasid);
        Ok(())
    }

    fn replace(
        &mut self,
        device: &Endpoint,
        pasid: Option<Pasid>,
        table: &Arc<dyn Table>,
    ) -> Result<(), OwnershipError> {
        let row = self.rows.get(&pasid).ok_or(OwnershipError::NotAttached)?;
        if Arc::ptr_eq(&row.table, table) {
            return Ok(());
        }
        let old = Arc::clone(&row.table);
        let users = self.users(row);
        let moves = pasid.is_none() && old.space() != table.space();
        if moves {
            reserve_all(&users, &**table)?;
        }
        if let Err(error) = self.put_on(device, pasid, table) {
            if moves {
                unreserve_all(&users, &**table);
            }
            return Err(error);
        }
        let written = self.written(pasid).collect();
        if let Some(row) = self.rows.get_mut(&pasid) {
            row.table = Arc::clone(table);
            row.written = written;
        }
        for user in &users {
            table.begin_use(user.requester(), pasid);
        }
        cancel_page_requests(self.present(), &*old, pasid);
        if moves {
            unreserve_all(&users, &*old);
        }
        for user in &users {
            old.end_use(user.requester(), pasid);
        }
        Ok(())
    }

    /// Takes a device off its table; the last takes the group with it. Nothing happens if it is
    /// not attached.
    pub(super) fn detach(&mut self, key: DeviceKey, pasid: Option<Pasid>) {
        let Some(row) = self.rows.get_mut(&pasid) else {
            return;
        };
        if !row.members.remove(&key) {
            return;
        }
        let table = Arc::clone(&row.table);
        let last = row.members.is_empty();
        if last {
            self.rows.remove(&pasid);
            self.settle(pasid);
            cancel_page_requests(self.present(), &*table, pasid);
        }
        if let Ok(member) = self.member(key) {
            let requester = member.endpoint.requester();
            if pasid.is_none() {
                table.unreserve(requester);
            }
            table.end_use(requester, pasid);
        }
    }

    /// The guards of a table that is to be written, and the write.
    fn put_on(
        &mut self,
        device: &Endpoint,
        pasid: Option<Pasid>,
        table: &Arc<dyn Table>,
    ) -> Result<(), OwnershipError> {
        if device.capabilities.virtual_function_pri && table.has_fault_queue() {
            return Err(OwnershipError::VirtualFunctionPri);
        }
        let beside_pasids = match pasid {
            Some(_) => {
                let row = self.rows.get(&None);
                !table.for_pasids() || row.is_some_and(|row| !row.table.for_pasids())
            }
            None => self.has_pasids() && !table.for_pasids(),
        };
        if beside_pasids {
            return Err(OwnershipError::NotForPasids);
        }
        if pasid.is_some() && device.unit.capabilities().pasid_bits == 0 {
            return Err(OwnershipError::Unsupported);
        }
        let domain = table.domain();
        if domain.unit_kind() != device.unit.kind() {
            return Err(OwnershipError::NotCompatible);
        }
        if self.is_recovering() {
            return Err(OwnershipError::Recovering);
        }
        let concerned = || {
            self.present()
                .map(|member| &*member.endpoint)
                .filter(|endpoint| endpoint.serves(pasid))
        };
        if let Some(pasid) = pasid
            && concerned().any(|endpoint| {
                let bits = u32::from(endpoint.capabilities.pasid_bits);
                pasid.raw().checked_shr(bits).unwrap_or(0) != 0
            })
        {
            return Err(OwnershipError::PasidLimit);
        }
        let reach = Reach::Domain(domain);
        for endpoint in concerned() {
            endpoint
                .unit
                .check_reach(endpoint.requester(), pasid, &reach)?;
        }
        self.write(pasid, &reach)
    }

    /// The devices that a row has.
    fn users(&self, row: &Row) -> Vec<Arc<Endpoint>> {
        self.members
            .iter()
            .filter(|member| row.members.contains(&member.endpoint.key))
            .map(|member| Arc::clone(&member.endpoint))
            .collect()
    }
}

/// Reserves the regions of all devices, or of none.
fn reserve_all(devices: &[Arc<Endpoint>], table: &dyn Table) -> Result<(), OwnershipError> {
    for (done, device) in devices.iter().enumerate() {
        if let Err(error) = table.reserve(device.requester(), &device.reserved()) {
            unreserve_all(&devices[..done], table);
            return Err(error);
        }
    }
    Ok(())
}

fn unreserve_all(devices: &[Arc<Endpoint>], table: &dyn Table) {
    for device in devices {
        table.unreserve(device.requester());
    }
}
