//! The command `conduit`: everything is in the library.

use std::process::ExitCode;

fn main() -> ExitCode {
    conduit::cli::main()
}
