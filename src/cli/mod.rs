//! The command line: one file per verb, its arguments, what it does and what it prints.
//!
//! Decides nothing that another module could: it reads options, calls, and shows the outcome.
//! Implements the section "Commands" of the specification (`README.md`, "Commands").

mod args;
mod completions;
mod config;
mod connect;
mod context;
mod demo;
mod doctor;
mod down;
mod enrol;
mod init;
mod kill;
mod list;
mod logs;
mod man;
mod output;
mod paths;
mod prepare;
mod reach;
mod report;
mod router;
mod running;
mod service;
mod start;
mod status;
mod tunnel;
mod up;
mod version;
mod wait;

use std::process::ExitCode;

use clap::Parser;

use crate::config::Environment;
use crate::fleet::{self, Failure};
use args::{Cli, Verb};
use context::Context;

pub use args::command;

/// Runs the command line of this process.
pub fn main() -> ExitCode {
    // Not a verb: nobody types it, and what it needs comes through a pipe.
    if std::env::args_os().nth(1).is_some_and(|verb| verb == "__tunnel") {
        return ExitCode::from(fleet::run_child());
    }
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return ExitCode::from(report::usage(&error)),
    };
    let context = Context::new(&cli.global, Environment::of_process());
    match run(&cli.verb, &context) {
        Ok(code) => ExitCode::from(code),
        Err(failure) if output::is_closed_pipe(&failure) => ExitCode::SUCCESS,
        Err(failure) => ExitCode::from(report::failure(&failure, &context)),
    }
}

fn run(verb: &Verb, context: &Context) -> Result<u8, Failure> {
    match verb {
        Verb::Init(args) => init::run(args, context),
        Verb::Start(args) => start::run(args, context),
        Verb::Up(args) => up::run(args, context),
        Verb::Down(args) => down::run(args, context),
        Verb::Router(args) => router::run(args, context),
        Verb::List(args) => list::run(args, context),
        Verb::Kill(args) => kill::run(args, context),
        Verb::Status(args) => status::run(args, context),
        Verb::Wait(args) => wait::run(args, context),
        Verb::Logs(args) => logs::run(args, context),
        Verb::Config(args) => config::run(args, context),
        Verb::Connect(args) => connect::run(args, context),
        Verb::Doctor(args) => doctor::run(args, context),
        Verb::Demo(args) => demo::run(args, context),
        Verb::Version => version::run(context),
        Verb::Completions(args) => completions::run(args, context),
        Verb::Man(args) => man::run(args, context),
    }
}
