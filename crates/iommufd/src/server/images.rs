//! All images that are connected or whose memory is still in use.

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use super::files::Files;
use super::image::Image;

/// The images by number.
#[derive(Debug, Default)]
pub(super) struct Images {
    table: Mutex<Table>,
    /// The files that they have mapped.
    pub(super) files: Arc<Files>,
}

#[derive(Debug, Default)]
struct Table {
    images: HashMap<u64, Weak<Image>>,
    last: u64,
}

impl Images {
    /// The image of a new connection: the one that it names, if that is of the same process and
    /// user, else a new one.
    pub(super) fn connect(
        &self,
        (image, parent): (u64, u64),
        who: (u32, u32),
        memory: (File, File),
    ) -> Arc<Image> {
        let mut table = self.table.lock().unwrap_or_else(PoisonError::into_inner);
        let known = |number| table.images.get(&number).and_then(Weak::upgrade);
        let same = known(image).filter(|known| known.who() == who);
        if let Some(image) = same {
            return image;
        }
        let parent = known(parent).filter(|parent| parent.who().1 == who.1);
        table.images.retain(|_, image| image.strong_count() > 0);
        table.last += 1;
        let number = table.last;
        let files = Arc::clone(&self.files);
        let image = Image::new(number, who, memory, files, parent.as_deref());
        table.images.insert(number, Arc::downgrade(&image));
        // The parent may be the last of its kind, and go here: not under the lock.
        drop(table);
        image
    }

    /// The present image of a process, if it is connected.
    pub(super) fn of_process(&self, process: u32) -> Option<Arc<Image>> {
        let all = self.all().into_iter();
        all.filter(|image| image.who().0 == process && image.is_connected())
            .max_by_key(|image| image.number())
    }

    /// Forgets files that no image has mapped any more.
    pub(super) fn forget_files(&self) {
        let images = self.all();
        let files = images.iter().flat_map(|image| image.maps().shared_files());
        let mapped: HashSet<_> = files.collect();
        self.files.retain(&mapped);
    }

    fn all(&self) -> Vec<Arc<Image>> {
        let table = self.table.lock().unwrap_or_else(PoisonError::into_inner);
        table.images.values().filter_map(Weak::upgrade).collect()
    }
}
