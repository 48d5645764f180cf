//! The lines of `/proc/PID/status` that iommufd changes.

/// Bytes that the kernel itself reports, and what is added to them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Added {
    /// To `VmPin`.
    pub pinned: u64,
    /// To `VmLck`.
    pub locked: u64,
}

/// Hands `text` to `out` in pieces, with what is added to its `VmPin` and `VmLck`.
pub fn edit(text: &[u8], added: Added, mut out: impl FnMut(&[u8])) {
    for line in text.split_inclusive(|byte| *byte == b'\n') {
        let changed = [
            (&b"VmPin:\t"[..], added.pinned),
            (&b"VmLck:\t"[..], added.locked),
        ]
        .into_iter()
        .find_map(|(name, bytes)| Some((name, line.strip_prefix(name)?, bytes)));
        let Some((name, rest, bytes)) = changed else {
            out(line);
            continue;
        };
        let kib = number(rest).saturating_add(bytes / 1024);
        out(name);
        out(&right_aligned(kib));
        out(b" kB\n");
    }
}

fn number(text: &[u8]) -> u64 {
    let digits = text
        .iter()
        .skip_while(|byte| **byte == b' ')
        .take_while(|byte| byte.is_ascii_digit());
    digits.fold(0, |value: u64, digit| {
        value
            .saturating_mul(10)
            .saturating_add(u64::from(digit - b'0'))
    })
}

/// The decimal in 20 places, of which the kernel fills at least eight.
fn right_aligned(mut value: u64) -> Decimal {
    let mut digits = [b' '; 20];
    let mut from = digits.len();
    loop {
        from -= 1;
        digits[from] = b'0' + (value % 10) as u8;
        value /= 10;
        if value == 0 {
            break;
        }
    }
    Decimal {
        digits,
        from: from.min(12),
    }
}

struct Decimal {
    digits: [u8; 20],
    from: usize,
}

impl std::ops::Deref for Decimal {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        self.digits.get(self.from..).unwrap_or_default()
    }
}
