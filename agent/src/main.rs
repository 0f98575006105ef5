//! `dogwatch-agent`: parses, starts, waits, maps to an exit code.

use std::process::ExitCode;

fn main() -> ExitCode {
    dogwatch_agent::command::main(std::env::args_os(), &[])
}
