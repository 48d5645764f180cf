use super::*;

#[test]
fn ldd_lines_with_files_are_taken() {
    let text = "\tlinux-vdso.so.1 (0x00007ffd)\n\
                \tlibc.so.6 => /lib/x86_64-linux-gnu/libc.so.6 (0x00007f)\n\
                \t/lib64/ld-linux-x86-64.so.2 (0x00007f)\n";
    assert_eq!(
        parse(text),
        [
            PathBuf::from("/lib/x86_64-linux-gnu/libc.so.6"),
            PathBuf::from("/lib64/ld-linux-x86-64.so.2")
        ]
    );
    assert!(parse("\tstatically linked\n").is_empty());
}

#[test]
fn this_test_needs_the_c_library() {
    let libraries = of(&std::env::current_exe().unwrap()).unwrap();
    assert!(
        libraries
            .iter()
            .any(|l| l.to_string_lossy().contains("libc.so"))
    );
}
