use proptest::prelude::*;

use super::*;

/// Version `number` of a model, looking like `look`.
fn version(number: u8, look: u8) -> StoredVersion {
    let fingerprint = serde_json::from_str(&format!("\"{}\"", format!("{look:02x}").repeat(32)));
    StoredVersion {
        name: "yolo".parse().unwrap(),
        version: number.to_string().parse().unwrap(),
        path: format!("yolo/{number}").into(),
        fingerprint: fingerprint.unwrap(),
    }
}

fn removed(number: u8) -> StoreEvent {
    let version = version(number, 0);
    StoreEvent::Removed(version.name, version.version)
}

#[test]
fn a_version_is_added_once_two_scans_agree() {
    let mut settling = Settling::default();
    assert_eq!(settling.observe(&[version(1, 7)]), []);
    assert_eq!(
        settling.observe(&[version(1, 7)]),
        [StoreEvent::Added(version(1, 7))]
    );
    assert_eq!(settling.observe(&[version(1, 7)]), []);
}

#[test]
fn a_version_that_changes_is_announced_when_it_rests() {
    let mut settling = Settling::default();
    settling.observe(&[version(1, 1)]);
    settling.observe(&[version(1, 1)]);
    assert_eq!(settling.observe(&[version(1, 2)]), []);
    assert_eq!(settling.observe(&[version(1, 3)]), []);
    assert_eq!(
        settling.observe(&[version(1, 3)]),
        [StoreEvent::Changed(version(1, 3))]
    );
}

#[test]
fn a_version_that_is_gone_for_one_scan_is_not_removed() {
    let mut settling = Settling::default();
    settling.observe(&[version(1, 1)]);
    settling.observe(&[version(1, 1)]);
    assert_eq!(settling.observe(&[]), []);
    assert_eq!(settling.observe(&[version(1, 1)]), []);
    assert_eq!(settling.observe(&[version(1, 1)]), []);
    assert_eq!(settling.observe(&[]), []);
    assert_eq!(settling.observe(&[]), [removed(1)]);
    assert_eq!(settling.observe(&[]), []);
}

#[test]
fn a_version_that_comes_back_is_added_again() {
    let mut settling = Settling::default();
    for versions in [
        &[version(1, 1)][..],
        &[version(1, 1)],
        &[],
        &[],
        &[version(1, 1)],
    ] {
        settling.observe(versions);
    }
    assert_eq!(
        settling.observe(&[version(1, 1)]),
        [StoreEvent::Added(version(1, 1))]
    );
}

#[test]
fn events_come_by_version_and_nothing_is_kept_of_what_never_settled() {
    let mut settling = Settling::default();
    settling.observe(&[version(10, 1), version(9, 1), version(3, 1)]);
    assert_eq!(
        settling.observe(&[version(10, 1), version(9, 1)]),
        [
            StoreEvent::Added(version(9, 1)),
            StoreEvent::Added(version(10, 1))
        ]
    );
    assert_eq!(settling.versions.len(), 2);
}

proptest! {
    #[test]
    fn a_version_that_never_looks_the_same_twice_makes_no_event(
        looks in proptest::collection::vec(proptest::option::of(1..=3_u8), 0..30),
    ) {
        let mut settling = Settling::default();
        let mut last = None;
        for look in looks {
            // An absence counts for as little as a look while nothing was announced.
            if look == last {
                continue;
            }
            last = look;
            let scan: Vec<_> = look.map(|look| version(1, look)).into_iter().collect();
            prop_assert_eq!(settling.observe(&scan), []);
        }
    }

    #[test]
    fn two_scans_of_the_same_store_bring_the_events_up_to_it(
        scans in proptest::collection::vec(proptest::collection::btree_map(1..4_u8, 1..3_u8, 0..4), 1..12),
    ) {
        let mut settling = Settling::default();
        let mut present = BTreeMap::new();
        let last = scans.last().cloned().unwrap_or_default();
        for scan in scans.iter().chain([&last]) {
            let versions: Vec<_> = scan.iter().map(|(&number, &look)| version(number, look)).collect();
            for event in settling.observe(&versions) {
                match event {
                    StoreEvent::Added(version) => prop_assert!(present.insert(version.version, version).is_none()),
                    StoreEvent::Changed(version) => prop_assert!(present.insert(version.version, version).is_some()),
                    StoreEvent::Removed(_, version) => prop_assert!(present.remove(&version).is_some()),
                }
            }
        }
        let versions: Vec<_> = last.iter().map(|(&number, &look)| version(number, look)).collect();
        prop_assert_eq!(present.into_values().collect::<Vec<_>>(), versions);
    }
}
