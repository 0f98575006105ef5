//! `kubectl dogwatch`: kubectl runs a program of this name on the path as its plugin.

use std::process::ExitCode;

fn main() -> ExitCode {
    dogwatch_cli::program::main()
}
