//! Numbers and objects.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::access::AccessObject;
use super::{
    DeviceObject, EventQueue, FaultQueue, HwQueueObject, Hwpt, IoasObject, VdeviceObject,
    ViommuObject,
};
use crate::Errno;

/// An object of a context.
#[derive(Debug)]
pub(crate) enum Object {
    /// A number for an object that is being made.
    Reserved,
    /// The number of a vDEVICE whose device went first; it is not given out again.
    Tombstone,
    Ioas(Box<IoasObject>),
    Paging(Arc<Hwpt>),
    Nested(Arc<Hwpt>),
    Device(DeviceObject),
    Access(AccessObject),
    Fault(Arc<FaultQueue>),
    Viommu(ViommuObject),
    Vdevice(VdeviceObject),
    EventQueue(Arc<EventQueue>),
    HwQueue(HwQueueObject),
    /// A mock device.
    #[cfg(feature = "selftest")]
    Test(crate::selftest::TestDevice),
}

#[derive(Debug)]
struct Slot {
    object: Object,
    users: u32,
    /// Whether a caller may name it: it knows the number.
    visible: bool,
}

/// All objects of a context by number, from 1.
#[derive(Debug, Default)]
pub(crate) struct Objects {
    slots: BTreeMap<u32, Slot>,
    /// Numbers up to `highest` that are free.
    free: BTreeSet<u32>,
    highest: u32,
    /// The most objects.
    limit: u32,
}

macro_rules! typed {
    ($($name:ident $name_mut:ident $variant:ident $type:ty)*) => {
        impl Objects {
            $(
                /// The object of this type that a caller names.
                #[allow(dead_code)]
                pub(crate) fn $name(&self, id: u32) -> Result<&$type, Errno> {
                    match self.get(id)? {
                        Object::$variant(object) => Ok(object),
                        _ => Err(Errno::ENOENT),
                    }
                }

                /// The object of this type that another names.
                #[allow(dead_code)]
                pub(crate) fn $name_mut(&mut self, id: u32) -> Result<&mut $type, Errno> {
                    match self.slots.get_mut(&id).map(|slot| &mut slot.object) {
                        Some(Object::$variant(object)) => Ok(object),
                        _ => Err(Errno::ENOENT),
                    }
                }
            )*
        }
    };
}

typed! {
    ioas ioas_mut Ioas IoasObject
    paging paging_mut Paging Arc<Hwpt>
    device device_mut Device DeviceObject
    access access_mut Access AccessObject
    fault fault_mut Fault Arc<FaultQueue>
    viommu viommu_mut Viommu ViommuObject
    vdevice vdevice_mut Vdevice VdeviceObject
}

impl Objects {
    /// No objects, of which there can be `limit`.
    pub(crate) fn new(limit: u32) -> Self {
        Self {
            limit,
            ..Self::default()
        }
    }

    /// Adds an object that no caller can name yet.
    ///
    /// # Errors
    /// [`Errno::ENOMEM`] if there are as many as there can be.
    pub(crate) fn insert(&mut self, object: Object) -> Result<u32, Errno> {
        if self.slots.len() >= self.limit as usize {
            return Err(Errno::ENOMEM);
        }
        let id = match self.free.first() {
            Some(&id) => id,
            None => self.highest.checked_add(1).ok_or(Errno::ENOMEM)?,
        };
        self.free.remove(&id);
        self.highest = self.highest.max(id);
        self.slots.insert(
            id,
            Slot {
                object,
                users: 0,
                visible: false,
            },
        );
        Ok(id)
    }

    /// Lets callers name an object.
    pub(crate) fn publish(&mut self, id: u32) {
        if let Some(slot) = self.slots.get_mut(&id) {
            slot.visible = true;
        }
    }

    /// Puts another object at a number.
    pub(crate) fn set(&mut self, id: u32, object: Object) {
        if let Some(slot) = self.slots.get_mut(&id) {
            slot.object = object;
        }
    }

    /// The object that a caller names.
    pub(crate) fn get(&self, id: u32) -> Result<&Object, Errno> {
        match self.slots.get(&id) {
            Some(Slot {
                object: Object::Reserved | Object::Tombstone,
                ..
            })
            | None => Err(Errno::ENOENT),
            Some(slot) if slot.visible => Ok(&slot.object),
            Some(_) => Err(Errno::ENOENT),
        }
    }

    /// One more user.
    pub(crate) fn hold(&mut self, id: u32) {
        if let Some(slot) = self.slots.get_mut(&id) {
            slot.users = slot.users.saturating_add(1);
        }
    }

    /// One user less; whether there are none left.
    pub(crate) fn release(&mut self, id: u32) -> bool {
        let Some(slot) = self.slots.get_mut(&id) else {
            return false;
        };
        debug_assert!(slot.users > 0, "object {id} has no users");
        slot.users = slot.users.saturating_sub(1);
        slot.users == 0
    }

    pub(crate) fn users(&self, id: u32) -> u32 {
        self.slots.get(&id).map_or(0, |slot| slot.users)
    }

    /// Takes away an object that a caller names.
    ///
    /// # Errors
    /// [`Errno::ENOENT`]; [`EBUSY`](Errno::EBUSY) while it has users.
    pub(crate) fn destroy(&mut self, id: u32) -> Result<Object, Errno> {
        self.get(id)?;
        if self.users(id) > 0 {
            return Err(Errno::EBUSY);
        }
        self.take(id).ok_or(Errno::ENOENT)
    }

    /// Takes away an object whatever; its number stays in use until what it used is given back,
    /// since others may still know the object by it.
    pub(crate) fn take(&mut self, id: u32) -> Option<Object> {
        let slot = self.slots.get_mut(&id)?;
        slot.visible = false;
        Some(std::mem::replace(&mut slot.object, Object::Reserved))
    }

    /// Takes away an object whatever, and frees its number.
    pub(crate) fn remove(&mut self, id: u32) -> Option<Object> {
        let slot = self.slots.remove(&id)?;
        self.free.insert(id);
        Some(slot.object)
    }

    /// Takes away the vDEVICE of a device so that its number stays in use.
    pub(crate) fn bury(&mut self, id: u32, device: u32) -> Option<VdeviceObject> {
        let slot = self.slots.get_mut(&id)?;
        if !matches!(&slot.object, Object::Vdevice(vdevice) if vdevice.device == device) {
            return None;
        }
        match std::mem::replace(&mut slot.object, Object::Tombstone) {
            Object::Vdevice(vdevice) => Some(vdevice),
            _ => None,
        }
    }

    /// Whether there are no objects, nor what is left of any.
    pub(crate) fn is_empty(&self) -> bool {
        self.slots.is_empty()
    }

    /// Takes away an object without users, for the end of a context.
    pub(crate) fn take_leaf(&mut self) -> Option<(u32, Object)> {
        let leaf = self
            .slots
            .iter()
            .find(|(_, slot)| slot.users == 0)
            .map(|(id, _)| *id)?;
        self.remove(leaf).map(|object| (leaf, object))
    }

    /// All objects that callers can name.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (u32, &Object)> {
        self.slots
            .iter()
            .filter(|(_, slot)| slot.visible)
            .map(|(id, slot)| (*id, &slot.object))
    }

    /// The address spaces that callers can name, in order.
    pub(crate) fn all_ioas(&self) -> impl Iterator<Item = &IoasObject> {
        self.iter().filter_map(|(_, object)| match object {
            Object::Ioas(ioas) => Some(&**ioas),
            _ => None,
        })
    }
}
