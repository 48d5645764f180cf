use std::collections::BTreeSet;

use vm_iommu_dma::GuestRam;
use vm_memory::{GuestAddress, GuestMemoryMmap};

use super::generate::{self, Case};
use super::known::{DIFFERENCES, classify};
use super::run::walk;
use crate::side::layout;
use crate::vtd::case::Request;

fn ram() -> GuestRam {
    let memory = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), layout::DATA.start as usize)]);
    GuestRam::new(memory.unwrap())
}

#[test]
fn generated_cases_pass_in_every_mode_and_meet_every_known_difference() {
    let ram = ram();
    let mut met = BTreeSet::new();
    let mut modes = BTreeSet::new();
    for number in 0..400 {
        let case = generate::case(2, number);
        assert_eq!(case, generate::case(2, number));
        for request in &case.requests {
            match walk(&ram, &case, *request) {
                Ok(Some(_)) => {
                    modes.insert(case.mode);
                }
                Ok(None) => {}
                Err(fault) => met.extend(classify(&fault).map(|known| known.name)),
            }
        }
    }
    assert_eq!(modes, (1..=6).collect());
    assert_eq!(met, DIFFERENCES.iter().map(|d| d.name).collect());
}

#[test]
fn a_page_or_its_permission_that_is_not_there_is_explained_by_nothing() {
    let ram = ram();
    let request = Request {
        iova: 0x1000,
        write: true,
    };
    let page = layout::TABLES.start + 8;
    // An absent table's entry, and a present page's that may only be read.
    for word in [0x11_1200, 0x2000_0000_0020_0001] {
        let case = Case {
            mode: 1,
            words: [(page, word)].into(),
            ..Case::default()
        };
        let fault = walk(&ram, &case, request).unwrap_err();
        assert!(classify(&fault).is_none(), "{fault:?}");
    }
}
