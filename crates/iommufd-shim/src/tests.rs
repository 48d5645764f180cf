use crate::edit::{Added, edit};
use crate::{start, status};

fn edited(text: &str, added: Added) -> String {
    let mut all = Vec::new();
    edit(text.as_bytes(), added, |piece| all.extend_from_slice(piece));
    String::from_utf8(all).unwrap()
}

#[test]
fn pinned_and_locked_memory_is_added_and_nothing_else_changes() {
    let text = "Name:\tx\nVmLck:\t       4 kB\nVmPin:\t       0 kB\nVmHWM:\t    2048 kB\n";
    let added = Added {
        pinned: 8192,
        locked: 4096,
    };
    assert_eq!(
        edited(text, added),
        "Name:\tx\nVmLck:\t       8 kB\nVmPin:\t       8 kB\nVmHWM:\t    2048 kB\n"
    );
    assert_eq!(edited(text, Added::default()), text);
    assert_eq!(edited("VmPin:\t", added), "VmPin:\t       8 kB\n");
}

#[test]
fn a_number_too_wide_for_its_column_is_whole() {
    let added = Added {
        pinned: 123_456_789 << 10,
        locked: u64::MAX,
    };
    assert_eq!(
        edited("VmPin:\t       0 kB\nVmLck:\t       0 kB\n", added),
        "VmPin:\t123456789 kB\nVmLck:\t18014398509481983 kB\n"
    );
}

#[test]
fn only_status_paths_name_a_process() {
    let own = std::process::id();
    assert_eq!(status::process_of(b"/proc/self/status"), Some(own));
    assert_eq!(status::process_of(b"/proc/42/status"), Some(42));
    for path in [
        "/proc/self/statusx",
        "/proc//status",
        "/proc/4 2/status",
        "/proc/self/task/1/status",
        "proc/self/status",
    ] {
        assert_eq!(status::process_of(path.as_bytes()), None, "{path}");
    }
}

#[test]
fn a_servers_number_is_hexadecimal_and_not_zero() {
    assert_eq!(start::parse(b"1f"), Some(0x1f));
    for text in ["", "0", "x", "1g", "10000000000000000"] {
        assert_eq!(start::parse(text.as_bytes()), None, "{text}");
    }
}
