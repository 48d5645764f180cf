//! Writes the inputs that fuzzing starts from into the corpora.

use std::io;
use std::path::Path;

fn main() -> io::Result<()> {
    let tables = vm_iommu_fuzz::pagetable::seeds().into_iter();
    write(tables)?;
    #[cfg(feature = "amdvi")]
    write(
        vm_iommu_fuzz::amdvi_seeds()
            .into_iter()
            .map(|input| ("amdvi_unit", input)),
    )?;
    Ok(())
}

fn write<'a>(seeds: impl Iterator<Item = (&'a str, Vec<u8>)>) -> io::Result<()> {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus");
    for (number, (target, input)) in seeds.enumerate() {
        let folder = corpus.join(target);
        std::fs::create_dir_all(&folder)?;
        std::fs::write(folder.join(format!("seed-{number:03}")), input)?;
    }
    Ok(())
}
