//! The terminal as a screen: taken over, given back whatever happens.
//!
//! A panic, an error, SIGINT, SIGTERM and SIGHUP all give it back. SIGKILL cannot: `reset` does. A terminal that hung up
//! gives no signal to a program of another session, and reads as the end of a file for ever: it is watched for itself.

use std::io::{self, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use ratatui::crossterm::event::{self, Event, KeyCode, KeyEventKind, KeyModifiers};
use ratatui::crossterm::{cursor, execute, terminal};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use tokio::sync::mpsc;

use super::ui::Press;
use crate::error::CliError;

/// Keys that wait; a cat on the keyboard does not fill memory.
const MAX_WAITING: usize = 64;
/// How soon it is noticed that the reader of keys is not wanted any more, or that the terminal hung up.
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

/// Whether the terminal that keys come from is gone: poll(2) tells of that unasked.
pub(crate) fn hung_up() -> bool {
    let stdin = io::stdin();
    let mut ends = [PollFd::new(&stdin, PollFlags::empty())];
    let now = Timespec { tv_sec: 0, tv_nsec: 0 };
    poll(&mut ends, Some(&now)).is_ok_and(|n| n > 0)
}

/// Keys as they are pressed, read by a thread that ends when this is dropped.
pub(crate) struct Keys {
    pressed: mpsc::Receiver<Press>,
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

    /// The next key, `None` when no more come: the terminal hung up, or cannot be read.
    pub(crate) async fn next(&mut self) -> Option<Press> {
        // Its reader may be caught in a terminal that hung up, and would never say so.
        let gone = async {
            while !hung_up() {
                tokio::time::sleep(NOTICE).await;
            }
        };
        tokio::select! { press = self.pressed.recv() => press, () = gone => None }
    }
}

impl Drop for Keys {
    fn drop(&mut self) {
        self.wanted.store(false, Ordering::Relaxed);
        // The reader may be caught in a terminal that only says that it is at its end; it goes with the program.
        if let Some(reader) = self.reader.take().filter(|_| !hung_up()) {
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
