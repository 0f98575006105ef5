//! Names that say that a file must stay, also when it is a copy: `server.key.bak`, `app.sqlite.1.gz`, `db.pem-20240612`.
//!
//! Limit: nothing else is known by its name. What is in nobody's list, and by its beginning nothing that `contents` knows, is
//! taken by whatever pattern meets it.

/// Never touched by most kinds, whatever the patterns say: locks, pid files, and files in the making.
pub const ALWAYS_EXCLUDED: &[&str] =
    &["*.lck", "*.lock", "*.pid", "*.tmp", "*.part", "*.swp", "*.journal", "*.wal"];

/// Names that no pattern and no cleaner of temp files ever takes: databases, journals, sockets, disk images, keys,
/// certificates and other secrets. In lower case; [`bare`] names are compared with them.
pub const NEVER_NAMES: &[&str] = &[
    "*.db",
    "*.db-*",
    "*.db3",
    "*.duckdb",
    "*.sqlite*",
    "*.sst",
    "*.ldb",
    "*.ibd",
    "ibdata*",
    "*.frm",
    "*.myd",
    "*.myi",
    "*.mdb",
    "*.accdb",
    "*.mdf",
    "*.ndf",
    "*.ldf",
    "*.fdb",
    "*.couch",
    "*.tsm",
    "*.rdb",
    "*.aof",
    "*.wal",
    "*.snap",
    "*.journal",
    "*.journal~",
    "*.sock",
    "*.socket",
    "*.img",
    "*.qcow2",
    "*.vmdk",
    "*.vdi",
    "*.vhd",
    "*.vhdx",
    "*.tfstate",
    "*.tfstate.*",
    "*.key",
    "*.crt",
    "*.cer",
    "*.pem",
    "*.p12",
    "*.pfx",
    "*.p8",
    "*.pk8",
    "*.ppk",
    "*.jks",
    "*.jceks",
    "*.keystore",
    "*.keytab",
    "*.kdbx",
    "*.kdb",
    "id_rsa*",
    "id_dsa*",
    "id_ecdsa*",
    "id_ed25519*",
    "secring.*",
    "krb5cc*",
    "kubeconfig",
    "kubeconfig[-._]*",
    "*[-._]kubeconfig",
    "token",
    "token.json",
    "credentials",
    "credentials.json",
    "secret",
    "secrets",
    "{secret,secrets}.{json,yaml,yml,txt,env}",
    ".env",
    ".env.*",
    "*.env",
    ".netrc",
    ".pgpass",
    ".my.cnf",
    ".htpasswd",
    ".git-credentials",
    ".dockerconfigjson",
    ".vault-token",
];

/// What a compression or an archiver appends.
const COMPRESSIONS: &[&str] =
    &[".gz", ".bz2", ".xz", ".zst", ".lz4", ".lzma", ".lzo", ".zip", ".z", ".tar", ".tgz"];
/// What programs and people append to the name of a copy, behind one of [`JOINTS`].
const COPIES: &[&str] = &[
    "dpkg-old",
    "dpkg-new",
    "dpkg-dist",
    "dpkg-bak",
    "bak",
    "backup",
    "bkp",
    "bck",
    "old",
    "orig",
    "save",
    "saved",
    "sav",
    "prev",
    "previous",
    "copy",
    "disabled",
    "new",
    "rpmsave",
    "rpmnew",
    "rpmorig",
];
const JOINTS: [u8; 3] = [b'.', b'-', b'_'];

/// The name in lower case that a copy was made of: without its compression, its backup's word, and its rotation's number or
/// date, as many of them as there are.
pub(in crate::act) fn bare(name: &[u8]) -> Vec<u8> {
    let mut bare = name.to_ascii_lowercase();
    while let Some(shorter) = one_off(&bare).filter(|n| *n > 0) {
        bare.truncate(shorter);
    }
    bare
}

/// Whether a [`bare`] name is a log's on its face: `certs.pem.log` is about one.
pub(in crate::act) fn is_logs(bare: &[u8]) -> bool {
    bare.ends_with(b".log")
}

