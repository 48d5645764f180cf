//! The messages. Eight words are the message itself; what an `ioctl`'s argument points to follows,
//! there and back, as far as there is any.

mod inline;
mod reply;
mod request;

pub use inline::{INLINE, Inline};
pub use reply::{File, Place, Reply};
pub use request::{Capabilities, Privileges, Request};

use std::ops::Deref;
use thiserror::Error;

/// Both sides must say the same; raised with every change of a message.
pub const VERSION: u32 = 1;

const WORDS: usize = 8;
const INLINE_AT: usize = WORDS * 8 + size_of::<u128>();
/// The size of the longest message, in bytes.
pub const MESSAGE_BYTES: usize = INLINE_AT + INLINE;

/// A message that no side of this version sends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("a malformed message")]
pub struct Malformed;

/// A message as it is sent.
#[derive(Debug, Clone, Copy)]
pub struct Message {
    bytes: [u8; MESSAGE_BYTES],
    length: usize,
}

impl Deref for Message {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        self.bytes.get(..self.length).unwrap_or(&self.bytes)
    }
}

fn message(words: [u64; WORDS], inline: &Inline) -> Message {
    let mut bytes = [0; MESSAGE_BYTES];
    let (head, rest) = bytes.split_at_mut(WORDS * 8);
    for (chunk, word) in head.chunks_exact_mut(8).zip(words) {
        chunk.copy_from_slice(&word.to_ne_bytes());
    }
    let mut length = WORDS * 8;
    if inline.mask != 0 {
        let (mask, content) = rest.split_at_mut(size_of::<u128>());
        mask.copy_from_slice(&inline.mask.to_ne_bytes());
        for (at, run) in inline.runs() {
            if let Some(place) = content.get_mut(at..at + run.len()) {
                place.copy_from_slice(run);
            }
        }
        length = INLINE_AT + inline.end();
    }
    Message { bytes, length }
}

fn parts(message: &[u8]) -> Result<([u64; WORDS], Inline), Malformed> {
    let (head, rest) = message.split_at_checked(WORDS * 8).ok_or(Malformed)?;
    let mut words = [0; WORDS];
    for (word, chunk) in words.iter_mut().zip(head.chunks_exact(8)) {
        *word = u64::from_ne_bytes(chunk.try_into().map_err(|_| Malformed)?);
    }
    let mut inline = Inline::default();
    if rest.is_empty() {
        return Ok((words, inline));
    }
    let (mask, content) = rest.split_at_checked(size_of::<u128>()).ok_or(Malformed)?;
    inline.mask = u128::from_ne_bytes(mask.try_into().map_err(|_| Malformed)?);
    let is_masked = |(at, byte): (usize, &u8)| *byte == 0 || inline.mask >> at & 1 == 1;
    if inline.mask == 0
        || content.len() != inline.end()
        || !content.iter().enumerate().all(is_masked)
    {
        return Err(Malformed);
    }
    let place = inline.bytes.get_mut(..content.len()).ok_or(Malformed)?;
    place.copy_from_slice(content);
    Ok((words, inline))
}

fn narrow<T: TryFrom<u64>>(word: u64) -> Result<T, Malformed> {
    word.try_into().map_err(|_| Malformed)
}

fn flag(word: u64) -> Result<bool, Malformed> {
    match word {
        0 => Ok(false),
        1 => Ok(true),
        _ => Err(Malformed),
    }
}

/// Flags as the bits of a word, the first in bit 0.
fn pack<const N: usize>(flags: [bool; N]) -> u64 {
    let bits = flags.iter().enumerate();
    bits.fold(0, |word, (bit, flag)| word | u64::from(*flag) << bit)
}

fn unpack<const N: usize>(word: u64) -> Result<[bool; N], Malformed> {
    if word >> N != 0 {
        return Err(Malformed);
    }
    Ok(std::array::from_fn(|bit| word >> bit & 1 == 1))
}
