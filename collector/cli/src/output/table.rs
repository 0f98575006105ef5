//! Tables: columns as wide as what is in them, cut to the terminal where there is one.
//!
//! Rows stream: widths come from the first [`SIZED_ROWS`] rows, so that a long answer begins at once and holds no
//! memory. On a terminal flexible columns give way first, then weak
//! ones are left out, and lines never wrap; in a pipe nothing is cut.

use std::borrow::Cow;
use std::io::Write;

use super::text::{Paint, fit, safe, width};
use crate::error::CliError;

/// Rows that decide the widths of the columns.
const SIZED_ROWS: usize = 256;
/// What a flexible column keeps at least on a narrow terminal, in columns.
const LEAST_FLEXIBLE: usize = 8;
/// What a flexible column should have before a weak one is shown beside it.
const LEAST_READABLE: usize = 24;
const GAP: &str = "  ";

#[derive(Debug, Clone, Copy)]
pub(crate) struct Column {
    pub(crate) head: &'static str,
    pub(crate) right: bool,
    /// Gives way on a narrow terminal.
    pub(crate) flexible: bool,
    /// Left out where the terminal is too narrow even so, the greatest number first; 0 never.
    pub(crate) weak: u8,
}

impl Column {
    pub(crate) const fn left(head: &'static str) -> Self {
        Self { head, right: false, flexible: false, weak: 0 }
    }
    pub(crate) const fn right(head: &'static str) -> Self {
        Self { head, right: true, flexible: false, weak: 0 }
    }
    pub(crate) const fn flexible(head: &'static str) -> Self {
        Self { head, right: false, flexible: true, weak: 0 }
    }
    pub(crate) const fn weak(mut self, weak: u8) -> Self {
        self.weak = weak;
        self
    }
}

/// One cell; its text is harmless.
#[derive(Debug, Clone)]
pub(crate) struct Cell {
    text: String,
    paint: Paint,
}

impl Cell {
    pub(crate) fn new(text: impl AsRef<str>) -> Self {
        Self::painted(text, Paint::Plain)
    }
    pub(crate) fn painted(text: impl AsRef<str>, paint: Paint) -> Self {
        Self { text: safe(text.as_ref()).into_owned(), paint }
    }
    pub(crate) fn text(&self) -> &str {
        &self.text
    }
    pub(crate) fn paint(&self) -> Paint {
        self.paint
    }
    /// `-` for what is not known.
    pub(crate) fn maybe(text: Option<impl AsRef<str>>) -> Self {
        text.filter(|t| !t.as_ref().is_empty()).map_or_else(|| Self::painted("-", Paint::Dim), Self::new)
    }
}

/// A table under way.
#[derive(Debug)]
pub(crate) struct Table {
    columns: Vec<Column>,
    waiting: Vec<Vec<Cell>>,
    widths: Option<Vec<usize>>,
    /// Which columns are left out.
    hidden: Vec<bool>,
    terminal: Option<usize>,
    color: bool,
    indent: &'static str,
}

impl Table {
    /// `terminal`: columns of the terminal, if it is one.
    pub(crate) fn new(columns: Vec<Column>, terminal: Option<usize>, color: bool) -> Self {
        Self { columns, waiting: Vec::new(), widths: None, hidden: Vec::new(), terminal, color, indent: "" }
    }

    pub(crate) fn indented(mut self) -> Self {
        self.indent = "  ";
        self
    }

    pub(crate) fn push(&mut self, out: &mut dyn Write, row: Vec<Cell>) -> Result<(), CliError> {
        if self.widths.is_some() {
            return self.write_row(out, &row);
        }
        self.waiting.push(row);
        if self.waiting.len() >= SIZED_ROWS { self.settle(out) } else { Ok(()) }
    }

    /// Writes what waits, with its head, also where nothing does: from now on rows are written as they come, and the last
    /// column has all the room that is left.
    pub(crate) fn go_live(&mut self, out: &mut dyn Write) -> Result<(), CliError> {
        if self.widths.is_none() {
            self.settle(out)?;
        }
        let shown: Vec<usize> = (0..self.columns.len()).filter(|&i| self.shows(i)).collect();
        if let (Some(room), Some(widths), Some(&last)) = (self.terminal, &mut self.widths, shown.last()) {
            let before: usize = shown.iter().filter(|&&i| i != last).map(|&i| widths[i] + GAP.len()).sum();
            widths[last] = widths[last].max(room.saturating_sub(before + self.indent.len()));
        }
        Ok(())
    }

    /// The head and `rows` as painted lines, none wider than the terminal.
    pub(crate) fn lines(mut self, rows: Vec<Vec<Cell>>) -> Vec<Line> {
        self.waiting = rows;
        self.measure();
        let head = self.head();
        std::iter::once(&head).chain(&self.waiting).map(|row| self.line(row)).collect()
    }

