use super::list::List;
use super::tap::{Case, Outcome, Reader};

fn read(text: &str) -> Reader {
    let mut reader = Reader::default();
    for line in text.lines() {
        reader.line(line);
    }
    reader
}

fn passed(name: &str) -> Case {
    Case {
        name: name.to_owned(),
        outcome: Outcome::Passed,
        said: Vec::new(),
    }
}

#[test]
fn the_list_has_246_cases_in_8_fixtures() {
    let list = List::iommufd().unwrap();
    let cases: Vec<(&str, usize)> = list
        .cases()
        .map(|(name, cases)| (name, cases.len()))
        .collect();
    assert_eq!(
        cases,
        [
            ("iommufd", 11),
            ("change_process", 3),
            ("iommufd_ioas", 108),
            ("iommufd_mock_domain", 42),
            ("iommufd_dirty_tracking", 54),
            ("vfio_compat_mock_domain", 10),
            ("iommufd_viommu", 16),
            ("iommufd_device_pasid", 2),
        ]
    );
}

#[test]
fn the_harness_output_is_read() {
    let reader = read(
        "TAP version 13\n1..3\n# Starting 3 tests from 3 test cases.\n\
         #  RUN           iommufd.simple_close ...\n#            OK  iommufd.simple_close\n\
         ok 1 iommufd.simple_close\n#  RUN           a.b.c ...\n\
         # iommufd.c:1:c:Expected 0 (0) != 5 (5)\n#          FAIL  a.b.c\nnot ok 2 a.b.c\n\
         #  RUN           a.b.d ...\n#      SKIP      no viommu\nok 3 a.b.d # SKIP no viommu\n",
    );
    assert_eq!(reader.planned, Some(3));
    let outcomes: Vec<_> = reader
        .cases
        .iter()
        .map(|case| (case.name.as_str(), case.outcome))
        .collect();
    assert_eq!(
        outcomes,
        [
            ("iommufd.simple_close", Outcome::Passed),
            ("a.b.c", Outcome::Failed),
            ("a.b.d", Outcome::Skipped),
        ]
    );
    assert_eq!(
        reader.cases[1].said[0],
        "iommufd.c:1:c:Expected 0 (0) != 5 (5)"
    );
}

#[test]
fn a_line_that_begins_a_case_names_it() {
    let mut reader = Reader::default();
    assert_eq!(reader.line("#  RUN           a.b ..."), Some("a.b"));
    assert_eq!(reader.line("ok"), None);
    assert_eq!(reader.line("not ok 1"), None);
    assert!(reader.cases.is_empty());
}

#[test]
fn every_known_case_must_run_and_no_other_counts() {
    let list = List::iommufd().unwrap();
    let mut run: Vec<Case> = list
        .cases()
        .flat_map(|(_, cases)| cases)
        .map(|name| passed(&name))
        .collect();
    let whole = list.compare(run.clone(), false);
    assert_eq!((whole.total.passed, whole.total.failed), (246, 0));

    run.push(Case {
        outcome: Outcome::Failed,
        ..passed("iommufd.of_a_newer_kernel")
    });
    let newer = list.compare(run.clone(), false);
    assert_eq!((newer.total.failed, newer.new.len()), (0, 1));

    run.remove(0);
    let missing = list.compare(run, false);
    assert_eq!((missing.total.passed, missing.total.failed), (245, 1));
    assert_eq!(missing.wrong[0].name, "iommufd.simple_close");
}

#[test]
fn only_the_cases_that_do_not_apply_may_be_skipped() {
    let list = List::iommufd().unwrap();
    let skipped = |name: &str| Case {
        outcome: Outcome::Skipped,
        ..passed(name)
    };
    let run = vec![
        skipped("iommufd_viommu.no_viommu.hw_queue"),
        skipped("iommufd.simple_close"),
    ];
    let part = list.compare(run, true);
    assert_eq!(
        (part.total.cases, part.total.skipped, part.total.failed),
        (2, 1, 1)
    );
}
