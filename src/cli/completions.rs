//! `conduit completions`: what a shell needs to complete options.

use clap_complete::Shell;

use super::args::command;
use super::context::Context;
use crate::fleet::Failure;

/// Options of `completions`.
#[derive(Debug, clap::Args)]
#[command(after_long_help = EXAMPLES)]
pub(super) struct Args {
    /// The shell
    #[arg(value_name = "SHELL")]
    shell: Shell,
}

pub(super) fn run(args: &Args, context: &Context) -> Result<u8, Failure> {
    let mut text = Vec::new();
    clap_complete::generate(args.shell, &mut command(), "conduit", &mut text);
    context.raw(&text).map(|()| 0)
}

const EXAMPLES: &str = "\
Examples:
  conduit completions bash > ~/.local/share/bash-completion/completions/conduit
  conduit completions zsh  > ~/.zfunc/_conduit
  conduit completions fish > ~/.config/fish/completions/conduit.fish";
