//! The completions for shells in `config/completions/` are those of the command line.
//!
//! They are made here and not by the program, which would carry the generator about. After a change of the
//! command line: `UPDATE_GOLDEN=1 cargo test --test completions`, then look at `git diff`.

use std::fs;
use std::path::Path;

use clap::CommandFactory;
use clap_complete::{Shell, generate};
use hushwire::cli::Arguments;

/// Each shell with the file name that it looks for.
const FILES: [(Shell, &str); 3] =
    [(Shell::Bash, "hushwire.bash"), (Shell::Zsh, "_hushwire"), (Shell::Fish, "hushwire.fish")];

#[test]
fn completions_are_those_of_the_command_line() {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("config/completions");
    for (shell, name) in FILES {
        let mut made = Vec::new();
        generate(shell, &mut Arguments::command(), "hushwire", &mut made);
        let made = String::from_utf8(made).unwrap();
        // Git would complain of it.
        let made: String = made.lines().map(|line| format!("{}\n", line.trim_end())).collect();
        let path = directory.join(name);
        if updates_wanted() {
            fs::create_dir_all(&directory).unwrap();
            fs::write(&path, &made).unwrap();
        }
        let recorded = fs::read_to_string(&path).unwrap_or_default();
        assert!(
            recorded == made,
            "{} is of another command line; run UPDATE_GOLDEN=1 cargo test --test completions",
            path.display()
        );
        for command in Arguments::command().get_subcommands().filter(|one| !one.is_hide_set()) {
            assert!(made.contains(command.get_name()), "{name}: no {}", command.get_name());
        }
    }
}

#[expect(clippy::disallowed_methods, reason = "a switch for the person at the keyboard, in a test")]
fn updates_wanted() -> bool {
    std::env::var("UPDATE_GOLDEN").is_ok_and(|value| value == "1")
}
