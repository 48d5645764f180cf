use super::*;

#[test]
fn the_root_is_the_workspace() {
    assert!(root().join("crates/xtask/Cargo.toml").is_file());
}

#[test]
fn programs_are_taken_from_what_cargo_says() {
    let line = r#"{"target":{"name":"vm-iommu"},"executable":"/t/vm-iommu"}"#;
    let expected = Program {
        target: "vm-iommu".to_owned(),
        path: "/t/vm-iommu".into(),
    };
    assert_eq!(program(line), Some(expected));
    let library = r#"{"target":{"name":"vm-iommu"},"executable":null}"#;
    assert_eq!(program(library), None);
    assert_eq!(program("warning: text"), None);
    let shared = r#"{"target":{"name":"shim","kind":["cdylib"]},"executable":null,
        "filenames":["/t/a.d","/t/libshim.so"]}"#;
    let expected = Program {
        target: "shim".to_owned(),
        path: "/t/libshim.so".into(),
    };
    assert_eq!(program(shared), Some(expected));
}

#[test]
fn only_the_folders_of_dead_runs_are_removed() {
    let dir = tempfile::tempdir().unwrap();
    let own = format!("boot-{}", std::process::id());
    // Process ids end well below this.
    for name in [own.as_str(), "boot-4294967295", "notes"] {
        std::fs::create_dir(dir.path().join(name)).unwrap();
    }
    remove_left_over(dir.path());
    assert!(dir.path().join(own).exists());
    assert!(!dir.path().join("boot-4294967295").exists());
    assert!(dir.path().join("notes").exists());
}

#[test]
fn no_run_finds_what_an_earlier_one_of_this_process_left() {
    let first = run_folder("again").unwrap();
    std::fs::write(first.join("guest.result.json"), "{}").unwrap();
    let second = run_folder("again").unwrap();
    let left = std::fs::read_dir(&second).unwrap().count();
    std::fs::remove_dir_all(&first).unwrap();
    std::fs::remove_dir_all(&second).unwrap();
    assert_eq!((left, first == second), (0, false));
}
