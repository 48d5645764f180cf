//! Every target on its committed inputs, without a fuzzer.

use std::collections::BTreeSet;
use std::path::Path;

use vm_iommu_fuzz::TARGETS;

fn names_in(folder: &str) -> BTreeSet<String> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join(folder);
    let entries = std::fs::read_dir(&folder).expect("the folder is committed");
    entries
        .map(|entry| entry.expect("readable").path())
        .filter_map(|path| Some(path.file_stem()?.to_str()?.to_owned()))
        .collect()
}

#[test]
fn every_target_passes_its_corpus() {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus");
    for (name, target) in TARGETS {
        let mut inputs = 0;
        for entry in std::fs::read_dir(corpus.join(name)).expect("each target has a corpus") {
            let path = entry.expect("readable").path();
            // Shown with the panic if there is one.
            println!("{}", path.display());
            target(&std::fs::read(&path).expect("readable"));
            inputs += 1;
        }
        assert!(inputs > 0, "{name} has no input");
    }
}

#[test]
fn every_target_has_an_entry_point_and_every_corpus_a_target() {
    let targets: BTreeSet<String> = TARGETS.iter().map(|(name, _)| (*name).to_owned()).collect();
    assert_eq!(names_in("fuzz_targets"), targets);
    assert!(names_in("corpus").is_subset(&targets));
}
