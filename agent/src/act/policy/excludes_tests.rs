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
        ("保存\u{3000}", "a blank stands at its beginning or end; ".to_owned()),
        ("a\n", "a blank stands at its beginning or end; ".to_owned()),
        ("[", "it is no glob: ".to_owned()),
        (r"a\/", "it is no glob: ".to_owned()),
        ("!reports", "an exclude is not taken back by another".to_owned()),
        ("~/x", "nobody's home is meant by '~' here".to_owned()),
        ("^sub$", "it is written as a regular expression".to_owned()),
        (r".*\.gz", "it is written as a regular expression, and a glob is meant; write * for .*".to_owned()),
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
        r"\!a",
        r"\^a",
        r"\~",
        "~a",
        "a~",
        r"a\\.b",
        r"a\.log",
        ".*",
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

#[test]
fn what_the_remedies_say_keeps_what_is_meant() {
    assert!(told("keep\u{a0}").is_some_and(|said| said.ends_with("or write ? for one that is meant")));
    for (entry, kept) in [("keep?", "keep\u{a0}/a"), ("保存?", "保存\u{3000}/a"), ("keep?", "keep /a")] {
        assert!(told(entry).is_none() && keeps(entry, kept), "{entry}: {kept}");
    }
    for entry in ["k[äö]se/", "k?se", "k[!x]se", "{k?,x}se", "**/k[à-ü]se/**"] {
        assert!(told(entry).is_none() && keeps(entry, "käse/sub/a.log.1"), "{entry}");
    }
    assert!(keeps("M?rz", "sub/März") && !keeps("M[!ä]rz", "sub/März"));
}

/// A part of an entry, and of a name that is made from it.
fn part() -> impl Strategy<Value = (String, String)> {
    let plain = "[a-cäö保😀 \u{a0}\u{3000}]";
    let one = || any::<char>().prop_filter("a path's", |c| !matches!(c, '/' | '\0'));
    let class = |members: &'static str| prop::collection::vec(members, 1..4);
    let ranges = prop::sample::select(vec![('a', 'ö'), ('ä', 'ü'), ('а', 'я'), ('一', '龥'), ('~', '😀')]);
    prop_oneof![
        plain.prop_map(|c| (c.clone(), c)),
        "[a-cä保😀]?".prop_map(|c| (format!("*{c}"), format!("ü{c}"))),
        one().prop_map(|c| ("?".to_owned(), c.to_string())),
        (class(plain), any::<prop::sample::Index>())
            .prop_map(|(members, i)| (format!("[{}]", members.concat()), i.get(&members).clone())),
        (class("[a-cäö保]"), one()).prop_map(|(members, c)| {
            let members = members.concat();
            let other = if members.contains(c) { 'ż' } else { c };
            (format!("[!{members}]"), other.to_string())
        }),
        (ranges, any::<prop::sample::Index>()).prop_map(|((from, to), i)| {
            let members: Vec<char> = (from..=to).collect();
            (format!("[{from}-{to}]"), i.get(&members).to_string())
        }),
        (plain, plain).prop_map(|(a, b)| (format!("{{{a}?,{b}}}"), format!("{a}ж"))),
    ]
}

fn entry() -> impl Strategy<Value = String> {
    prop_oneof![
        "([a-c.*?-]{1,4}/){0,2}[a-c.*?-]{1,4}/?",
        r"([a-c]\[[!a-c.-]{1,3}\]|\{[a-c],[a-c/*]{0,3}\}|[a-c.* -]{1,4}){1,3}/?",
        r"(\./|/|)([a-c.*?{},!\[\]\\ -]{1,5}/){0,2}[a-c.*?{},!\[\]\\ -]{0,5}/?",
        r"([aäö保😀.*?{},!\[\]\\ \u{a0}-]{1,5}/){0,2}[aäö保😀.*?{},!\[\]\\ \u{a0}-]{0,5}/?",
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4_000))]

    /// A name that an entry stands for, whatever its characters, is kept; only a blank in the way is refused.
    #[test]
    fn what_an_entry_stands_for_stays(
        parts in prop::collection::vec(part(), 1..6),
        slash in prop::sample::select(vec!["", "/"]),
        above in prop::sample::select(vec!["", "März/"]),
    ) {
        let (entry, name): (String, String) = parts.into_iter().unzip();
        if let Some(said) = told(&format!("{entry}{slash}")) {
            let blank = entry.trim() != entry;
            prop_assert!(blank, "{entry:?} is refused: {said}");
            return Ok(());
        }
        for beneath in ["", "/ä.log.1"] {
            let path = format!("{above}{name}{beneath}");
            // Nothing is called so.
            if !matches!(&*name, "." | "..") {
                prop_assert!(keeps(&entry, &path), "{entry:?} lets {path:?} go");
            }
        }
    }

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
        if !is_plain(named) {
            // Such as `[!]//]`: what stands in a class is no path.
            prop_assert!(named.contains('['), "{entry:?} names nothing that there can be");
            return Ok(());
        }
        for path in [named.to_owned(), format!("{named}/a.log.1"), format!("{named}/deep/a.log.1")] {
            prop_assert!(keeps(&entry, &path), "{entry:?} lets {path:?} go");
            if !named.contains('/') {
                prop_assert!(keeps(&entry, &format!("{above}{path}")), "{entry:?} lets {path:?} in {above} go");
            }
        }
    }
}
