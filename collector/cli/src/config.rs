//! Where to ask: `cli.yaml`, the flags that override it, and where it is looked for.
//!
//! The first file of these counts: `--config`, `$DOGWATCH_CLI_CONFIG`, `$XDG_CONFIG_HOME/dogwatch/cli.yaml` (else
//! `~/.config/…`), `<state>/cli.yaml`, which `cargo up` writes, where state is `$DOGWATCH_STATE`, else
//! `$XDG_STATE_HOME/dogwatch`, else `~/.local/state/dogwatch`. The first two must exist when named. Paths within are
//! relative to the file. Unknown keys are refused.

use std::fs;
use std::io;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::args::{Global, host_port};
use crate::error::CliError;
use crate::verbs::Env;

/// Largest configuration file that is read: it has six keys.
const MAX_CONFIG_BYTES: u64 = 64 * 1024;

/// What was decided, from file and flags.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Settings {
    pub(crate) collector: Option<String>,
    pub(crate) ca: Option<PathBuf>,
    pub(crate) cert: Option<PathBuf>,
    pub(crate) key: Option<PathBuf>,
    /// The name that the collector's certificate must have, if not the host that is dialled.
    pub(crate) server_name: Option<String>,
    /// Read where no collector is named.
    pub(crate) journal: Option<PathBuf>,
    /// Whether `--journal` was given: then no collector is asked.
    pub(crate) journal_only: bool,
    /// The file that was read.
    pub(crate) file: Option<PathBuf>,
    /// Where that file's name, and the collector's address, come from, in words.
    pub(crate) file_from: &'static str,
    pub(crate) collector_from_flag: bool,
}

impl Settings {
    /// The collector that is asked, and where its address was found: `host:port (from …/cli.yaml)`.
    pub(crate) fn asked(&self) -> Option<String> {
        let address = self.collector.as_deref()?;
        Some(match &self.file {
            _ if self.collector_from_flag => format!("{address} (from --collector)"),
            Some(file) => format!("{address} (from {}{})", file.display(), self.file_from),
            None => address.to_owned(),
        })
    }
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    collector: Option<String>,
    ca: Option<PathBuf>,
    cert: Option<PathBuf>,
    key: Option<PathBuf>,
    server_name: Option<String>,
    journal: Option<PathBuf>,
}

/// Reads the file that counts and lays the flags over it. `env` gives environment variables.
pub(crate) fn load(global: &Global, env: &Env<'_>) -> Result<Settings, CliError> {
    let mut settings = Settings::default();
    for (path, must_exist, from) in candidates(global, env) {
        match read(&path) {
            Ok(file) => {
                settings = Settings { file_from: from, ..settled(file, path)? };
                break;
            }
            Err(Unread::Missing) if !must_exist => {}
            Err(Unread::Missing) => {
                return Err(CliError::Usage(format!("configuration {} does not exist", path.display())));
            }
            Err(Unread::Wrong(why)) => {
                return Err(CliError::Usage(format!("configuration {}: {why}", path.display())));
            }
        }
    }
    let over = |flag: &Option<PathBuf>, value: &mut Option<PathBuf>| {
        if flag.is_some() {
            value.clone_from(flag);
        }
    };
    over(&global.ca, &mut settings.ca);
    over(&global.cert, &mut settings.cert);
    over(&global.key, &mut settings.key);
    over(&global.journal, &mut settings.journal);
    settings.journal_only = global.journal.is_some();
    if let Some(collector) = &global.collector {
        settings.collector = Some(collector.clone());
        settings.collector_from_flag = true;
    }
    Ok(settings)
}

/// Files in the order in which they count, whether each must exist, and what named it.
pub(crate) fn candidates(global: &Global, env: &Env<'_>) -> Vec<(PathBuf, bool, &'static str)> {
    if let Some(path) = &global.config {
        return vec![(path.clone(), true, ", --config")];
    }
    let dir = |key: &str| env(key).filter(|v| !v.is_empty()).map(PathBuf::from);
    if let Some(path) = dir("DOGWATCH_CLI_CONFIG") {
        return vec![(path, true, ", $DOGWATCH_CLI_CONFIG")];
    }
    let home = dir("HOME");
    let under_home = |rest: &str| home.as_ref().map(|h| h.join(rest));
    let config = dir("XDG_CONFIG_HOME").or_else(|| under_home(".config")).map(|d| d.join("dogwatch"));
    let state = dir("DOGWATCH_STATE")
        .or_else(|| dir("XDG_STATE_HOME").or_else(|| under_home(".local/state")).map(|d| d.join("dogwatch")));
    [config, state].into_iter().flatten().map(|d| (d.join("cli.yaml"), false, "")).collect()
}

enum Unread {
    Missing,
    Wrong(String),
}

fn read(path: &Path) -> Result<File, Unread> {
    let mut text = String::new();
    let opened = fs::File::open(path).map_err(|e| match e.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => Unread::Missing,
        _ => Unread::Wrong(e.to_string()),
    })?;
    let wrong = |e: io::Error| Unread::Wrong(format!("cannot be read: {e}"));
    let read = opened.take(MAX_CONFIG_BYTES + 1).read_to_string(&mut text).map_err(wrong)?;
    if read as u64 > MAX_CONFIG_BYTES {
        return Err(Unread::Wrong(format!("is larger than {MAX_CONFIG_BYTES} bytes")));
    }
    if text.lines().all(|l| l.trim().is_empty() || l.trim_start().starts_with('#')) {
        return Ok(File::default());
    }
    let said = |e: serde_saphyr::Error| e.render_with_formatter(&serde_saphyr::UserMessageFormatter);
    serde_saphyr::from_str(&text).map_err(|e| Unread::Wrong(said(e)))
}

