//! Which pages devices wrote.

use std::sync::Arc;

use vm_iommu_driver::iommu::Domain;
use vm_iommu_spec::Iova;

use super::Ioas;
use super::map::range;
use crate::Errno;

/// Bits of the caller's bitmap that are handled at once.
const BATCH: u64 = 1 << 18;

/// Which addresses to ask about, and what a bit of the answer stands for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct BitmapRequest {
    pub(crate) iova: u64,
    pub(crate) length: u64,
    /// The bytes per bit.
    pub(crate) page_size: u64,
    /// Whether what was reported is forgotten.
    pub(crate) clear: bool,
}

impl Ioas {
    /// Begins or ends tracking; what was written before is forgotten.
    ///
    /// # Errors
    /// [`Errno::EOPNOTSUPP`] unless the domain was made for it.
    pub(crate) fn set_dirty_tracking(
        &self,
        domain: &Arc<dyn Domain>,
        enable: bool,
    ) -> Result<(), Errno> {
        if !domain.options().dirty_tracking {
            return Err(Errno::EOPNOTSUPP);
        }
        if enable {
            for area in self.areas.values() {
                let (iova, length) = (Iova(area.first), area.slice.length);
                domain.read_and_clear_dirty(iova, length, true, &mut |_, _| {})?;
            }
            domain.flush()?;
        }
        Ok(domain.set_dirty_tracking(enable)?)
    }

    /// What was written in the first part of `at`, which is what is left of `whole`: the number
    /// of the first bit and the bits, and what is left then.
    ///
    /// # Errors
    /// [`Errno::EINVAL`] for what is not aligned or not all mapped,
    /// [`EOVERFLOW`](Errno::EOVERFLOW), [`EOPNOTSUPP`](Errno::EOPNOTSUPP) unless the domain was
    /// made for it.
    pub(crate) fn dirty_bitmap(
        &self,
        domain: &Arc<dyn Domain>,
        whole: BitmapRequest,
        at: BitmapRequest,
    ) -> Result<Bitmap, Errno> {
        let BitmapRequest {
            iova,
            length,
            page_size,
            clear,
        } = at;
        let end = *range(iova, length)?.end();
        let unaligned = |size: u64| (iova | length) & (size - 1) != 0;
        if unaligned(self.alignment) || !page_size.is_power_of_two() || unaligned(page_size) {
            return Err(Errno::EINVAL);
        }
        if !domain.options().dirty_tracking {
            return Err(Errno::EOPNOTSUPP);
        }
        let last = iova
            .saturating_add(page_size.saturating_mul(BATCH) - 1)
            .min(end);
        let part = iova..=last;
        let areas = self.contiguous(&part).map_err(|_| Errno::EINVAL)?;
        let mut bits = vec![0_u8; ((last - iova) / page_size + 1).div_ceil(8) as usize];
        for area in areas {
            let (first, end) = (area.first.max(iova), area.last().min(last));
            domain.read_and_clear_dirty(
                Iova(first),
                end - first + 1,
                clear,
                &mut |page, size| {
                    mark(&mut bits, &part, page_size, page.0, size);
                },
            )?;
        }
        if clear {
            domain.flush()?;
        }
        let left = end - last;
        let next = (left > 0).then(|| BitmapRequest {
            iova: last + 1,
            length: left,
            ..at
        });
        Ok((((iova - whole.iova) / page_size, bits), next))
    }
}

/// Some bits of a bitmap and the number of the first, and what is to be asked for next.
pub(crate) type Bitmap = ((u64, Vec<u8>), Option<BitmapRequest>);

/// Sets the bits of a page.
fn mark(bits: &mut [u8], part: &std::ops::RangeInclusive<u64>, unit: u64, page: u64, size: u64) {
    let first = page.max(*part.start());
    let last = page.saturating_add(size - 1).min(*part.end());
    if first > last {
        return;
    }
    for bit in (first - part.start()) / unit..=(last - part.start()) / unit {
        if let Some(byte) = bits.get_mut((bit / 8) as usize) {
            *byte |= 1 << (bit % 8);
        }
    }
}
