//! Writes the inputs that fuzzing starts from into the corpora.

use std::io;
use std::path::Path;

fn main() -> io::Result<()> {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus");
    for (number, (target, input)) in vm_iommu_fuzz::pagetable::seeds().into_iter().enumerate() {
        let folder = corpus.join(target);
        std::fs::create_dir_all(&folder)?;
        std::fs::write(folder.join(format!("seed-{number:03}")), input)?;
    }
    Ok(())
}
