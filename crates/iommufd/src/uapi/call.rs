//! One call.

use std::sync::Arc;

use super::Plain;
use crate::caller::{NewFile, Place, Reply};
use crate::{Caller, Context, ContextFile, Errno};

/// How much of a structure's end is looked at at once.
const BLOCK: usize = 4096;

/// A call whose structure is in the caller's memory.
pub(crate) struct Call<'a> {
    pub(crate) context: &'a Arc<Context>,
    pub(crate) caller: &'a dyn Caller,
    /// Where the structure is.
    pub(crate) argument: u64,
    /// How long the caller says it is.
    pub(crate) size: u32,
}

/// An object that was made and that nobody can name before the caller knows its number.
pub(crate) struct Made<T> {
    /// What the caller learns.
    pub(crate) answer: T,
    pub(crate) id: u32,
    /// A file that goes with it, and where its number is in the structure.
    pub(crate) file: Option<(Arc<dyn ContextFile>, usize)>,
}

impl Call<'_> {
    /// Reads the structure.
    ///
    /// # Errors
    /// [`Errno::EINVAL`] if it is shorter than `least` bytes, [`E2BIG`](Errno::E2BIG) if what
    /// follows the part that is known here is not 0, [`EFAULT`](Errno::EFAULT).
    pub(crate) fn read<T: Plain>(&self, least: usize) -> Result<T, Errno> {
        let size = self.size as usize;
        if size < least {
            return Err(Errno::EINVAL);
        }
        let mut block = [0; BLOCK];
        let mut at = size_of::<T>();
        while at < size {
            let length = BLOCK.min(size - at);
            let part = block.get_mut(..length).ok_or(Errno::EFAULT)?;
            let address = self.argument.checked_add(at as u64).ok_or(Errno::EFAULT)?;
            self.caller.read(address, part)?;
            if part.iter().any(|byte| *byte != 0) {
                return Err(Errno::E2BIG);
            }
            at += length;
        }
        let mut bytes = vec![0; size.min(size_of::<T>())];
        self.caller.read(self.argument, &mut bytes)?;
        Ok(T::from_bytes(&bytes))
    }

    /// Writes the structure back, as much of it as the caller has.
    ///
    /// # Errors
    /// [`Errno::EFAULT`].
    pub(crate) fn respond<T: Plain>(&self, answer: &T) -> Result<(), Errno> {
        let bytes = answer.to_bytes();
        let length = bytes.len().min(self.size as usize);
        self.caller
            .write(self.argument, bytes.get(..length).ok_or(Errno::EFAULT)?)
    }

    /// Tells the caller of an object, and only then lets it be named; or undoes it.
    ///
    /// # Errors
    /// [`Errno::EFAULT`].
    pub(crate) fn finish<T: Plain>(&self, made: Made<T>) -> Result<Reply, Errno> {
        let Made { answer, id, file } = made;
        let place = match &file {
            Some((_, offset)) => self
                .argument
                .checked_add(*offset as u64)
                .ok_or(Errno::EFAULT),
            None => Ok(0),
        };
        let told = place.and_then(|place| self.respond(&answer).map(|()| place));
        let place = match told {
            Ok(place) => place,
            Err(error) => {
                drop(file);
                self.context.abort(id);
                return Err(error);
            }
        };
        self.context.publish(id);
        let files = file.map(|(file, _)| NewFile {
            file,
            place: Place::At(place),
            close_on_exec: true,
        });
        Ok(Reply {
            value: 0,
            files: files.into_iter().collect(),
        })
    }
}

/// Where a field of a structure ends.
macro_rules! end_of {
    ($type:ty, $field:ident) => {{
        const fn size_of_field<S, F>(_: fn(&S) -> &F) -> usize {
            size_of::<F>()
        }
        std::mem::offset_of!($type, $field) + size_of_field(|value: &$type| &value.$field)
    }};
}
pub(crate) use end_of;
