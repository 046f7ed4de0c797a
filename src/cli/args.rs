//! The verbs and the options that all of them have.

use clap::{Args, CommandFactory, Parser, Subcommand, ValueEnum};

use super::{
    completions, config, connect, demo, doctor, down, init, kill, list, logs, man, router, start,
    status, up, wait,
};

/// The command line.
#[derive(Debug, Parser)]
#[command(
    propagate_version = true,
    name = "conduit",
    version,
    about = "A self-hosted network tunnel: one binary, one authenticated QUIC connection, no daemon",
    after_help = FIRST_STEPS,
    after_long_help = EXPLAINED,
    max_term_width = 100,
    subcommand_required = true,
    arg_required_else_help = true
)]
pub(super) struct Cli {
    #[command(flatten)]
    pub(super) global: Global,
    #[command(subcommand)]
    pub(super) verb: Verb,
}

/// Options of every verb.
#[derive(Debug, Args)]
pub(super) struct Global {
    /// How data is printed; json has a "schema" with a version, and makes errors JSON too
    #[arg(short, long, global = true, value_enum, default_value_t = Format::Table, value_name = "FORMAT", display_order = 900)]
    pub(super) output: Format,
    /// Print ids only (of a ticket or a token: its text)
    #[arg(short, long, global = true, display_order = 901)]
    pub(super) quiet: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Format {
    /// For people
    Table,
    /// For programs
    Json,
}

#[derive(Debug, Subcommand)]
pub(super) enum Verb {
    /// Create a key and a commented configuration file
    Init(init::Args),
    /// Start one tunnel
    Start(Box<start::Args>),
    /// Start every tunnel of a configuration file
    Up(up::Args),
    /// Stop every tunnel that a configuration file started
    Down(down::Args),
    /// Run the router, or administer it
    Router(Box<router::Args>),
    /// Show the tunnels of this machine
    #[command(visible_alias = "ps")]
    List(list::Args),
    /// Stop tunnels, or cut one connection
    Kill(kill::Args),
    /// Check router and tunnels through the data path; exits 1 when something is down
    Status(status::Args),
    /// Return when tunnels are ready
    Wait(wait::Args),
    /// Look for what is wrong: this machine, the way to the router, the sources behind it
    Doctor(doctor::Args),
    /// Show the log of a tunnel, living or dead
    Logs(logs::Args),
    /// Check, show or write configuration files
    Config(config::Args),
    /// One connection on stdin and stdout, for ssh's ProxyCommand
    Connect(connect::Args),
    /// See it work: router, web service and tunnel in one process
    Demo(demo::Args),
    /// Print version, commit and target
    Version,
    /// Print the completions of a shell
    Completions(completions::Args),
    /// Write the manual pages into a folder
    Man(man::Args),
}

/// The definitions, for completions, manual pages and tests.
pub fn command() -> clap::Command {
    Cli::command()
}

const FIRST_STEPS: &str = "\
First steps:
  conduit demo                      see it work on this machine
  conduit router                    on the host that reaches the services: prints a ticket
  conduit start --join TICKET --source HOST:PORT --bind 127.0.0.1:PORT
                                    on the host that needs them";

const EXPLAINED: &str = "\
First steps:
  conduit demo                      see it work on this machine
  conduit router                    on the host that reaches the services: prints a ticket
  conduit start --join TICKET --source HOST:PORT --bind 127.0.0.1:PORT
                                    on the host that needs them

Files: everything lies in CONDUIT_HOME (default ~/.conduit).

Exit codes:
  0   done
  1   failed, or something is not healthy
  2   wrong command line
  69  unreachable, timed out, or had to be killed
  77  not allowed: unknown key, wrong pin, refused ticket, denied target
  78  wrong configuration";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_definitions_are_consistent() {
        command().debug_assert();
    }

    #[test]
    fn every_option_has_one_clear_line() {
        let mut seen = 0;
        let mut waiting = vec![command()];
        while let Some(command) = waiting.pop() {
            for argument in command.get_arguments() {
                let help = argument.get_help().map(ToString::to_string).unwrap_or_default();
                assert!(!help.is_empty(), "{} {}", command.get_name(), argument.get_id());
                assert!(!help.contains('\n') && help.len() <= 110, "{help}");
                seen += 1;
            }
            waiting.extend(command.get_subcommands().cloned());
        }
        assert!(seen > 40, "only {seen}");
    }
}
