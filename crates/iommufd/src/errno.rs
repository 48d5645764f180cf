//! The numbers that calls fail with.

use std::fmt;

use vm_iommu_driver::iommu::IommuError;

use crate::ownership::OwnershipError;

/// Why a call failed: an errno of x86-64 Linux, positive.
///
/// Which number a call gives in which case is part of its interface, so the framework keeps to
/// the numbers throughout and names them where they arise.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Errno(i32);

macro_rules! numbers {
    ($($name:ident $text:literal)*) => {
        #[allow(missing_docs)]
        impl Errno {
            $(#[doc = $text] pub const $name: Self = Self(libc::$name);)*
        }

        impl Errno {
            const fn describe(self) -> (&'static str, &'static str) {
                match self.0 {
                    $(libc::$name => (stringify!($name), $text),)*
                    _ => ("errno", "unnamed"),
                }
            }
        }
    };
}

numbers! {
    EPERM "not permitted"
    ENOENT "no such object, or nothing is mapped there"
    EIO "the hardware refused"
    E2BIG "a longer structure with fields that are not known here"
    EBADF "not an open descriptor"
    ENOMEM "out of memory, or of what may be locked"
    EFAULT "memory is not accessible"
    EBUSY "in use"
    EEXIST "exists already"
    ENODEV "no such device, or no compatibility address space"
    EINVAL "invalid argument"
    ENOTTY "no such command"
    ENOSPC "no room"
    ESPIPE "not a whole number of records"
    EDEADLK "a user did not let go of pages that are being unmapped"
    ENXIO "nothing was handed out for this offset and length"
    EOVERFLOW "beyond the end of the address space"
    EBADFD "a descriptor of another kind"
    EMSGSIZE "the buffer is too small"
    EOPNOTSUPP "not supported"
    EADDRINUSE "addresses are in use or reserved"
    EBADE "pages differ from those expected"
    ERANGE "length out of range"
}

impl Errno {
    /// From a number as the kernel's headers have it.
    pub const fn from_raw(number: i32) -> Self {
        Self(number)
    }

    /// The positive number.
    pub const fn raw(self) -> i32 {
        self.0
    }
}

impl From<IommuError> for Errno {
    fn from(error: IommuError) -> Self {
        Self(error.errno())
    }
}

impl From<OwnershipError> for Errno {
    fn from(error: OwnershipError) -> Self {
        Self(error.errno())
    }
}

impl fmt::Display for Errno {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (name, text) = self.describe();
        write!(f, "{text} ({name} {})", self.0)
    }
}

impl fmt::Debug for Errno {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.describe() {
            ("errno", _) => write!(f, "Errno({})", self.0),
            (name, _) => f.write_str(name),
        }
    }
}

impl std::error::Error for Errno {}
