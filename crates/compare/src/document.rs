//! The page of the book that lists the differences, made from the table.

use std::fmt::Write;

use crate::amd::known as amd;
use crate::vtd::known::DIFFERENCES;
use crate::vtd::session::SESSIONS;

/// What is above the list.
const HEAD: &str = "\
# QEMU's units and ours: known differences

Made by `cargo xtask compare --document` from the tables in `crates/compare/src/vtd/known.rs` and
`crates/compare/src/amd/known.rs`; a test holds them together.

`cargo xtask compare` puts the same bytes and the same requests to two VT-d units: QEMU's
`intel-iommu`, with an `edu` as the device, and the whole unit of `crates/vtd`, with a `DmaHandle`
in the device's place. Both are driven through their registers as a driver would, with
invalidations by queue and by registers. The tables are random: valid ones of three and four
levels with pages of 4 KiB, 2 MiB and 1 GiB, and damaged ones, with reserved bits, misaligned
pages, missing permissions, page sizes at wrong levels, tables outside memory, tables that hold
themselves, and damaged root and context entries. Requests are on the pages, beside them, and at
and beyond the edges of the address space. Of each request is compared which bytes were read or
where they were written, and the fault that was recorded: reason, page, source id, read or write.

AMD v1 tables of all modes, with skipped levels and all encodings of page sizes below 1 GiB, are
put to QEMU's `amd-iommu` and to the walker of `crates/pagetable`, and the address that each
reaches is compared.

Every difference has to be one of the list below, or the command fails and prints the tables and
the request. With the same seed a run makes the same cases.

";

/// What is below the list.
const TAIL: &str = "\
## What is not compared

- The interrupt address range as an input address: there an access is an interrupt.
- Five levels: QEMU refuses `aw-bits=57`.
- Which physical address bits are reserved where the width of physical and of translated addresses
  differ: QEMU has one property for both, and ours is set up alike.
- Requests with PASID, translation requests and translated requests: `edu` makes none. QEMU 7.2
  has no `iommu-testdev`, which could.
- Scalable mode: QEMU 7.2 has second-stage translation there (`x-scalable-mode`), our unit is in
  legacy mode only. First-stage tables (`x-flts`) are in newer QEMUs.
- More than one fault at a time: QEMU has one fault recording register; each request's record is
  taken before the next request.
- AMD-Vi but for v1 tables, and of these the event log: our unit is not put beside QEMU's here yet,
  only the walker. Tables that lead back to themselves: QEMU 7.2 walks them without end.
  In QEMU 11.1 `amd-iommu` translates DMA only with `dma-remap=on`, a property that 7.2 does not
  have.
";

/// The page.
pub fn document() -> String {
    let mut text = HEAD.to_owned();
    text.push_str("Compared with QEMU 7.2.22 (Debian bookworm), in these configurations:\n\n");
    for session in SESSIONS {
        let _ = writeln!(text, "- `intel-iommu,intremap=off,{}`", session.properties);
    }
    text.push_str("- `amd-iommu,intremap=off`\n");
    text.push_str("\n## Differences: VT-d\n\n");
    for difference in DIFFERENCES {
        let _ = writeln!(text, "### `{}`: {}\n", difference.name, difference.title);
        for (label, paragraph) in [("What", difference.what), ("Why", difference.reason)] {
            let paragraph = format!("**{label}.** {paragraph}");
            text.push_str(&wrapped(&paragraph));
            text.push('\n');
        }
    }
    text.push_str("## Differences: AMD v1 tables\n\n");
    text.push_str("QEMU lets pass what our walker refuses. Sections are those of AMD's 48882.\n\n");
    for difference in amd::DIFFERENCES {
        let _ = writeln!(text, "### `{}`: {}\n", difference.name, difference.title);
        text.push_str(&wrapped(&format!("**Why.** {}", difference.reason)));
        text.push('\n');
    }
    text.push_str(TAIL);
    text
}

/// The paragraph in lines of at most 100 characters.
fn wrapped(paragraph: &str) -> String {
    let mut text = String::new();
    let mut line = 0;
    for word in paragraph.split_ascii_whitespace() {
        if line != 0 && line + 1 + word.len() > 100 {
            text.push('\n');
            line = 0;
        }
        if line != 0 {
            text.push(' ');
            line += 1;
        }
        text.push_str(word);
        line += word.len();
    }
    text.push('\n');
    text
}

#[cfg(test)]
mod tests {
    use super::document;

    #[test]
    fn the_page_in_the_book_is_that_of_the_table() {
        let path = concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/../../docs/conformance/qemu-differences.md"
        );
        let page = std::fs::read_to_string(path).unwrap();
        assert_eq!(
            page,
            document(),
            "make it anew: cargo xtask compare --document > docs/conformance/qemu-differences.md"
        );
    }
}
