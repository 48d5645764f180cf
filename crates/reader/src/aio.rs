//! Reads in flight, by Linux's asynchronous I/O (`io_submit(2)`, include/uapi/linux/aio_abi.h).

use std::alloc::{self, Layout};
use std::fs::File;
use std::io::{self, Error, ErrorKind};
use std::os::fd::AsRawFd;
use std::ptr::NonNull;

/// Bytes of one read.
pub const BLOCK: usize = 4096;
const IOCB_CMD_PREAD: u16 = 0;

/// `struct iocb` of a little-endian machine.
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct Control {
    data: u64,
    key: u32,
    rw_flags: u32,
    opcode: u16,
    priority: i16,
    file: u32,
    buffer: u64,
    bytes: u64,
    offset: i64,
    reserved: u64,
    flags: u32,
    event_file: u32,
}

/// `struct io_event`.
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct Event {
    data: u64,
    control: u64,
    result: i64,
    result2: i64,
}

/// A fixed number of reads, each with a buffer of its own.
pub struct Reads {
    context: libc::c_ulong,
    controls: Box<[Control]>,
    events: Box<[Event]>,
    /// Controls to hand to the kernel.
    ready: Vec<*mut Control>,
    in_flight: usize,
    buffers: NonNull<u8>,
    layout: Layout,
}

impl Reads {
    /// `depth` reads of `file`, which must stay open, none in flight yet.
    pub fn new(file: &File, depth: usize) -> io::Result<Self> {
        let layout = Layout::array::<[u8; BLOCK]>(depth)
            .and_then(|layout| layout.align_to(BLOCK))
            .map_err(|_| Error::from(ErrorKind::InvalidInput))?;
        if layout.size() == 0 {
            return Err(Error::from(ErrorKind::InvalidInput));
        }
        // SAFETY: the layout is not of size 0.
        let buffers = NonNull::new(unsafe { alloc::alloc_zeroed(layout) })
            .ok_or(Error::from(ErrorKind::OutOfMemory))?;
        let mut reads = Self {
            context: 0,
            controls: vec![Control::default(); depth].into(),
            events: vec![Event::default(); depth].into(),
            ready: Vec::with_capacity(depth),
            in_flight: 0,
            buffers,
            layout,
        };
        for (slot, control) in reads.controls.iter_mut().enumerate() {
            *control = Control {
                data: slot as u64,
                opcode: IOCB_CMD_PREAD,
                file: file.as_raw_fd().cast_unsigned(),
                buffer: buffers.as_ptr().addr() as u64 + (slot * BLOCK) as u64,
                bytes: BLOCK as u64,
                ..Control::default()
            };
        }
        // SAFETY: the call writes one word, to a place that lives.
        call(unsafe { libc::syscall(libc::SYS_io_setup, depth, &raw mut reads.context) })?;
        Ok(reads)
    }

    /// Makes the read of `slot`, which is not in flight, ready for the bytes at `offset`.
    pub fn prepare(&mut self, slot: usize, offset: u64) {
        let control = &mut self.controls[slot];
        control.offset = offset.cast_signed();
        self.ready.push(control);
    }

    /// Hands all that is ready to the kernel.
    pub fn submit(&mut self) -> io::Result<()> {
        while !self.ready.is_empty() {
            // SAFETY: the controls and their buffers live until `finish` or the process's end,
            // and are not touched while in flight.
            let taken = call(unsafe {
                libc::syscall(
                    libc::SYS_io_submit,
                    self.context,
                    self.ready.len(),
                    self.ready.as_mut_ptr(),
                )
            })?;
            self.in_flight += taken;
            self.ready.drain(..taken);
        }
        Ok(())
    }

    /// Waits for at least one read and makes each that ended ready again, for the bytes at the
    /// offset that `next` yields. How many ended.
    pub fn complete(&mut self, mut next: impl FnMut() -> u64) -> io::Result<usize> {
        let ended = self.wait(1)?;
        for index in 0..ended {
            let slot = self.events[index].data as usize;
            self.prepare(slot, next());
        }
        Ok(ended)
    }

    /// Waits for all that is in flight.
    pub fn finish(mut self) -> io::Result<()> {
        while self.in_flight > 0 {
            self.wait(1)?;
        }
        // SAFETY: nothing is in flight, and the layout is that of the allocation.
        unsafe {
            libc::syscall(libc::SYS_io_destroy, self.context);
            alloc::dealloc(self.buffers.as_ptr(), self.layout);
        }
        Ok(())
    }

    fn wait(&mut self, least: usize) -> io::Result<usize> {
        // SAFETY: the events are as many as the kernel is told.
        let ended = call(unsafe {
            libc::syscall(
                libc::SYS_io_getevents,
                self.context,
                least,
                self.events.len(),
                self.events.as_mut_ptr(),
                std::ptr::null_mut::<libc::timespec>(),
            )
        })?;
        self.in_flight -= ended;
        match self.events[..ended]
            .iter()
            .find(|event| event.result != BLOCK as i64)
        {
            None => Ok(ended),
            Some(event) if event.result < 0 => Err(Error::from_raw_os_error(-event.result as i32)),
            Some(_) => Err(Error::from(ErrorKind::UnexpectedEof)),
        }
    }
}

/// A system call's answer: a count, or the error in errno.
fn call(answer: libc::c_long) -> io::Result<usize> {
    usize::try_from(answer).map_err(|_| Error::last_os_error())
}
