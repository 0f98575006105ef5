//! What a person does with the picture: keys in, what to show out. Knows no terminal.

use crate::args::TopView;
use crate::top::rows::{self, Choice};

/// A key, as far as it means something here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Press {
    Char(char),
    Up,
    Down,
    PageUp,
    PageDown,
    Home,
    End,
    Left,
    Right,
    Enter,
    Back,
    Quit,
    /// The terminal has another size: draw again.
    Resize,
}

/// What comes of a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Flow {
    Draw,
    Quit,
}

/// What is shown.
#[derive(Debug, Clone)]
pub(crate) struct Ui {
    pub(crate) view: TopView,
    /// All of this node instead of a view of all.
    pub(crate) node: Option<String>,
    pub(crate) choice: Choice,
    /// The column that each view is sorted by, in the order of [`TopView::ALL`].
    sorts: [usize; 5],
    pub(crate) reverse: bool,
    pub(crate) selected: usize,
    /// The node of the selected row, where the last drawing put it.
    pub(crate) selected_node: Option<String>,
    pub(crate) page: usize,
    pub(crate) help: bool,
    pub(crate) paused: bool,
    /// What went wrong at the last look.
    pub(crate) trouble: Option<String>,
    /// How people call the program.
    pub(crate) called: &'static str,
}

impl Ui {
    pub(crate) fn new(view: TopView, node: Option<String>, choice: Choice) -> Self {
        Self {
            view,
            node,
            choice,
            sorts: [0; 5],
            reverse: false,
            selected: 0,
            selected_node: None,
            page: 10,
            help: false,
            paused: false,
            trouble: None,
            called: "dogwatch",
        }
    }

    pub(crate) fn sort(&self) -> usize {
        self.sort_of(self.view)
    }

    pub(crate) fn sort_of(&self, view: TopView) -> usize {
        self.sorts[view as usize]
    }

    /// Sorts the view by the column of this name, or by the first that begins with it. `Err` lists what there is.
    pub(crate) fn sort_by(&mut self, name: &str) -> Result<(), String> {
        let name = name.to_ascii_lowercase().replace([' ', '_'], "-");
        let names = rows::sorts(self.view);
        let found = names
            .iter()
            .position(|n| *n == name)
            .or_else(|| names.iter().position(|n| !name.is_empty() && n.starts_with(&name)));
        match found {
            Some(i) => self.sorts[self.view as usize] = i,
            None => {
                return Err(format!(
                    "{} cannot be sorted by {name:?}, but by {}",
                    self.view.as_str(),
                    names.join(", ")
                ));
            }
        }
        Ok(())
    }

    pub(crate) fn press(&mut self, key: Press) -> Flow {
        if self.help && !matches!(key, Press::Quit | Press::Resize | Press::Char('q')) {
            self.help = false;
            return Flow::Draw;
        }
        match key {
            Press::Quit | Press::Char('q') => return Flow::Quit,
            Press::Char('?' | 'h') => self.help = true,
            Press::Char(' ' | 'p') => self.paused = !self.paused,
            Press::Char('r') => self.reverse = !self.reverse,
            Press::Char('c') => self.choice.containers = !self.choice.containers,
            Press::Char('s') => self.step_sort(1),
            Press::Char('S') => self.step_sort(-1),
            Press::Char(c @ '1'..='5') => {
                let i = (c as usize) - ('1' as usize);
                self.show(TopView::ALL[i]);
            }
            Press::Right => self.step_view(1),
            Press::Left => self.step_view(-1),
            Press::Up | Press::Char('k') => self.selected = self.selected.saturating_sub(1),
            Press::Down | Press::Char('j') => self.selected = self.selected.saturating_add(1),
            Press::PageUp => self.selected = self.selected.saturating_sub(self.page),
            Press::PageDown => self.selected = self.selected.saturating_add(self.page),
            Press::Home | Press::Char('g') => self.selected = 0,
            Press::End | Press::Char('G') => self.selected = usize::MAX,
            Press::Enter => {
                if self.node.is_none() {
                    self.node.clone_from(&self.selected_node);
                    self.selected = 0;
                }
            }
            Press::Back => self.node = None,
            Press::Char(_) | Press::Resize => {}
        }
        Flow::Draw
    }

    fn show(&mut self, view: TopView) {
        self.view = view;
        self.node = None;
        self.selected = 0;
        self.reverse = false;
    }

    fn step_view(&mut self, by: isize) {
        let n = TopView::ALL.len() as isize;
        let next = (self.view as isize + by).rem_euclid(n);
        self.show(TopView::ALL[next.unsigned_abs()]);
    }

    fn step_sort(&mut self, by: isize) {
        let n = rows::sorts(self.view).len() as isize;
        let next = (self.sort() as isize + by).rem_euclid(n);
        self.sorts[self.view as usize] = next.unsigned_abs();
        self.reverse = false;
    }
}
