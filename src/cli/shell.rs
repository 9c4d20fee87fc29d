//! `completions` and `man`: both are generated from the definition of the command line.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, CommandFactory as _, ValueEnum};
use etcd_warden_gateway::terminal::{self, Plain};

use super::Cli;

/// Arguments of `completions`.
#[derive(Debug, Args)]
pub struct CompletionsArgs {
    /// The shell. For bash: `etcd-warden completions bash > /etc/bash_completion.d/etcd-warden`.
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
    /// The directory, for example `/usr/local/share/man/man1`. It gets one page per command.
    folder: PathBuf,
}

/// Prints the completions to `out`.
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

/// Writes the manual pages.
pub fn man(args: &ManArgs) -> ExitCode {
    match clap_mangen::generate_to(Cli::command(), &args.folder) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            terminal::err(format_args!(
                "etcd-warden: cannot write manual pages to `{}`: {error}. Name an existing directory",
                args.folder.display()
            ));
            ExitCode::FAILURE
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn completions_of_each_shell_contain_the_commands() {
        for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
            let mut text = Vec::new();
            assert_eq!(
                completions(&CompletionsArgs { shell }, &mut Plain::new(&mut text)),
                ExitCode::SUCCESS
            );
            let text = String::from_utf8(text).unwrap();
            for word in ["serve", "explain", "completions", "print-config"] {
                assert!(text.contains(word), "{shell:?} lacks {word}");
            }
        }
    }

    #[test]
    fn each_command_has_a_manual_page() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(man(&ManArgs { folder: folder.path().to_owned() }), ExitCode::SUCCESS);
        for page in ["etcd-warden.1", "etcd-warden-serve.1", "etcd-warden-policy-explain.1"] {
            let text = std::fs::read_to_string(folder.path().join(page)).unwrap();
            assert!(text.contains(".SH SYNOPSIS"), "{page}");
        }
        assert_eq!(man(&ManArgs { folder: folder.path().join("none") }), ExitCode::FAILURE);
    }
}