/// How much of `name` is left without the last thing that was appended.
fn one_off(name: &[u8]) -> Option<usize> {
    let without = |end: &str| name.strip_suffix(end.as_bytes()).map(<[u8]>::len);
    let copy = |word: &&str| {
        let left = without(word)?;
        (left > 0 && JOINTS.contains(&name[left - 1])).then(|| left - 1)
    };
    without("~")
        .or_else(|| again(name))
        .or_else(|| COMPRESSIONS.iter().find_map(|end| without(end)))
        .or_else(|| COPIES.iter().find_map(copy))
        .or_else(|| mark(name))
}

/// The same of the number of one that was fetched or copied again: ` (1)`.
fn again(name: &[u8]) -> Option<usize> {
    let open = name.strip_suffix(b")")?.iter().rposition(|b| *b == b'(')?;
    let is_number = |digits: &[u8]| !digits.is_empty() && digits.iter().all(u8::is_ascii_digit);
    let number = name.get(open + 1..name.len() - 1).filter(|digits| is_number(digits));
    number.map(|_| if name[..open].ends_with(b" ") { open - 1 } else { open })
}

/// The same of a rotation's mark: `.1`, `-20240612`, `.2024-06-12t10:11:12z`.
fn mark(name: &[u8]) -> Option<usize> {
    let is_digit = |at: usize| name.get(at).is_some_and(u8::is_ascii_digit);
    let is_mark = |at: usize| match name[at] {
        b'.' | b'-' | b'_' | b':' | b'+' => true,
        b't' => at > 0 && is_digit(at - 1) && is_digit(at + 1),
        b'z' => at > 0 && is_digit(at - 1) && at + 1 == name.len(),
        other => other.is_ascii_digit(),
    };
    let start = (0..name.len()).rev().take_while(|at| is_mark(*at)).last()?;
    let joint = (start..name.len()).find(|at| JOINTS.contains(&name[*at]))?;
    (joint..name.len()).any(is_digit).then_some(joint)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use proptest::prelude::*;

    use super::*;
    use crate::act::policy::{Cleaner, NameVerdict, Policy, RootPolicy, Rules};

    fn rules(cleaner: Cleaner, patterns: &[&str]) -> Rules {
        let place = if cleaner == Cleaner::TempFiles { "/tmp" } else { "/srv/app" };
        let mut root = RootPolicy::of(cleaner, place);
        if !patterns.is_empty() {
            root.patterns = patterns.iter().map(|p| (*p).to_owned()).collect();
        }
        let mode = dogwatch::record::CleanupMode::Auto;
        Rules::new(Policy { mode, roots: vec![root], ..Policy::off() }).unwrap()
    }

    fn takes(rules: &Rules, path: &str) -> bool {
        matches!(rules.roots()[0].judge_name(Path::new(path)), NameVerdict::Taken(_))
    }

    #[test]
    fn the_runbook_has_every_name() {
        // Some it has in words.
        let in_words = |name: &&str| name.contains(['[', '{']);
        let names = NEVER_NAMES.iter().copied().filter(|name| !in_words(name));
        assert_eq!(crate::act::runbook::lacks(names), [""; 0]);
    }

    #[test]
    fn a_name_is_known_without_what_was_appended() {
        for (name, is) in [
            ("server.key.1", "server.key"),
            ("Server.KEY.bak", "server.key"),
            ("server.key (1)", "server.key"),
            ("server.key(12).gz", "server.key"),
            ("server.key (a)", "server.key (a)"),
            ("()", "()"),
            ("(1)", "(1)"),
            ("server.key.tar.gz", "server.key"),
            ("x.sqlite.1.gz", "x.sqlite"),
            ("x.sqlite3", "x.sqlite3"),
            ("store.p12", "store.p12"),
            ("app.db.bak", "app.db"),
            ("app.db-20240612.zst", "app.db"),
            ("app.db.2024-06-12T10:11:12Z", "app.db"),
            ("a.pem.old.2", "a.pem"),
            ("a.pem~", "a.pem"),
            ("a.pem_backup", "a.pem"),
            ("a.key.dpkg-old", "a.key"),
            ("app.db.log.1", "app.db.log"),
            ("keys.log.2.gz", "keys.log"),
            ("certbot.log.1", "certbot.log"),
            ("cert", "cert"),
            ("20240612", "20240612"),
            (".1", ".1"),
            ("~", "~"),
        ] {
            assert_eq!(String::from_utf8(bare(name.as_bytes())).unwrap(), is, "{name}");
        }
    }

    #[test]
    fn copies_of_keys_and_databases_stay() {
        let rotated = rules(Cleaner::RotatedLogs, &[]);
        let custom = rules(Cleaner::Custom, &["**/*.bak", "**/*.old", "**/*-2*", "**/export*", "**/*.gz"]);
        let temp = rules(Cleaner::TempFiles, &[]);
        for name in
            ["server.key.1", "x.sqlite.1", "x.sqlite.2.gz", "a.pem-20240612", "app.db.old", "kubeconfig.1"]
        {
            assert!(!takes(&rotated, name) && !takes(&rotated, &format!("keys/{name}")), "{name}");
            assert!(!takes(&temp, name), "{name}");
        }
        for name in [
            "server.key.bak",
            "a.pem.bak",
            "secret.bak",
            "app.db.bak",
            "app.tfstate.old",
            "my.frm.bak",
            "store.kdbx-2024",
            "export.ldf",
            "export.mdf",
            "export.db.1.gz",
        ] {
            assert!(!takes(&custom, name) && !takes(&temp, name), "{name}");
        }
        for name in [
            "kubeconfig",
            "dev-kubeconfig",
            "token.json",
            "vm.img",
            "app.tfstate",
            "terraform.tfstate.backup",
        ] {
            assert!(!takes(&temp, name), "{name}");
        }
        let said = rotated.roots()[0].judge_name(Path::new("server.key.1"));
        let NameVerdict::Excluded(why) = said else { panic!("{said:?}") };
        assert_eq!(why, "*.key is never touched, nor is a copy of it");
    }

    #[test]
    fn logs_about_such_things_go() {
        let rotated = rules(Cleaner::RotatedLogs, &[]);
        let custom = rules(Cleaner::Custom, &["**/*.bak", "**/*.log.old", "**/report-*.csv"]);
        for name in [
            "app.db.log.1",
            "keys.log.2.gz",
            "certbot.log.1",
            "server.key.log.1",
            "x.sqlite.log.1",
            "id_rsa.log.2024-06-12.gz",
            "krb5cc_0.log-20240612",
            "syslog.1",
            "messages-20240612",
            "0.log.20240612-101112",
            "token-service.log.1",
            "secrets-store.1",
        ] {
            assert!(takes(&rotated, name), "{name}");
        }
        for name in ["report-key.csv", "db.log.old", "keys.bak", "notes.txt.bak"] {
            assert!(takes(&custom, name), "{name}");
        }
    }

    proptest! {
        #[test]
        fn whatever_is_appended_a_precious_name_stays_and_a_log_goes(
            kind in prop::sample::select(vec!["key", "pem", "db", "sqlite", "tfstate", "kdbx", "img"]),
            stem in "[a-z]{1,6}",
            ends in prop::collection::vec("(\\.[1-9][0-9]?|-20[0-9]{6}|\\.20[0-9]{2}-[01][0-9]-[0-3][0-9]|\\.bak|\\.old|_backup|~)", 1..4),
            compression in prop::sample::select(vec!["", ".gz", ".xz", ".zst", ".bz2"]),
        ) {
            let ends = ends.concat();
            let temp = rules(Cleaner::TempFiles, &[]);
            let rotated = rules(Cleaner::RotatedLogs, &[]);
            let key = format!("{stem}.{kind}{ends}{compression}");
            prop_assert_eq!(bare(key.as_bytes()), format!("{stem}.{kind}").into_bytes());
            prop_assert!(!takes(&temp, &key) && !takes(&rotated, &key), "{}", key);
            let log = format!("{stem}.{kind}.log.1{ends}{compression}");
            prop_assert!(takes(&rotated, &log), "{}", log);
        }

        #[test]
        fn any_name_has_a_bare_one(name in prop::collection::vec(any::<u8>(), 0..40)) {
            let bare = bare(&name);
            prop_assert!(name.to_ascii_lowercase().starts_with(&bare) && (name.is_empty() || !bare.is_empty()));
        }
    }
}