    /// Writes what waits. A table without rows writes nothing.
    pub(crate) fn finish(&mut self, out: &mut dyn Write) -> Result<(), CliError> {
        if self.widths.is_none() && !self.waiting.is_empty() { self.settle(out) } else { Ok(()) }
    }

    fn settle(&mut self, out: &mut dyn Write) -> Result<(), CliError> {
        self.measure();
        let head = self.head();
        self.write_row(out, &head)?;
        for row in std::mem::take(&mut self.waiting) {
            self.write_row(out, &row)?;
        }
        Ok(())
    }

    fn head(&self) -> Vec<Cell> {
        self.columns.iter().map(|c| Cell::painted(c.head, Paint::Bold)).collect()
    }

    fn measure(&mut self) {
        let mut widths: Vec<usize> = self.columns.iter().map(|c| width(c.head)).collect();
        for row in &self.waiting {
            for (w, cell) in widths.iter_mut().zip(row) {
                *w = (*w).max(width(&cell.text));
            }
        }
        if let Some(room) = self.terminal {
            let room = room.saturating_sub(self.indent.len());
            self.hidden = self.leave_out(&widths, room);
            self.narrow(&mut widths, room);
        }
        self.widths = Some(widths);
    }

    /// Leaves out weak columns until the rest can be read: a flexible one wants [`LEAST_READABLE`].
    fn leave_out(&self, widths: &[usize], room: usize) -> Vec<bool> {
        let mut hidden = vec![false; widths.len()];
        loop {
            let wanted: usize = (0..widths.len())
                .filter(|&i| !hidden[i])
                .map(|i| if self.columns[i].flexible { widths[i].min(LEAST_READABLE) } else { widths[i] })
                .map(|w| w + GAP.len())
                .sum();
            let weakest = (0..widths.len())
                .filter(|&i| !hidden[i] && self.columns[i].weak > 0)
                .max_by_key(|&i| self.columns[i].weak);
            match weakest {
                Some(i) if wanted > room + GAP.len() => hidden[i] = true,
                _ => return hidden,
            }
        }
    }

    fn shows(&self, column: usize) -> bool {
        !self.hidden.get(column).copied().unwrap_or(false)
    }

    /// Takes columns from the widest flexible one until all fit or none can give more.
    fn narrow(&self, widths: &mut [usize], room: usize) {
        let shown: Vec<usize> = (0..widths.len()).filter(|&i| self.shows(i)).collect();
        let gaps = GAP.len() * shown.len().saturating_sub(1);
        let mut over = (shown.iter().map(|&i| widths[i]).sum::<usize>() + gaps).saturating_sub(room);
        while over > 0 {
            let widest = shown
                .iter()
                .copied()
                .filter(|&i| self.columns[i].flexible && widths[i] > LEAST_FLEXIBLE)
                .max_by_key(|&i| widths[i]);
            let Some(i) = widest else { return };
            widths[i] -= 1;
            over -= 1;
        }
    }

    fn write_row(&self, out: &mut dyn Write, row: &[Cell]) -> Result<(), CliError> {
        let mut line = String::new();
        for (text, paint) in self.line(row) {
            line.push_str(&paint.on(&text, self.color));
        }
        writeln!(out, "{}", line.trim_end())?;
        Ok(())
    }

    fn line(&self, row: &[Cell]) -> Line {
        let widths = self.widths.as_deref().unwrap_or_default();
        let mut line = Pen { room: self.terminal.unwrap_or(usize::MAX), line: Vec::new() };
        line.put(self.indent, Paint::Plain);
        let last = (0..row.len()).rfind(|&i| self.shows(i)).unwrap_or(0);
        for (i, (cell, column)) in row.iter().zip(&self.columns).enumerate().filter(|(i, _)| self.shows(*i)) {
            let own = widths.get(i).copied().unwrap_or(0);
            let text = if self.terminal.is_some() {
                fit(&cell.text, own)
            } else {
                Cow::Borrowed(cell.text.as_str())
            };
            let blank = " ".repeat(own.saturating_sub(width(&text)));
            if column.right {
                line.put(&blank, Paint::Plain);
            }
            line.put(&text, cell.paint);
            if i != last {
                if !column.right {
                    line.put(&blank, Paint::Plain);
                }
                line.put(GAP, Paint::Plain);
            }
        }
        line.line
    }
}

/// Pieces of one line, each in its colour.
pub(crate) type Line = Vec<(String, Paint)>;

/// Draws a line as far as there is room, so that it never wraps.
struct Pen {
    room: usize,
    line: Line,
}

impl Pen {
    fn put(&mut self, text: &str, paint: Paint) {
        let cut = fit(text, self.room);
        self.room -= width(&cut).min(self.room);
        if !cut.is_empty() {
            self.line.push((cut.into_owned(), paint));
        }
    }
}
