//! The terminal as a screen: taken over, given back whatever happens.
//!
//! A panic, an error, SIGINT, SIGTERM and SIGHUP all give it back. SIGKILL cannot: `reset` does.

use std::io::{self, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use ratatui::crossterm::event::{self, Event, KeyCode, KeyEventKind, KeyModifiers};
use ratatui::crossterm::{cursor, execute, terminal};
use tokio::sync::mpsc;

use super::ui::Press;
use crate::error::CliError;

/// Keys that wait; a cat on the keyboard does not fill memory.
const MAX_WAITING: usize = 64;
/// How soon the reader of keys notices that it is not wanted any more.
const NOTICE: Duration = Duration::from_millis(50);

/// A terminal that shows a picture. Dropping it gives the terminal back.
pub(crate) struct Screen;

impl Screen {
    /// Takes the terminal over: raw mode, the other screen, no cursor.
    pub(crate) fn take(mut out: &mut dyn Write) -> Result<Self, CliError> {
        let previous = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            give_back();
            previous(panic);
        }));
        terminal::enable_raw_mode().map_err(|e| CliError::failed("cannot use the terminal", &e))?;
        let screen = Self;
        execute!(&mut out, terminal::EnterAlternateScreen, cursor::Hide)
            .map_err(|e| CliError::failed("cannot use the terminal", &e))?;
        Ok(screen)
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        give_back();
        // The hook that was there before is within ours; a second restore does no harm.
    }
}

/// Written to the terminal itself: stdout may be locked by a thread that panics.
fn give_back() {
    let _ = terminal::disable_raw_mode();
    if let Ok(mut tty) = std::fs::OpenOptions::new().write(true).open("/dev/tty") {
        let _ = execute!(tty, terminal::LeaveAlternateScreen, cursor::Show);
    } else {
        let _ = execute!(io::stderr(), terminal::LeaveAlternateScreen, cursor::Show);
    }
}

/// Keys as they are pressed, read by a thread that ends when this is dropped.
pub(crate) struct Keys {
    pub(crate) pressed: mpsc::Receiver<Press>,
    wanted: Arc<AtomicBool>,
    reader: Option<std::thread::JoinHandle<()>>,
}

impl Keys {
    pub(crate) fn read() -> Result<Self, CliError> {
        let (to, pressed) = mpsc::channel(MAX_WAITING);
        let wanted = Arc::new(AtomicBool::new(true));
        let go_on = Arc::clone(&wanted);
        let reader = std::thread::Builder::new()
            .name("keys".to_owned())
            .spawn(move || {
                while go_on.load(Ordering::Relaxed) {
                    match event::poll(NOTICE) {
                        Ok(false) => {}
                        Ok(true) => {
                            let Ok(event) = event::read() else { break };
                            // A full queue loses keys, never time.
                            if let Some(press) = press(&event) {
                                let _ = to.try_send(press);
                            }
                        }
                        Err(_) => break,
                    }
                }
            })
            .map_err(|e| CliError::failed("cannot read keys", &e))?;
        Ok(Self { pressed, wanted, reader: Some(reader) })
    }
}

impl Drop for Keys {
    fn drop(&mut self) {
        self.wanted.store(false, Ordering::Relaxed);
        if let Some(reader) = self.reader.take() {
            let _ = reader.join();
        }
    }
}

fn press(event: &Event) -> Option<Press> {
    let key = match event {
        Event::Resize(..) => return Some(Press::Resize),
        Event::Key(key) if key.kind != KeyEventKind::Release => key,
        _ => return None,
    };
    if key.modifiers.contains(KeyModifiers::CONTROL) {
        return matches!(key.code, KeyCode::Char('c' | 'd')).then_some(Press::Quit);
    }
    Some(match key.code {
        KeyCode::Char(c) => Press::Char(c),
        KeyCode::Up => Press::Up,
        KeyCode::Down => Press::Down,
        KeyCode::PageUp => Press::PageUp,
        KeyCode::PageDown => Press::PageDown,
        KeyCode::Home => Press::Home,
        KeyCode::End => Press::End,
        KeyCode::Left | KeyCode::BackTab => Press::Left,
        KeyCode::Right | KeyCode::Tab => Press::Right,
        KeyCode::Enter => Press::Enter,
        KeyCode::Esc | KeyCode::Backspace => Press::Back,
        _ => return None,
    })
}
