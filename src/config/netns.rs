//! `[interface] netns` and `[docker]`: in whose network namespace the overlay interface is to be.
//!
//! What a text means is decided here and nowhere else; whether there is such a namespace or container is
//! found out by the daemon, again and again. Called by `load`.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use super::error::{Complaint, shown};

/// Where Docker listens; `/var/run` is a link to `/run`.
const DEFAULT_SOCKET: &str = "/run/docker.sock";
/// `PID_MAX_LIMIT` of include/linux/threads.h on 64 bits.
const PID_MAX: u32 = 4_194_304;
/// Where `ip netns` keeps its names.
const NAMES: &str = "/run/netns";

/// In whose network namespace the overlay interface is to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Netns {
    /// That of hushwire itself.
    Own,
    /// The one that `ip netns` knows under a name.
    Name(String),
    /// The one that is mounted at a path.
    Path(PathBuf),
    /// That of a process.
    Pid(u32),
    /// That of a container.
    Container(Selector),
}

/// Which container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Selector {
    /// By its name or its id.
    Name(String),
    /// The one that runs and has a label: `key=value`, or `key` with any value.
    Label(String),
}

/// `[docker]`: the container engine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Docker {
    /// Whether hushwire is a network driver of the engine: a container gets the interface, not the machine.
    pub plugin: bool,
    /// The UNIX socket of its API, Docker's or a compatible one.
    pub socket: PathBuf,
}

impl Default for Docker {
    fn default() -> Self {
        Self { plugin: false, socket: DEFAULT_SOCKET.into() }
    }
}

impl Netns {
    /// The file that stands for it, if it is one and no process or container.
    pub fn file(&self) -> Option<PathBuf> {
        match self {
            Netns::Name(name) => Some(Path::new(NAMES).join(name)),
            Netns::Path(path) => Some(path.clone()),
            Netns::Own | Netns::Pid(_) | Netns::Container(_) => None,
        }
    }
}

impl fmt::Display for Netns {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Netns::Own => f.write_str("its own"),
            Netns::Name(name) => write!(f, "name:{name}"),
            Netns::Path(path) => path.display().fmt(f),
            Netns::Pid(pid) => write!(f, "pid:{pid}"),
            Netns::Container(Selector::Name(name)) => write!(f, "docker:{name}"),
            Netns::Container(Selector::Label(label)) => write!(f, "docker:label={label}"),
        }
    }
}

impl FromStr for Netns {
    type Err = Complaint;

    /// Reads `name:X`, `/path`, `pid:N`, `docker:NAME` or `docker:label=KEY=VALUE`.
    fn from_str(text: &str) -> Result<Self, Complaint> {
        let wrong = |why: &str| Complaint::new(format!("{} {why}", shown(text)));
        if text.contains(char::is_control) {
            return Err(wrong("has control characters in it"));
        }
        if text.starts_with('/') {
            return Ok(Netns::Path(PathBuf::from(text)));
        }
        match text.split_once(':') {
            Some(("name", name)) => name_of(name).map(Netns::Name).ok_or_else(|| {
                wrong("has no name of a network namespace").allowed(
                    "the name of a file in /run/netns, as `ip netns list` shows it; \"/path\" for others",
                )
            }),
            Some(("pid", pid)) => number(pid).map(Netns::Pid).ok_or_else(|| {
                wrong("has no process id").allowed(format!("a number from 1 to {PID_MAX}"))
            }),
            Some(("docker", which)) => selector(which).map(Netns::Container).ok_or_else(|| {
                wrong("names no container").allowed(
                    "docker:NAME, docker:ID, docker:label=KEY=VALUE or docker:label=KEY",
                )
            }),
            _ => Err(wrong("is no network namespace")
                .allowed(
                    "\"docker:NAME\", \"docker:label=KEY=VALUE\", \"name:NAME\", \"pid:NUMBER\" or \"/path\"",
                )
                .hint("leave the line out to have the interface where hushwire is")),
        }
    }
}

fn name_of(text: &str) -> Option<String> {
    let good = !text.is_empty() && text.len() <= 255 && !text.contains('/');
    (good && text != "." && text != "..").then(|| text.to_owned())
}

fn number(text: &str) -> Option<u32> {
    let digits = text.bytes().all(|byte| byte.is_ascii_digit());
    text.parse().ok().filter(|pid| digits && (1..=PID_MAX).contains(pid))
}

fn selector(text: &str) -> Option<Selector> {
    if let Some(label) = text.strip_prefix("label=") {
        let key = label.split('=').next().unwrap_or_default();
        let good = !key.is_empty() && !key.contains(char::is_whitespace);
        return good.then(|| Selector::Label(label.to_owned()));
    }
    // What Docker and podman take for a name; an id is one, too.
    let good = |byte: u8| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte);
    let starts_well = text.bytes().next().is_some_and(|byte| byte.is_ascii_alphanumeric());
    (starts_well && text.bytes().all(good)).then(|| Selector::Name(text.to_owned()))
}

/// Reads the path of an engine's socket.
pub(super) fn socket(text: &str) -> Result<PathBuf, Complaint> {
    let allowed = "an absolute path, such as \"/run/docker.sock\" or \"/run/podman/podman.sock\"";
    if text.starts_with('/') && !text.contains(char::is_control) {
        return Ok(PathBuf::from(text));
    }
    let complaint = Complaint::new(format!("{} is no path of a socket", shown(text)));
    let complaint = complaint.allowed(allowed);
    Err(match text.strip_prefix("unix://") {
        Some(path) if path.starts_with('/') => complaint.hint(format!("write {}", shown(path))),
        _ if text.contains("://") => complaint.hint("hushwire asks engines of its own machine"),
        _ => complaint,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_namespace_is_read_and_written_the_same_way() {
        let name = |text: &str| Netns::Container(Selector::Name(text.to_owned()));
        let label = |text: &str| Netns::Container(Selector::Label(text.to_owned()));
        for (text, expected) in [
            ("name:am", Netns::Name("am".to_owned())),
            ("/proc/4242/ns/net", Netns::Path("/proc/4242/ns/net".into())),
            ("pid:4242", Netns::Pid(4242)),
            ("docker:alertmanager", name("alertmanager")),
            ("docker:am_1.x-y", name("am_1.x-y")),
            ("docker:label=com.example.role=alertmanager", label("com.example.role=alertmanager")),
            ("docker:label=a=b=c", label("a=b=c")),
            ("docker:label=role", label("role")),
        ] {
            assert_eq!(text.parse::<Netns>().unwrap(), expected, "{text}");
            assert_eq!(expected.to_string(), text);
        }
        assert_eq!(Netns::Name("am".into()).file(), Some("/run/netns/am".into()));
        assert_eq!(name("am").file(), None);
    }

    #[test]
    fn what_is_no_namespace_is_refused() {
        for text in [
            "",
            "am",
            "host",
            "name:",
            "name:a/b",
            "name:..",
            "pid:",
            "pid:0",
            "pid:+1",
            "pid:-1",
            "pid:4194305",
            "docker:",
            "docker:/am",
            "docker:a b",
            "docker:-a",
            "docker:label=",
            "docker:label==v",
            "docker:label=a b=c",
            "podman:am",
            "/a\nb",
            "container:am",
        ] {
            assert!(text.parse::<Netns>().is_err(), "{text:?}");
        }
        for text in ["", "docker.sock", "unix:///run/docker.sock", "tcp://a:1", "/a\nb"] {
            assert!(socket(text).is_err(), "{text:?}");
        }
    }
}
