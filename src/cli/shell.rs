//! What a shell and `man` read of the command line: both are generated from its definition.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, CommandFactory as _, ValueEnum};
use etcd_warden_gateway::terminal::{self, Plain};

use super::Cli;

/// Arguments of `completions`.
#[derive(Debug, Args)]
pub struct CompletionsArgs {
    /// Which shell. For bash: `etcd-warden completions bash > /etc/bash_completion.d/etcd-warden`.
    shell: Shell,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Shell {
    Bash,
    Zsh,
    Fish,
}

/// Arguments of `man`.
#[derive(Debug, Args)]
pub struct ManArgs {
    /// The folder, for example `/usr/local/share/man/man1`. One page for each command.
    folder: PathBuf,
}

/// Prints the completions.
pub fn completions(args: &CompletionsArgs, out: &mut Plain<'_>) -> ExitCode {
    let mut text = Vec::new();
    clap_complete::generate(of_clap(args.shell), &mut Cli::command(), "etcd-warden", &mut text);
    match out.verbatim(&text) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            terminal::err(format_args!("etcd-warden: cannot print the completions: {error}"));
            ExitCode::FAILURE
        }
    }
}

const fn of_clap(shell: Shell) -> clap_complete::Shell {
    match shell {
        Shell::Bash => clap_complete::Shell::Bash,
        Shell::Zsh => clap_complete::Shell::Zsh,
        Shell::Fish => clap_complete::Shell::Fish,
    }
}

/// Writes the pages.
pub fn man(args: &ManArgs) -> ExitCode {
    match clap_mangen::generate_to(Cli::command(), &args.folder) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let folder = args.folder.display();
            terminal::err(format_args!(
                "etcd-warden: cannot write manual pages into `{folder}`: {error}. Name a folder that exists"
            ));
            ExitCode::FAILURE
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn completions_of_each_shell_know_the_commands() {
        for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
            let mut text = Vec::new();
            assert_eq!(
                completions(&CompletionsArgs { shell }, &mut Plain::new(&mut text)),
                ExitCode::SUCCESS
            );
            let text = String::from_utf8(text).unwrap();
            for word in ["serve", "explain", "completions", "print-config"] {
                assert!(text.contains(word), "{shell:?} does not know {word}");
            }
        }
    }

    #[test]
    fn each_command_has_its_manual_page() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(man(&ManArgs { folder: folder.path().to_owned() }), ExitCode::SUCCESS);
        for page in ["etcd-warden.1", "etcd-warden-serve.1", "etcd-warden-policy-explain.1"] {
            let text = std::fs::read_to_string(folder.path().join(page)).unwrap();
            assert!(text.contains(".SH SYNOPSIS"), "{page}");
        }
        assert_eq!(man(&ManArgs { folder: folder.path().join("none") }), ExitCode::FAILURE);
    }
}
