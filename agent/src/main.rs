//! The agent's program.

use std::process::ExitCode;

use dogwatch_agent::act::executor::child_main;
use dogwatch_agent::act::handle::CHILD_SOCKET;

fn main() -> ExitCode {
    match std::env::args().nth(1).as_deref() {
        Some("executor") => child_main(CHILD_SOCKET),
        _ => {
            eprintln!("usage: dogwatch-agent executor");
            ExitCode::from(2)
        }
    }
}
