use proptest::prelude::*;

use super::*;

const ROOT: &str = "/srv/app";

fn told(entry: &str) -> Option<String> {
    mistake(Path::new(ROOT), entry).map(|(reason, remedy)| format!("{reason}; {remedy}"))
}

fn keeps(entry: &str, relative: &str) -> bool {
    Excludes::new(&[entry.to_owned()]).unwrap().first(Path::new(relative)).is_some()
}

#[test]
fn what_could_never_match_is_a_mistake() {
    let beneath = "it is matched against paths beneath the root";
    for (entry, said) in [
        ("/k5/**", format!("{beneath}; leave out the leading /, and what it has of the root's own path")),
        ("/srv/application/x", format!("{beneath}; leave out the leading /")),
        ("/srv/app/keep/**", format!("{beneath}; write keep/**")),
        ("/srv/app/", format!("{beneath}; write ** for all of the root")),
        ("/", format!("{beneath}; ")),
        ("//", format!("{beneath}; ")),
        ("{/a,b}/x", format!("{beneath}; ")),
        ("{,b}/x", format!("{beneath}; ")),
        (r"\/x", format!("{beneath}; ")),
        ("./k4/**", format!("{beneath}, which have no '.' and '..'; write it without")),
        (".", format!("{beneath}, which have no '.'")),
        ("./", format!("{beneath}, which have no '.'")),
        ("../x", format!("{beneath}, which have no '.'")),
        ("a/../b", format!("{beneath}, which have no '.'")),
        ("a/{..,b}/c", format!("{beneath}, which have no '.'")),
        ("a/..", format!("{beneath}, which have no '.'")),
        ("a//b", format!("{beneath}, which have no '//'; write one /")),
        ("a//", format!("{beneath}, which have no '//'")),
        ("{a/,b}", "an alternative in its braces ends in a '/'".to_owned()),
        ("", "it, or an alternative in its braces, names nothing; leave it out".to_owned()),
        (" \t", "it, or an alternative in its braces, names nothing".to_owned()),
        ("{,a}", "it, or an alternative in its braces, names nothing".to_owned()),
        (" a", "a blank stands at its beginning or end; ".to_owned()),
        ("a\n", "a blank stands at its beginning or end; ".to_owned()),
        ("[", "it is no glob: ".to_owned()),
        (r"a\/", "it is no glob: ".to_owned()),
        (&"{a,b}".repeat(11), "its braces have too many alternatives".to_owned()),
    ] {
        let found = told(entry).unwrap_or_default();
        assert!(found.starts_with(&said), "{entry:?}: {found}");
    }
    for good in [
        "k3/",
        "k2",
        "k5/**",
        "**/k5",
        "*.csv",
        "a b",
        "a/{b,c}/d",
        "keep{,.old}",
        "...",
        "[/x]",
        ".hidden/",
        "a[.]b",
    ] {
        assert_eq!(told(good), None, "{good}");
    }
}

#[test]
fn a_folder_keeps_all_beneath_it_however_it_is_written() {
    for entry in ["k3/", "k3", "k3/**", "**/k3", "k[0-9]/", "{k3,x}/"] {
        for path in ["k3/a.log.1", "k3/sub/deep/a.log.1"] {
            assert!(keeps(entry, path), "{entry}: {path}");
        }
        assert!(!keeps(entry, "other/k33/a.log.1"), "{entry}");
    }
    // A name is one at any depth, of files and of folders.
    assert!(
        keeps("k3/", "sub/k3/a.log.1") && keeps("k3", "sub/k3/deep/a.log.1") && keeps("a.*", "sub/a.log.1")
    );
    assert!(keeps("sub/k3/", "sub/k3/a.log.1") && !keeps("sub/k3/", "k3/a.log.1"));
    assert!(keeps("keep{,.old}", "keep/a") && keeps("keep{,.old}", "keep.old/a"));
    // As it is called, where a glob of that text is something else.
    assert!(keeps("app[prod]", "app[prod]/a.log.1") && keeps("app[prod]", "appd/a.log.1"));
    assert!(!keeps("k3/", "k4/a.log.1") && Excludes::new(&[]).unwrap().first(Path::new("a")).is_none());
}

fn entry() -> impl Strategy<Value = String> {
    prop_oneof![
        "([a-c.*?-]{1,4}/){0,2}[a-c.*?-]{1,4}/?",
        r"([a-c]\[[!a-c.-]{1,3}\]|\{[a-c],[a-c/*]{0,3}\}|[a-c.* -]{1,4}){1,3}/?",
        r"(\./|/|)([a-c.*?{},!\[\]\\ -]{1,5}/){0,2}[a-c.*?{},!\[\]\\ -]{0,5}/?",
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4_000))]

    /// Whoever writes down what something beneath the root is called keeps it, or is told that he does not.
    #[test]
    fn what_is_accepted_and_names_something_keeps_it(
        entry in entry(),
        above in prop::sample::select(vec!["", "sub/", "sub/deeper/"]),
    ) {
        if told(&entry).is_some() {
            return Ok(());
        }
        let named = without_slash(&entry);
        let is_plain = |path: &str| path.split('/').all(|part| !matches!(part, "" | "." | ".."));
        prop_assert!(is_plain(named), "{entry:?} names nothing that there can be");
        for path in [named.to_owned(), format!("{named}/a.log.1"), format!("{named}/deep/a.log.1")] {
            prop_assert!(keeps(&entry, &path), "{entry:?} lets {path:?} go");
            if !named.contains('/') {
                prop_assert!(keeps(&entry, &format!("{above}{path}")), "{entry:?} lets {path:?} in {above} go");
            }
        }
    }
}
