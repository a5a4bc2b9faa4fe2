//! The `readyd` program.

use std::process::ExitCode;

use clap::Parser as _;

fn main() -> ExitCode {
    readyd::cli::run(readyd::cli::Arguments::parse())
}
