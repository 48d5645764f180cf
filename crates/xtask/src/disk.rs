//! The test disk: known content, what a guest is to read from it and to write to it, and the
//! check of the image after the guest is gone.

use anyhow::{Context, Result, bail};
use sha2::{Digest, Sha256};
use std::fs::File;
use std::io::{BufWriter, Read, Seek, SeekFrom, Write};
use std::path::Path;

/// The size of the image in bytes.
pub const SIZE: u64 = 64 << 20;
/// The bytes that the guest moves through each queue.
pub const REGION: u64 = 2 << 20;
/// Where the regions that the guest writes begin, in bytes: it copies region `q` of the first
/// half here through queue `q`.
pub const WRITE_BASE: u64 = SIZE / 2;
/// The number of queues that the layout has room for.
pub const MAX_QUEUES: u64 = WRITE_BASE / REGION;

const CHUNK: usize = 1 << 20;

/// The content of the image from `offset`, a multiple of 8, on: a counter hashed word by word,
/// so that every word is unlike every other and any place can be computed on its own.
pub fn content(offset: u64, bytes: &mut [u8]) {
    for (index, word) in (offset / 8..).zip(bytes.chunks_mut(8)) {
        let mut x = index.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        x ^= x >> 31;
        word.copy_from_slice(&x.to_le_bytes()[..word.len()]);
    }
}

/// Writes a fresh image.
pub fn create(path: &Path) -> Result<()> {
    let file = File::create(path).with_context(|| format!("cannot create {}", path.display()))?;
    let mut out = BufWriter::new(file);
    let mut chunk = vec![0; CHUNK];
    for offset in (0..SIZE).step_by(CHUNK) {
        content(offset, &mut chunk);
        out.write_all(&chunk)
            .with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(out.flush()?)
}

/// The SHA-256 of the fresh image's `length` bytes at `offset`, in hexadecimal.
pub fn hash(offset: u64, length: u64) -> String {
    let mut bytes = vec![0; length as usize];
    content(offset, &mut bytes);
    Sha256::digest(&bytes)
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

/// Compares an image that a guest has used with what it must hold: the regions that
/// `queues` queues copied, and everything else untouched.
pub fn verify(path: &Path, queues: u64) -> Result<()> {
    let mut file = File::open(path).with_context(|| format!("cannot open {}", path.display()))?;
    let length = file.seek(SeekFrom::End(0))?;
    if length != SIZE {
        bail!("the image is {length} bytes long, not {SIZE}");
    }
    file.seek(SeekFrom::Start(0))?;
    let mut found = vec![0; CHUNK];
    let mut wanted = vec![0; CHUNK];
    for offset in (0..SIZE).step_by(CHUNK) {
        file.read_exact(&mut found)?;
        let written = WRITE_BASE..WRITE_BASE + queues.min(MAX_QUEUES) * REGION;
        let source = if written.contains(&offset) {
            offset - WRITE_BASE
        } else {
            offset
        };
        content(source, &mut wanted);
        if found == wanted {
            continue;
        }
        let at = found.iter().zip(&wanted).position(|(a, b)| a != b);
        let at = offset + at.unwrap_or(0) as u64;
        let place = if written.contains(&offset) {
            format!("which queue {} wrote", (offset - WRITE_BASE) / REGION)
        } else {
            "which no queue should have written".to_owned()
        };
        bail!("wrong content from byte {at:#x} on, {place}");
    }
    Ok(())
}

#[cfg(test)]
mod tests;
