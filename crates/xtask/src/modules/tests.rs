use super::*;

fn tree(builtin: &str, modules: &[(&str, &str)]) -> (tempfile::TempDir, ModuleTree) {
    let dir = tempfile::tempdir().unwrap();
    let drivers = dir.path().join("kernel/drivers");
    std::fs::create_dir_all(&drivers).unwrap();
    std::fs::write(dir.path().join("modules.builtin"), builtin).unwrap();
    for (file, depends) in modules {
        let info = format!("ELF license=GPL\0depends={depends}\0name=x\0");
        std::fs::write(drivers.join(file), info).unwrap();
    }
    let tree = ModuleTree::open(dir.path()).unwrap();
    (dir, tree)
}

fn names(tree: &ModuleTree, wanted: &[&str]) -> Vec<String> {
    let modules = tree.resolve(wanted).unwrap();
    modules.into_iter().map(|module| module.name).collect()
}

#[test]
fn dependencies_load_first_and_once() {
    let modules = [
        ("virtio_blk.ko", "virtio,virtio_ring"),
        ("virtio.ko", ""),
        ("virtio_ring.ko", "virtio"),
    ];
    let (_dir, tree) = tree("", &modules);
    let expected = ["virtio", "virtio_ring", "virtio_blk"];
    assert_eq!(names(&tree, &["virtio_blk", "virtio_ring"]), expected);
}

#[test]
fn builtin_modules_are_left_out_and_dashes_are_underscores() {
    let (_dir, tree) = tree(
        "kernel/drivers/virtio/virtio.ko\n",
        &[("kvm-amd.ko", "kvm"), ("kvm.ko", "virtio")],
    );
    assert_eq!(names(&tree, &["kvm-amd", "virtio"]), ["kvm", "kvm_amd"]);
}

#[test]
fn an_unknown_module_is_named() {
    let (_dir, tree) = tree("", &[]);
    let error = tree.resolve(&["nothing"]).unwrap_err().to_string();
    assert!(error.contains("nothing"), "{error}");
}

#[test]
fn a_cycle_ends() {
    let (_dir, tree) = tree("", &[("a.ko", "b"), ("b.ko", "a")]);
    assert_eq!(names(&tree, &["a"]), ["b", "a"]);
}
