//! `dogwatch`.

use std::process::ExitCode;

fn main() -> ExitCode {
    dogwatch_cli::program::main()
}
