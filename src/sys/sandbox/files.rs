//! The files that are left (Landlock): what is not beneath one of these cannot be opened, also by user 0.
//!
//! A rule is about a file itself and not about its name: one that is put in its place later is another. So
//! where files are replaced while hushwire runs, their directory is given.

use std::error::Error;
use std::io;
use std::path::{Path, PathBuf};

use landlock::{
    ABI, Access, AccessFs, BitFlags, CompatLevel, Compatible, PathBeneath, PathFd, Ruleset,
    RulesetAttr, RulesetCreated, RulesetCreatedAttr, RulesetStatus,
};

use super::Landlock;
use crate::sys::is_out_of_files;

/// Why a rule or all of them were refused.
type Refusal = Box<dyn Error + Send + Sync>;

/// What the system's resolver reads. Its plug-ins are code, in one of the directories below.
const RESOLVER: [&str; 8] = [
    "/etc/resolv.conf",
    "/etc/hosts",
    "/etc/nsswitch.conf",
    "/etc/host.conf",
    "/etc/gai.conf",
    "/etc/services",
    "/etc/ld.so.cache",
    "/proc/self",
];
/// Code of the C library's: nothing secret. The static program needs none.
const LIBRARIES: [&str; 4] = ["/lib", "/lib64", "/usr/lib", "/usr/lib64"];
/// Directories of which everything would be too much: there the files are given one by one.
const TOO_MUCH: [&str; 3] = ["/", "/etc", "/root"];

/// What a process may open from now on.
#[derive(Clone, Debug, Default)]
pub struct Files {
    /// Files to read; and what is beside them, since the next version of one comes under the same name.
    pub read: Vec<PathBuf>,
    /// Directories to read.
    pub directories: Vec<PathBuf>,
    /// Directories in which sockets are made and removed.
    pub sockets: Vec<PathBuf>,
    /// Whether it resolves names.
    pub resolver: bool,
}

/// Leaves the calling thread, and those that it starts later, with these files.
///
/// # Errors
///
/// When the kernel has Landlock and refuses a rule.
pub(super) fn restrict(files: &Files) -> io::Result<Landlock> {
    build(files).map_err(io::Error::other)
}

fn build(files: &Files) -> Result<Landlock, Refusal> {
    // The newest of which this code knows what it means: truncation (3), ioctl on devices (5).
    let all = AccessFs::from_all(ABI::V5);
    let ruleset = Ruleset::default().set_compatibility(CompatLevel::BestEffort);
    let mut rules = ruleset.handle_access(all)?.create()?;
    let read = AccessFs::ReadFile | AccessFs::ReadDir;
    for file in &files.read {
        rules = give_file(rules, file)?;
    }
    for directory in &files.directories {
        rules = give(rules, directory, read)?;
    }
    for directory in &files.sockets {
        let make = AccessFs::MakeSock | AccessFs::RemoveFile;
        rules = give(rules, directory, read | make)?;
    }
    rules = give(rules, Path::new("/dev/null"), AccessFs::ReadFile | AccessFs::WriteFile)?;
    // A static program does not find the C library's getrandom() by its name, and reads these.
    for source in ["/dev/urandom", "/dev/random"] {
        rules = give(rules, Path::new(source), AccessFs::ReadFile.into())?;
    }
    if files.resolver {
        for file in RESOLVER {
            rules = give_file(rules, Path::new(file))?;
        }
        let libraries: &[&str] = if cfg!(target_env = "musl") { &[] } else { &LIBRARIES };
        for directory in libraries {
            rules = give(rules, Path::new(directory), read)?;
        }
    }
    Ok(match rules.restrict_self()?.ruleset {
        RulesetStatus::FullyEnforced => Landlock::InForce,
        RulesetStatus::PartiallyEnforced => Landlock::InPart,
        RulesetStatus::NotEnforced => Landlock::NotInForce,
    })
}

/// Gives a file, and what is beside it if that is not too much.
fn give_file(rules: RulesetCreated, file: &Path) -> Result<RulesetCreated, Refusal> {
    // A link leads elsewhere: what counts is there.
    let real = file.canonicalize();
    let mut rules = rules;
    for path in [Some(file), real.as_deref().ok()].into_iter().flatten() {
        if path.is_dir() {
            rules = give(rules, path, AccessFs::ReadFile | AccessFs::ReadDir)?;
            continue;
        }
        let directory = path
            .parent()
            .filter(|&directory| !TOO_MUCH.iter().any(|too_much| directory == Path::new(too_much)));
        rules = match directory {
            Some(directory) => give(rules, directory, AccessFs::ReadFile | AccessFs::ReadDir)?,
            None => give(rules, path, AccessFs::ReadFile.into())?,
        };
    }
    Ok(rules)
}

/// Gives what is there: what is not cannot be read in any case. What cannot be opened for want of a descriptor
/// would be missed later.
fn give(
    rules: RulesetCreated,
    path: &Path,
    access: BitFlags<AccessFs>,
) -> Result<RulesetCreated, Refusal> {
    match PathFd::new(path) {
        Ok(opened) => Ok(rules.add_rule(PathBeneath::new(opened, access))?),
        Err(error) if is_out_of_files(&error) => Err(error.into()),
        Err(_) => Ok(rules),
    }
}
