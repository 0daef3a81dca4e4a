//! A word in the place of an interface that was to be a command.
//!
//! An interface may have nearly any name, and nobody shall get one for a mistyped command. Called by
//! `cli`, which says how to have an interface of that name all the same.

use clap::CommandFactory;

use super::Arguments;

/// Words that other programs have for a command, and what to do here instead.
const ELSEWHERE: [(&[&str], &str); 8] = [
    (&["version"], "did you mean '--version'?"),
    (&["start", "run"], "did you mean 'up'?"),
    (&["show", "list", "ps"], "did you mean 'status'?"),
    (&["config"], "did you mean 'check'?"),
    (&["stop", "down", "quit"], "SIGTERM ends a running hushwire"),
    (&["restart"], "'reload' reads the configuration again"),
    (&["remove"], "'ip link delete' removes an interface"),
    (&["uninstall"], "remove hushwire the way it was installed"),
];

/// Whether this is a command.
pub(super) fn is_command(name: &str) -> bool {
    commands().any(|command| command == name)
}

/// What to do instead, if this was probably to be a command.
pub(super) fn advice(name: &str) -> Option<String> {
    let elsewhere = || ELSEWHERE.iter().find(|(words, _)| words.contains(&name));
    match almost_a_command(name) {
        Some(command) => Some(format!("did you mean '{command}'?")),
        None => elsewhere().map(|(_, advice)| (*advice).to_owned()),
    }
}

/// The command that somebody who typed this has probably meant: one slip away, or two if it is longer
/// than four letters.
fn almost_a_command(name: &str) -> Option<String> {
    let near = commands()
        .map(|command| (slips(name, &command), command))
        .filter(|(slips, command)| *slips <= if command.len() > 4 { 2 } else { 1 });
    near.min().map(|(_, command)| command)
}

/// clap adds `help` only when it reads the arguments.
fn commands() -> impl Iterator<Item = String> {
    let commands = Arguments::command();
    let names: Vec<_> = commands.get_subcommands().map(|one| one.get_name().to_owned()).collect();
    names.into_iter().chain(["help".to_owned()])
}

/// How many letters were missed, added, mistaken or swapped with their neighbour between two words.
fn slips(typed: &str, meant: &str) -> usize {
    let (typed, meant) = (typed.as_bytes(), meant.as_bytes());
    let mut rows = vec![vec![0; meant.len() + 1]; typed.len() + 1];
    for i in 0..=typed.len() {
        for j in 0..=meant.len() {
            rows[i][j] = if i == 0 || j == 0 {
                i + j
            } else {
                let mistaken = rows[i - 1][j - 1] + usize::from(typed[i - 1] != meant[j - 1]);
                let mut least = mistaken.min(rows[i - 1][j] + 1).min(rows[i][j - 1] + 1);
                if i > 1 && j > 1 && typed[i - 1] == meant[j - 2] && typed[i - 2] == meant[j - 1] {
                    least = least.min(rows[i - 2][j - 2] + 1);
                }
                least
            };
        }
    }
    rows[typed.len()][meant.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mistyped_command_is_no_interface_and_an_interface_no_mistyped_command() {
        for (typed, command) in [
            ("stauts", "status"),
            ("chek", "check"),
            ("upp", "up"),
            ("pu", "up"),
            ("wiat", "wait"),
            ("pubky", "pubkey"),
            ("hepl", "help"),
        ] {
            assert_eq!(almost_a_command(typed).as_deref(), Some(command), "{typed}");
        }
        for name in ["wg0", "wg", "hush0", "tun0", "utun", "wg-office", "vpn", "wgX_1"] {
            assert_eq!(advice(name), None, "{name}");
        }
    }
}
