//! Pages that a device would have written.

use std::any::Any;
use std::sync::Arc;

use vm_iommu_driver::iommu::Domain;

use super::command::Test;
use super::domain::MockDomain;
use crate::Errno;
use crate::caller::Reply;
use crate::ownership::Table;

/// The most bits of a bitmap.
const LIMIT: u64 = (16 << 20) * 8;

/// The mock table that a domain is.
pub(super) fn mock(domain: &dyn Domain) -> Option<&MockDomain> {
    (domain as &dyn Any).downcast_ref()
}

/// Marks the pages that a bitmap of the caller names.
pub(super) fn mark(test: &Test<'_>) -> Result<Reply, Errno> {
    let mut command = test.command;
    let (iova, length, page_size, address) = (
        command.long(8),
        command.long(16),
        command.long(24),
        command.long(32),
    );
    let whole = |value: u64| value.checked_rem(page_size) == Some(0);
    if length == 0 || address == 0 || !whole(iova) || !whole(length) {
        return Err(Errno::EINVAL);
    }
    let bits = length / page_size;
    if bits > LIMIT {
        return Err(Errno::EOVERFLOW);
    }
    let hwpt = Arc::clone(test.context.lock().objects.paging(command.id)?);
    let domain = hwpt.domain();
    let table = mock(&*domain).ok_or(Errno::EINVAL)?;
    if !table.is_tracking() {
        return Err(Errno::EINVAL);
    }
    let mut bytes = vec![0_u8; bits.div_ceil(8) as usize];
    test.call.caller.read(address, &mut bytes)?;
    let mut count = 0;
    for bit in 0..bits {
        let byte = bytes.get((bit / 8) as usize).copied().unwrap_or(0);
        if byte & (1 << (bit % 8)) != 0 {
            table.set_dirty(iova.wrapping_add(bit * page_size));
            count += 1;
        }
    }
    command.set_long(40, count);
    test.call.respond(&command)?;
    Ok(Reply::default())
}