fn settled(file: File, path: PathBuf) -> Result<Settings, CliError> {
    let base = path.parent().map(Path::to_owned).unwrap_or_default();
    let at = |p: Option<PathBuf>| p.map(|p| base.join(p));
    if let Some(collector) = &file.collector {
        host_port(collector)
            .map_err(|e| CliError::Usage(format!("configuration {}: collector: {e}", path.display())))?;
    }
    Ok(Settings {
        collector: file.collector,
        ca: at(file.ca),
        cert: at(file.cert),
        key: at(file.key),
        server_name: file.server_name,
        journal: at(file.journal),
        file: Some(path),
        ..Settings::default()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(env: &[(&str, &Path)], global: &Global) -> Result<Settings, CliError> {
        load(global, &|key| env.iter().find(|(k, _)| *k == key).map(|(_, v)| v.as_os_str().to_owned()))
    }

    fn write(dir: &Path, name: &str, text: &str) -> PathBuf {
        let path = dir.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, text).unwrap();
        path
    }

    #[test]
    fn the_first_file_counts_and_its_paths_are_its_own() {
        let dir = tempfile::tempdir().unwrap();
        let home = dir.path();
        let none = Global::default();
        assert_eq!(with(&[("HOME", home)], &none).unwrap(), Settings::default());

        let state = write(
            home,
            ".local/state/dogwatch/cli.yaml",
            "collector: 127.0.0.1:7443\nca: ca.pem\njournal: node/records\n",
        );
        let s = with(&[("HOME", home)], &none).unwrap();
        assert_eq!(s.collector.as_deref(), Some("127.0.0.1:7443"));
        assert_eq!(s.ca, Some(state.with_file_name("ca.pem")));
        assert_eq!(s.journal, Some(state.with_file_name("node/records")));
        assert!(!s.journal_only);

        write(home, ".config/dogwatch/cli.yaml", "collector: a:1\n");
        assert_eq!(with(&[("HOME", home)], &none).unwrap().collector.as_deref(), Some("a:1"));

        let other = write(home, "x/cli.yaml", "collector: b:2\nkey: /abs/key.pem\n");
        let env = [("HOME", home), ("DOGWATCH_CLI_CONFIG", other.as_path())];
        let s = with(&env, &none).unwrap();
        assert_eq!(
            (s.collector.as_deref(), s.key.as_deref()),
            (Some("b:2"), Some(Path::new("/abs/key.pem")))
        );

        let flags = Global { collector: Some("c:3".into()), journal: Some("j".into()), ..Global::default() };
        let s = with(&env, &flags).unwrap();
        assert_eq!(s.collector.as_deref(), Some("c:3"));
        assert_eq!(s.asked().as_deref(), Some("c:3 (from --collector)"));
        let from_env = with(&env, &none).unwrap().asked().unwrap();
        assert!(
            from_env.starts_with("b:2 (from /") && from_env.ends_with("$DOGWATCH_CLI_CONFIG)"),
            "{from_env}"
        );
        assert!(s.journal_only && s.journal == Some("j".into()));
    }

    #[test]
    fn state_folders_are_found_in_order() {
        let dir = tempfile::tempdir().unwrap();
        write(dir.path(), "own/cli.yaml", "collector: own:1\n");
        write(dir.path(), "xdg/dogwatch/cli.yaml", "collector: xdg:1\n");
        let (own, xdg) = (dir.path().join("own"), dir.path().join("xdg"));
        let s = with(&[("XDG_STATE_HOME", &xdg)], &Global::default()).unwrap();
        assert_eq!(s.collector.as_deref(), Some("xdg:1"));
        let s = with(&[("XDG_STATE_HOME", &xdg), ("DOGWATCH_STATE", &own)], &Global::default()).unwrap();
        assert_eq!(s.collector.as_deref(), Some("own:1"));
    }

    #[test]
    fn mistakes_name_the_file_and_the_key() {
        let dir = tempfile::tempdir().unwrap();
        for (text, named) in
            [("collecter: a:1\n", "collecter"), ("collector: nowhere\n", "HOST:PORT"), ("- 1\n", "cli.yaml")]
        {
            let path = write(dir.path(), "cli.yaml", text);
            let error = with(&[], &Global { config: Some(path), ..Global::default() }).unwrap_err();
            assert_eq!(error.exit_code(), 2);
            assert!(error.to_string().contains(named) && error.to_string().contains("cli.yaml"), "{error}");
        }
        let gone = Global { config: Some(dir.path().join("gone")), ..Global::default() };
        assert!(with(&[], &gone).unwrap_err().to_string().contains("does not exist"));
        let empty = write(dir.path(), "empty.yaml", "# nothing yet\n");
        assert_eq!(with(&[], &Global { config: Some(empty), ..Global::default() }).unwrap().collector, None);
    }
}
