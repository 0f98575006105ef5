//! Verbs that ask nobody: completion scripts, manual pages, and which configuration counts.

use std::path::Path;

use super::Here;
use crate::args::{CompletionArgs, ManArgs};
use crate::error::CliError;
use crate::holder;
use crate::output::{Io, yaml};
use crate::program;
use crate::time::Utc;

pub(super) fn completion(here: &Here<'_>, args: &CompletionArgs, io: &mut Io<'_>) -> Result<(), CliError> {
    let mut script = Vec::new();
    // As kubectl's plugin it is not the shell that completes: the script is for the program itself.
    let mut command = program::command("dogwatch");
    clap_complete::generate(args.shell, &mut command, "dogwatch", &mut script);
    io.out.write_all(&script)?;
    io.out.flush()?;
    if here.world.called != "dogwatch" {
        io.say("this completes `dogwatch`; kubectl completes plugins through programs of their own")?;
    }
    Ok(())
}

pub(super) fn man(args: &ManArgs, io: &mut Io<'_>) -> Result<(), CliError> {
    let command = program::command("dogwatch");
    match &args.out {
        Some(dir) => {
            if !dir.is_dir() {
                return Err(CliError::Usage(format!("--out {}: there is no such folder", dir.display())));
            }
            clap_mangen::generate_to(command, dir).map_err(|e| {
                CliError::failed(format!("cannot write manual pages into {}", dir.display()), &e)
            })?;
            io.say(&format!(
                "the pages are in {}; `man -l {}` shows one",
                dir.display(),
                dir.join("dogwatch.1").display()
            ))
        }
        None => {
            let mut page = Vec::new();
            clap_mangen::Man::new(command)
                .render(&mut page)
                .map_err(|e| CliError::failed("cannot render the manual page", &e))?;
            io.out.write_all(&page)?;
            io.out.flush()?;
            Ok(())
        }
    }
}

/// A valid `cli.yaml`; where it comes from stands in comments.
pub(super) fn config(here: &Here<'_>, io: &mut Io<'_>) -> Result<(), CliError> {
    let s = &here.settings;
    match &s.file {
        Some(file) => {
            writeln!(io.out, "# from {}{}", crate::harmless(&file.display().to_string()), s.file_from)?
        }
        None => {
            writeln!(io.out, "# no configuration file; looked for, in this order:")?;
            for (path, ..) in &here.candidates {
                writeln!(io.out, "#   {}", crate::harmless(&path.display().to_string()))?;
            }
        }
    }
    if s.collector_from_flag {
        writeln!(io.out, "# collector: from --collector")?;
    }
    let mut line = |key: &str, value: Option<String>| -> Result<(), CliError> {
        match value {
            Some(value) => yaml::document(io.out, &serde_json::json!({ key: value })),
            None => Ok(writeln!(io.out, "# {key}: not set")?),
        }
    };
    let shown = |p: &Option<std::path::PathBuf>| p.as_deref().map(|p: &Path| p.display().to_string());
    line("collector", s.collector.clone())?;
    line("ca", shown(&s.ca))?;
    line("cert", shown(&s.cert))?;
    line("key", shown(&s.key))?;
    line("server_name", s.server_name.clone())?;
    line("journal", shown(&s.journal))?;
    if let Some(facts) = s.cert.as_deref().and_then(holder::facts) {
        let who = holder::name(&facts).unwrap_or_else(|| "nobody that the desk knows".to_owned());
        let end = Utc(facts.not_after_wall_ns).to_the_second();
        let over = if facts.expired_at(here.world.now_ns) { "expired" } else { "valid until" };
        writeln!(io.out, "# the certificate: {}; {over} {end}", crate::harmless(&who))?;
    }
    io.out.flush()?;
    Ok(())
}
