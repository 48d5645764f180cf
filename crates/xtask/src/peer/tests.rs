use super::*;

#[test]
fn the_script_quotes_what_it_starts() {
    let script = start_script(Path::new("/a folder"));
    assert_eq!(
        script,
        "#!/bin/sh\nexec '/a folder/usr/lib/x86_64-linux-gnu/ld-linux-x86-64.so.2' \
         --library-path '/a folder/usr/lib/x86_64-linux-gnu' \
         '/a folder/usr/bin/qemu-system-x86_64' -L '/a folder/usr/share/seabios' \
         -L '/a folder/usr/share/qemu' \"$@\"\n"
    );
}
