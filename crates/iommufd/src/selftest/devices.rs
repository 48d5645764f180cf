//! Mock devices.

use std::sync::Arc;

use vm_iommu_driver::iommu::{DeviceInfo, Domain};
use vm_iommu_spec::Pasid;

use super::PASID_BITS;
use super::command::{Test, pasid};
use crate::Errno;
use crate::caller::Reply;
use crate::object::{Change, Object, Shared};
use crate::ownership::{Device, GroupKey, Table};

/// Linux `MOCK_FLAGS_DEVICE_NO_DIRTY`.
const NO_DIRTY: u32 = 1;
/// Linux `MOCK_FLAGS_DEVICE_PASID`.
const PASID: u32 = 4;

/// A mock device, that is bound to the context as long as this object is.
#[derive(Debug)]
pub(crate) struct TestDevice {
    device: Arc<Device>,
    /// The number of the bound device.
    bound: u32,
}

impl TestDevice {
    /// Unbinds the device and has it gone.
    pub(crate) fn end(self, shared: &Shared) {
        shared.unbind(self.bound);
        remove(shared, &self.device);
    }
}

fn remove(shared: &Shared, device: &Device) {
    device.surprise_remove();
    shared.system.mock().give_number(device.requester());
}

impl Test<'_> {
    pub(super) fn make_device(mut self, flags: u32) -> Result<Reply, Errno> {
        if flags & !(NO_DIRTY | PASID) != 0 {
            return Err(Errno::EINVAL);
        }
        let shared = Arc::clone(&self.context.shared);
        let id = self.context.lock().objects.insert(Object::Reserved)?;
        let device = match self.add_device(flags) {
            Ok(device) => device,
            Err(error) => {
                self.context.lock().objects.remove(id);
                return Err(error);
            }
        };
        let bound = match shared.bind(&device) {
            Ok(bound) => bound,
            Err(error) => {
                self.context.lock().objects.remove(id);
                remove(&shared, &device);
                return Err(error);
            }
        };
        let test_device = TestDevice { device, bound };
        let told = self
            .context
            .change_table(bound, None, self.command.id, Change::Attach)
            .and_then(|table| {
                self.command.set_word(0, id);
                self.command.set_word(4, table);
                self.command.set_word(8, bound);
                self.call.respond(&self.command)
            });
        if let Err(error) = told {
            self.context.lock().objects.remove(id);
            test_device.end(&shared);
            return Err(error);
        }
        let mut state = self.context.lock();
        state.objects.set(id, Object::Test(test_device));
        state.objects.publish(id);
        Ok(Reply::default())
    }

    fn add_device(&self, flags: u32) -> Result<Arc<Device>, Errno> {
        let mock = self.mock();
        let requester = mock.take_number()?;
        let mut info = DeviceInfo::new(requester);
        info.pasid_bits = if flags & PASID != 0 { PASID_BITS } else { 0 };
        let group = GroupKey(requester.raw().into());
        let device = mock.parts().ownership.add(&mock.iommu(), info, group);
        let device = device.inspect_err(|_| mock.give_number(requester))?;
        if flags & NO_DIRTY != 0 {
            mock.unit().set_no_dirty(requester);
        }
        Ok(device)
    }

    /// The bound device of a mock device, and the device.
    fn test_device(&self) -> Result<(u32, Arc<Device>), Errno> {
        match self.context.lock().objects.get(self.command.id)? {
            Object::Test(device) => Ok((device.bound, Arc::clone(&device.device))),
            _ => Err(Errno::ENOENT),
        }
    }

    pub(super) fn replace(mut self) -> Result<Reply, Errno> {
        let (bound, _) = self.test_device()?;
        let on = self.command.word(0);
        let table = self
            .context
            .change_table(bound, None, on, Change::Replace)?;
        self.command.set_word(0, table);
        self.call.respond(&self.command)?;
        Ok(Reply::default())
    }

    pub(super) fn pasid_attach(self) -> Result<Reply, Errno> {
        let (bound, _) = self.test_device()?;
        let pasid = self.pasid()?;
        self.change_pasid(bound, pasid, Change::Attach)
            .inspect_err(|error| {
                if *error == Errno::EFAULT {
                    let _ = self.context.detach(bound, pasid);
                }
            })
    }

    pub(super) fn pasid_replace(self) -> Result<Reply, Errno> {
        let (bound, _) = self.test_device()?;
        self.change_pasid(bound, self.pasid()?, Change::Replace)
    }

    fn change_pasid(
        &self,
        bound: u32,
        pasid: Option<Pasid>,
        change: Change,
    ) -> Result<Reply, Errno> {
        let mut command = self.command;
        let table = self
            .context
            .change_table(bound, pasid, command.word(4), change)?;
        command.set_word(4, table);
        self.call.respond(&command)?;
        Ok(Reply::default())
    }

    pub(super) fn pasid_detach(self) -> Result<Reply, Errno> {
        let (bound, _) = self.test_device()?;
        self.context.detach(bound, self.pasid()?)?;
        Ok(Reply::default())
    }

    /// Asks the unit and not the context.
    pub(super) fn pasid_check_hwpt(self) -> Result<Reply, Errno> {
        let (_, device) = self.test_device()?;
        let reached = self.mock().unit().domain(device.requester(), self.pasid()?);
        let table = self.command.word(4);
        let expected = if table == 0 {
            None
        } else {
            match self.context.lock().objects.get(table)? {
                Object::Paging(hwpt) | Object::Nested(hwpt) => Some(hwpt.domain()),
                _ => return Err(Errno::EINVAL),
            }
        };
        let address = |domain: &Arc<dyn Domain>| Arc::as_ptr(domain).addr();
        if reached.as_ref().map(address) == expected.as_ref().map(address) {
            Ok(Reply::default())
        } else {
            Err(Errno::EINVAL)
        }
    }

    fn pasid(&self) -> Result<Option<Pasid>, Errno> {
        pasid(self.command.word(0))
    }
}
