//! What is done when the library is loaded: the environment is read, the next libraries' functions
//! are found.

use crate::{link, next};
use std::ffi::CStr;
use std::sync::atomic::{AtomicU64, Ordering};

/// The server's number; 0 while there is none.
static SERVER: AtomicU64 = AtomicU64::new(0);

/// The number of the server that this program runs under.
pub fn server() -> Option<u64> {
    match SERVER.load(Ordering::Relaxed) {
        0 => None,
        number => Some(number),
    }
}

#[cfg_attr(not(test), used)]
#[cfg_attr(not(test), unsafe(link_section = ".init_array"))]
#[cfg_attr(test, expect(dead_code, reason = "a test program is under no server"))]
static START: extern "C" fn() = start;

extern "C" fn start() {
    next::find_all();
    if let Some(number) = from_environment()
        && link::prepare()
    {
        SERVER.store(number, Ordering::Relaxed);
    }
}

fn from_environment() -> Option<u64> {
    const _: () = assert!(vm_iommufd_wire::ENVIRONMENT.len() < 32);
    let mut name = [0u8; 32];
    let text = vm_iommufd_wire::ENVIRONMENT.as_bytes();
    name.get_mut(..text.len())?.copy_from_slice(text);
    let name = CStr::from_bytes_until_nul(&name).ok()?;
    // SAFETY: the name ends in a zero; nobody changes the environment while libraries are loaded.
    let value = unsafe { libc::getenv(name.as_ptr()) };
    if value.is_null() {
        return None;
    }
    // SAFETY: a value of the environment ends in a zero, and stays as long as this is read.
    let value = unsafe { CStr::from_ptr(value) };
    parse(value.to_bytes())
}

/// The server's number, in hexadecimal.
pub(crate) fn parse(text: &[u8]) -> Option<u64> {
    let text = std::str::from_utf8(text).ok()?;
    u64::from_str_radix(text, 16)
        .ok()
        .filter(|number| *number != 0)
}
