//! `dogwatch-collector`: parses, starts, waits, maps to an exit code.

use std::process::ExitCode;

fn main() -> ExitCode {
    dogwatch_collector::command::main(std::env::args_os())
}
