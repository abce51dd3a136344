use proptest::prelude::*;

use super::*;

proptest! {
    #[test]
    fn every_name_that_parses_is_one_safe_segment_and_is_kept(text in any::<String>()) {
        if let Ok(name) = text.parse::<ModelName>() {
            prop_assert_eq!(name.as_str(), &text);
            prop_assert!(!text.contains(['/', '\\', '\0', ':']) && !text.starts_with('.'));
        }
    }

    #[test]
    fn names_of_the_documented_form_parse(text in "[a-zA-Z0-9][a-zA-Z0-9_.-]{0,62}") {
        prop_assert!(text.parse::<ModelName>().is_ok());
    }

    #[test]
    fn every_version_that_parses_has_one_spelling(text in "[+0-9]{0,24}|.*") {
        if let Ok(version) = text.parse::<Version>() {
            prop_assert_eq!(version.to_string(), text);
        }
    }

    #[test]
    fn versions_order_by_number(left in 1..=u64::MAX, right in 1..=u64::MAX) {
        let version = |number: u64| number.to_string().parse::<Version>().unwrap();
        prop_assert_eq!(version(left).cmp(&version(right)), left.cmp(&right));
    }

    #[test]
    fn references_survive_their_text(name in "[a-z][a-z0-9.-]{0,20}", version in 0..u64::MAX) {
        let text = if version == 0 { name } else { format!("{name}:{version}") };
        prop_assert_eq!(text.parse::<ModelReference>().unwrap().to_string(), text);
    }
}

#[test]
fn names_that_would_leave_their_folder_are_refused() {
    for name in [
        "",
        ".",
        "..",
        ".hidden",
        "a/b",
        "a\\b",
        "-a",
        "a b",
        &"a".repeat(64),
    ] {
        assert!(name.parse::<ModelName>().is_err(), "{name:?}");
    }
}

#[test]
fn zero_signs_and_leading_zeros_are_no_versions() {
    for version in [
        "",
        "0",
        "01",
        "+1",
        "-1",
        "1.0",
        " 1",
        "18446744073709551616",
    ] {
        assert!(version.parse::<Version>().is_err(), "{version:?}");
    }
}
