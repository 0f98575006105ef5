use std::ffi::OsStr;

use proptest::prelude::*;

use super::*;

fn keeps(glob: &str, name: &str) -> bool {
    Kept::new(&[glob.to_owned()]).unwrap().first(Path::new(name)).is_some()
}

#[test]
fn what_stands_for_one_stands_for_a_character() {
    for (glob, kept, free) in [
        ("M?rz", &["März", "M保rz", "M😀rz", "Marz"][..], &["Mäerz", "Mrz", "M/rz"][..]),
        ("k[äö]se", &["käse", "köse"], &["küse", "kase", "kse"]),
        ("k[a-cä]se", &["käse", "kbse"], &["kdse", "köse"]),
        ("[а-я]урнал", &["журнал"], &["Журнал", "journal"]),
        ("[一-龥]", &["保"], &["保存", "あ"]),
        ("k[!ä]se", &["köse", "kase"], &["käse", "kse"]),
        ("k[^x]se", &["käse", "kase"], &["kxse"]),
        ("a{?,[äö]x}/**", &["aä/b", "aöx/b/c"], &["aäy/b", "aüx/b"]),
        ("**/M?rz/*.csv", &["März/a.csv", "2024/März/ä.csv"], &["März/a/b.csv"]),
        (r"\[ä\]\?[ä]", &["[ä]?ä"], &["ä?ä", "[ä]xä"]),
        ("[]ä-]", &["]", "ä", "-"], &["ö", "a"]),
        ("ä?{,.old}", &["äö", "äö.old"], &["ä", "ä.old"]),
        ("保存?", &["保存\u{3000}", "保存😀"], &["保存"]),
        ("\u{f0000}?\u{f0001}", &["\u{f0000}ä\u{f0001}"], &["\u{f0000}\u{f0001}"]),
    ] {
        for name in kept {
            assert!(keeps(glob, name), "{glob:?} lets {name:?} go");
        }
        for name in free {
            assert!(!keeps(glob, name), "{glob:?} keeps {name:?}");
        }
    }
}

#[test]
fn bytes_that_are_no_text_stay_as_well() {
    let kept = Kept::new(&["x".to_owned(), "M?rz[!x]?".to_owned()]).unwrap();
    for name in [&b"M\xe4rz\xff\xfe"[..], b"M\xc3\xa4rz\xff\xc3\xa4", b"M\xe4rza\xe4"] {
        assert_eq!(kept.first(Path::new(OsStr::from_bytes(name))), Some(1), "{name:?}");
    }
}

#[test]
fn a_full_list_of_the_longest_names_compiles() {
    let globs = vec!["?".repeat(64) + &"[äö]".repeat(64); crate::act::policy::MAX_PATTERNS];
    assert!(Kept::new(&globs).is_ok());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4_000))]

    /// What globset reads is read here as it does: of ASCII both say the same.
    #[test]
    fn by_byte_and_by_character_agree_about_ascii(
        glob in prop_oneof![
            r"[a-c*?,/\[\]!^{}\\-]{0,12}",
            r"([a-c?]|\[[!^]?\]?[a-c/^!-]{1,4}\]|\*\*/|\*|\{[a-c?]?,[a-c?]\[[a-c-]{1,2}\]\}){1,5}",
        ],
        names in prop::collection::vec(r"[a-c/!^\[\]-]{0,6}", 1..20),
    ) {
        let Ok(whole) = built(&glob) else { return Ok(()) };
        let Some(regex) = by_character(&glob).unwrap() else { return Ok(()) };
        let regex = compiled(&[regex]).unwrap();
        let by_byte = whole.compile_matcher();
        for name in names {
            prop_assert_eq!(by_byte.is_match(&name), regex.is_match(name.as_bytes()), "{} on {}", glob, name);
        }
    }
}
