use super::*;

#[test]
fn the_root_is_the_workspace() {
    assert!(root().join("crates/xtask/Cargo.toml").is_file());
}

#[test]
fn only_the_named_binary_is_taken_from_cargo() {
    let line = r#"{"target":{"name":"vm-iommu"},"executable":"/t/vm-iommu"}"#;
    assert_eq!(
        executable_of(line, "vm-iommu").as_deref(),
        Some("/t/vm-iommu")
    );
    let line = r#"{"target":{"name":"xtask"},"executable":"/t/xtask"}"#;
    assert_eq!(executable_of(line, "vm-iommu"), None);
    let library = r#"{"target":{"name":"vm-iommu"},"executable":null}"#;
    assert_eq!(executable_of(library, "vm-iommu"), None);
    let shared =
        r#"{"target":{"name":"shim"},"executable":null,"filenames":["/t/a.d","/t/libshim.so"]}"#;
    assert_eq!(
        executable_of(shared, "shim").as_deref(),
        Some("/t/libshim.so")
    );
    assert_eq!(executable_of("warning: text", "vm-iommu"), None);
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
