//! Output: how what is known is written. `text` makes it harmless, `table` is for people (on old
//! terminals through `plain`), `json` and `yaml` are for programs.

pub(crate) mod json;
pub(crate) mod plain;
pub(crate) mod table;
pub(crate) mod text;
pub(crate) mod yaml;

use std::io::{BufRead, Write};

use serde::Serialize;

use crate::args::Format;
use crate::error::CliError;
use table::{Cell, Column, Table};
use text::safe;

/// What stands at the other ends of stdin and stdout.
#[derive(Debug, Clone, Copy, Default)]
pub struct Terminal {
    /// Whether stdout is a terminal: what it is shown must be harmless.
    pub shown: bool,
    /// Columns of the terminal, else those that are wished for pictures and words in a pipe; `None` where nobody wishes.
    /// What must not be cut in a pipe asks [`Terminal::room`].
    pub columns: Option<usize>,
    /// Whether colours are wanted: stdout is a terminal that has them, and `NO_COLOR` is not set.
    pub color: bool,
    /// Whether somebody can be asked: stdin and stderr are a terminal.
    pub can_ask: bool,
    /// Whether a picture can be kept up to date: stdin and stdout are a terminal that can place its cursor.
    pub live: bool,
    /// Whether the terminal knows ASCII alone. What is written to [`Io`] is translated by whoever made it; pictures that
    /// go round it have to know.
    pub ascii: bool,
}

impl Terminal {
    /// Columns in which lines and tables have to fit; `None` in a pipe, where nothing is cut or left out: scripts read it.
    pub(crate) fn room(&self) -> Option<usize> {
        self.columns.filter(|_| self.shown)
    }
}

/// The three standard streams.
pub struct Io<'a> {
    /// Data.
    pub out: &'a mut dyn Write,
    /// Talk.
    pub err: &'a mut dyn Write,
    /// Answers.
    pub input: &'a mut dyn BufRead,
    /// What they are.
    pub terminal: Terminal,
}

impl std::fmt::Debug for Io<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Io").field("terminal", &self.terminal).finish_non_exhaustive()
    }
}

impl Io<'_> {
    /// Says `text` on stderr, made harmless, on a line of its own.
    pub(crate) fn say(&mut self, text: &str) -> Result<(), CliError> {
        writeln!(self.err, "dogwatch: {}", safe(text))?;
        Ok(())
    }

    /// A table for this terminal.
    pub(crate) fn table(&self, columns: Vec<Column>) -> Table {
        Table::new(columns, self.terminal.room(), self.terminal.color)
    }
}

/// Something that can be listed.
pub(crate) trait Listed: Serialize {
    /// In words, for "no findings".
    const PLURAL: &'static str;
    fn columns(wide: bool) -> Vec<Column>;
    /// One or more rows.
    fn rows(&self, wide: bool) -> Vec<Vec<Cell>>;
    /// What `-o name` prints; `None` for things without a name.
    fn name(&self) -> Option<&str>;
    /// All that is shown of it, to tell whether it changed.
    fn looks(&self) -> String {
        let rows = self.rows(false);
        rows.iter().flatten().map(Cell::text).collect::<Vec<_>>().join("\n")
    }
}

/// A list under way, in the format that was asked for.
pub(crate) struct List {
    format: Format,
    table: Option<Table>,
    count: u64,
}

impl List {
    pub(crate) fn begin<T: Listed>(io: &mut Io<'_>, format: Format) -> Result<Self, CliError> {
        let table = match format {
            Format::Table => Some(io.table(T::columns(false))),
            Format::Wide => Some(io.table(T::columns(true))),
            Format::Json => {
                write!(io.out, "[")?;
                None
            }
            Format::Jsonl | Format::Yaml | Format::Name => None,
        };
        Ok(Self { format, table, count: 0 })
    }

    pub(crate) fn push<T: Listed>(&mut self, io: &mut Io<'_>, item: &T) -> Result<(), CliError> {
        self.count += 1;
        match self.format {
            Format::Table | Format::Wide => {
                if let Some(table) = &mut self.table {
                    for row in item.rows(self.format == Format::Wide) {
                        table.push(io.out, row)?;
                    }
                }
            }
            Format::Json => {
                write!(io.out, "{}", if self.count > 1 { ",\n" } else { "\n" })?;
                json::line(io.out, item)?;
            }
            Format::Jsonl => {
                json::line(io.out, item)?;
                writeln!(io.out)?;
            }
            Format::Yaml => yaml::item(io.out, item)?,
            Format::Name => {
                if let Some(name) = item.name() {
                    writeln!(io.out, "{}", safe(name))?;
                }
            }
        }
        Ok(())
    }

    /// Writes what waits; from now on each item is written as it comes.
    pub(crate) fn go_live(&mut self, io: &mut Io<'_>) -> Result<(), CliError> {
        if let Some(table) = &mut self.table {
            table.go_live(io.out)?;
        }
        io.out.flush()?;
        Ok(())
    }

    pub(crate) fn finish<T: Listed>(mut self, io: &mut Io<'_>) -> Result<(), CliError> {
        if let Some(table) = &mut self.table {
            table.finish(io.out)?;
        }
        if self.count == 0 && matches!(self.format, Format::Table | Format::Wide | Format::Name) {
            io.say(&format!("no {}", T::PLURAL))?;
        }
        if self.format == Format::Yaml && self.count == 0 {
            writeln!(io.out, "[]")?;
        }
        if self.format == Format::Json {
            writeln!(io.out, "{}", if self.count == 0 { "]" } else { "\n]" })?;
        }
        io.out.flush()?;
        Ok(())
    }
}

/// Writes one thing: as an object for programs, as a list of one for people.
pub(crate) fn one<T: Listed>(io: &mut Io<'_>, format: Format, item: &T) -> Result<(), CliError> {
    match format {
        Format::Json => json::pretty(io.out, item).and_then(|()| Ok(writeln!(io.out)?))?,
        Format::Yaml => yaml::document(io.out, item)?,
        _ => {
            let mut list = List::begin::<T>(io, format)?;
            list.push(io, item)?;
            list.finish::<T>(io)?;
        }
    }
    io.out.flush()?;
    Ok(())
}
