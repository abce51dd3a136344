use proptest::prelude::*;

use super::*;

#[test]
fn a_file_has_the_digest_that_the_standard_gives() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("abc");
    std::fs::write(&file, "abc").unwrap();
    // FIPS 180-2, appendix B.1.
    let expected = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
    assert_eq!(Digest::of_file(&file).unwrap().to_string(), expected);
}

#[test]
fn a_digest_reads_back_in_either_case_and_in_json() {
    let text = "0123456789abcdef".repeat(4);
    let digest: Digest = text.parse().unwrap();
    assert_eq!(digest.to_string(), text);
    assert_eq!(text.to_uppercase().parse(), Ok(digest));
    let json = serde_json::to_string(&digest).unwrap();
    assert_eq!(json, format!("{text:?}"));
    assert_eq!(serde_json::from_str::<Digest>(&json).unwrap(), digest);
}

#[test]
fn what_is_not_64_hex_digits_is_no_digest() {
    for text in [
        "",
        "ab",
        &"0".repeat(63),
        &"0".repeat(65),
        &"g".repeat(64),
        &"é".repeat(32),
    ] {
        assert!(text.parse::<Digest>().is_err(), "{text:?}");
    }
}

#[test]
fn a_name_and_what_follows_it_do_not_run_into_each_other() {
    let (first, last) = (Digest([b'x'; 32]), Digest([0; 32]));
    let joined = format!("a{}b", "x".repeat(32));
    let one = Digest::of_version([(joined.as_str(), last)]);
    let two = Digest::of_version([("a", first), ("b", last)]);
    assert_ne!(one, two);
}

#[test]
fn a_pipe_is_refused_without_waiting_for_a_writer() {
    let dir = tempfile::tempdir().unwrap();
    let pipe = dir.path().join("pipe");
    let (kind, mode) = (rustix::fs::FileType::Fifo, rustix::fs::Mode::RUSR);
    rustix::fs::mknodat(rustix::fs::CWD, &pipe, kind, mode, 0).unwrap();
    assert!(matches!(
        Digest::of_file(&pipe),
        Err(StoreError::Invalid(_))
    ));
}

#[test]
fn stages_and_their_order_change_a_digest_and_none_leave_it() {
    let [one, two, three] = [1, 2, 3].map(|byte| Digest([byte; 32]));
    assert_eq!(one.with_stages([]), one);
    let there = one.with_stages([two, three]);
    for other in [
        one.with_stages([three, two]),
        one.with_stages([two]),
        two.with_stages([one, three]),
    ] {
        assert_ne!(there, other);
    }
}

proptest! {
    #[test]
    fn a_version_has_the_same_digest_whatever_the_order_of_its_files(
        files in proptest::collection::btree_map("[a-z/]{1,8}", any::<[u8; 32]>(), 0..8),
        seed in any::<usize>(),
    ) {
        let sorted: Vec<_> = files.iter().map(|(name, &bytes)| (name.as_str(), Digest(bytes))).collect();
        let mut shuffled = sorted.clone();
        shuffled.rotate_left(seed % sorted.len().max(1));
        shuffled.reverse();
        prop_assert_eq!(Digest::of_version(sorted), Digest::of_version(shuffled));
    }

    #[test]
    fn digests_survive_their_text(bytes in any::<[u8; 32]>()) {
        let digest = Digest(bytes);
        prop_assert_eq!(digest.to_string().parse(), Ok(digest));
    }
}
