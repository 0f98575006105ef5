//! `top`: what is known of nodes and their history ([`board`]), the rows that come of it ([`rows`], `cells`), what a person does
//! with them ([`ui`]), and how that is drawn ([`draw`], on a real terminal through [`screen`]). [`tree`] draws what fills a mount.
//!
//! Everything but `screen` is pure: figures, keys and the size of the terminal come in, rows and lines come out. A figure
//! that is not known (one look only, a counter that began again) is absent, never 0.

pub(crate) mod board;
mod cells;
pub(crate) mod draw;
pub(crate) mod rows;
pub(crate) mod screen;
pub(crate) mod tree;
pub(crate) mod ui;

#[cfg(test)]
mod tests;
