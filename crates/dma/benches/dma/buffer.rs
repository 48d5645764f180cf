//! A device's own memory.

use std::ops::{Deref, DerefMut};

const LINE: usize = 64;

/// Bytes that begin at a cache line. Where else they begin is chance, and decides more than what is
/// measured: a copy whose stores each span two lines takes several times as long.
pub struct Buffer {
    memory: Vec<u8>,
    begin: usize,
    size: usize,
}

impl Buffer {
    /// `size` bytes of `value`.
    pub fn new(value: u8, size: u64) -> Self {
        let size = size as usize;
        let memory = vec![value; size + LINE];
        Self {
            begin: memory.as_ptr().align_offset(LINE),
            memory,
            size,
        }
    }
}

impl Deref for Buffer {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.memory[self.begin..][..self.size]
    }
}

impl DerefMut for Buffer {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.memory[self.begin..][..self.size]
    }
}
