//! Who takes part, and the commands that start them.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::ROOT;
use crate::support::process::finish;
use crate::support::tunnel::HUSHWIRE;

/// A way from left to right.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Contestant {
    /// The wire itself, in clear.
    Veth,
    /// Debian's.
    WireguardGo,
    /// crates.io's boringtun-cli, the version that the tests use too.
    Boringtun,
    /// `hushwire NAME`, the optimised build, or what `HUSHWIRE` in the environment names: two builds can be
    /// compared, and one with frame pointers can be profiled.
    Hushwire,
}

impl Contestant {
    /// All of them, in the order of the table.
    pub(crate) const ALL: [Self; 4] =
        [Self::Veth, Self::WireguardGo, Self::Boringtun, Self::Hushwire];

    /// Its name in table, picture and samples.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Veth => "veth",
            Self::WireguardGo => "wireguard-go",
            Self::Boringtun => "boringtun",
            Self::Hushwire => "hushwire",
        }
    }

    /// Its program, if it has one.
    pub(crate) fn program(self) -> Option<PathBuf> {
        match self {
            Self::Veth => None,
            Self::WireguardGo => Some("/usr/bin/wireguard-go".into()),
            Self::Boringtun => Some(Path::new(ROOT).join("target/tools/bin/boringtun-cli")),
            Self::Hushwire => {
                let given = std::env::var_os("HUSHWIRE").map(|file| Path::new(ROOT).join(file));
                Some(given.unwrap_or_else(|| HUSHWIRE.into()))
            }
        }
    }

    /// What its program is told to serve wg0 in the foreground, with its defaults where it has any.
    pub(crate) fn arguments(self) -> &'static [&'static str] {
        match self {
            Self::Veth => &[],
            // Without this flag it gives up root, and with it the right to serve the control socket.
            Self::Boringtun => &["--foreground", "--disable-drop-privileges", "wg0"],
            Self::WireguardGo | Self::Hushwire => &["--foreground", "wg0"],
        }
    }

    /// The first version number that its program prints.
    pub(crate) fn version(self) -> Option<String> {
        let program = self.program()?;
        let output = finish(Command::new(&program).arg("--version"));
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let starts =
            |word: &&str| word.trim_start_matches('v').starts_with(|c: char| c.is_ascii_digit());
        let version = text.split_whitespace().find(starts)?;
        Some(version.trim_start_matches('v').to_owned())
    }
}
