//! The manual pages and the units are those of the program: keys, commands, options, environment, lines.
//!
//! How the pages look is checked by scripts/test.sh (mandoc, man), and the units by systemd-analyze.

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;
use std::process::Command;

use clap::CommandFactory;
use hushwire::cli::Arguments;
use hushwire::config::{Environment, load};

const PROGRAM: &str = include_str!("../config/man/hushwire.8");
const CONFIGURATION: &str = include_str!("../config/man/hushwire.toml.5");
const UNIT: &str = include_str!("../config/hushwire.service");
const INSTANCE: &str = include_str!("../config/hushwire@.service");

#[test]
fn configuration_manual_has_the_keys_of_the_loader_and_no_others() {
    let sections = keys("x = 1\n", "unknown key at the top level");
    let headings: BTreeSet<_> =
        CONFIGURATION.lines().filter_map(|line| line.strip_prefix(".SS ")).collect();
    assert_eq!(headings.len(), sections.len(), "{headings:?} are not the sections {sections:?}");
    for heading in headings {
        let name = heading.trim_matches(['[', ']']);
        assert!(sections.contains(name), "config/man/hushwire.toml.5 has a section {heading}");
        let known = keys(&format!("{heading}\nx = 1\n"), &format!("unknown key in {heading}"));
        let text = CONFIGURATION.split_once(&format!(".SS {heading}\n")).unwrap().1;
        let text = text.split("\n.SS ").next().unwrap().split("\n.SH ").next().unwrap();
        assert_eq!(tagged(text), known, "config/man/hushwire.toml.5, {heading}");
    }
}

/// What a line begins with that goes on with what is allowed.
const GOES_ON: &str = "\n           ";

/// The keys that are allowed, as the loader itself says it of one that is not.
fn keys(text: &str, error: &str) -> BTreeSet<String> {
    let name = format!("hushwire-manual-{}-{}.toml", std::process::id(), text.len());
    let path = std::env::temp_dir().join(name);
    fs::write(&path, text).unwrap();
    let errors = load(&path, &Environment::default()).unwrap_err().to_string();
    fs::remove_file(&path).unwrap();
    let (_, known) = errors.split_once(&format!("{error}\n  allowed: ")).unwrap();
    let known = known.replace(GOES_ON, " ");
    known.lines().next().unwrap().split(", ").map(str::to_owned).collect()
}

/// What stands in bold behind each `.TP`.
fn tagged(text: &str) -> BTreeSet<String> {
    let tags = text.split(".TP\n").skip(1).map(|item| item.lines().next().unwrap());
    tags.filter_map(|tag| tag.strip_prefix(".B ")).map(|tag| tag.replace("\\-", "-")).collect()
}

#[test]
fn program_manual_has_every_command_and_option() {
    let section = |name: &str| {
        let text = PROGRAM.split_once(&format!("\n.SH {name}\n")).unwrap().1;
        text.split("\n.SH ").next().unwrap()
    };
    let command = Arguments::command();
    let known = command.get_subcommands().map(|command| command.get_name().to_owned()).collect();
    assert_eq!(tagged(section("COMMANDS")), known);
    for command in command.get_subcommands().chain([&command]) {
        for option in command.get_arguments().filter_map(|argument| argument.get_long()) {
            let shown = format!("\\-\\-{}", option.replace('-', "\\-"));
            assert!(PROGRAM.contains(&shown), "{}: --{option} is missing", command.get_name());
        }
    }
    let version = format!("\"hushwire {}\"", env!("CARGO_PKG_VERSION"));
    for page in [PROGRAM, CONFIGURATION] {
        let title = page.lines().find(|line| line.starts_with(".TH ")).unwrap();
        assert!(title.contains(&version), "{title}");
    }

    // main.rs is the one place that reads the environment.
    let source = include_str!("../src/main.rs");
    let names = ["variable(\"", "text(\""].iter().flat_map(|call| source.split(call).skip(1));
    let names: BTreeSet<_> = names.map(|rest| rest.split('"').next().unwrap()).collect();
    assert!(names.len() > 10, "{names:?}");
    for name in names {
        assert!(section("ENVIRONMENT").contains(name), "${name} is not in config/man/hushwire.8");
    }
}

#[test]
fn both_units_are_one_but_for_names() {
    let instance = UNIT
        .replace("/etc/hushwire/hushwire.toml", "/etc/hushwire/%i.toml")
        .replace("private.key:/etc/hushwire/private.key", "%i.key:/etc/hushwire/%i.key")
        .replace("Alertmanager's gossip\n", "Alertmanager's gossip: %i\n");
    let lines = |text: &str| -> Vec<String> {
        let text = text.split_once("\n[Unit]").unwrap().1;
        text.lines().map(str::to_owned).collect()
    };
    assert_eq!(lines(INSTANCE), lines(&instance));
}

#[test]
fn each_line_of_the_unit_has_its_reason() {
    let service = UNIT.split_once("\n[Service]\n").unwrap().1.split("\n[Install]").next().unwrap();
    for paragraph in service.split("\n\n") {
        assert!(paragraph.trim_start().starts_with('#'), "no reason: {paragraph}");
    }
    // What it may do at most is what the manual says it is given.
    assert!(UNIT.contains("\nCapabilityBoundingSet=CAP_NET_ADMIN\n"));
    let config = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("config");
    let mut count = 0;
    for directory in ["hushwire.service.d", "alertmanager.service.d"] {
        for file in fs::read_dir(config.join(directory)).unwrap() {
            let path = file.unwrap().path();
            let text = fs::read_to_string(&path).unwrap();
            assert!(text.starts_with('#') && text.contains("\n[Service]\n"), "{path:?}");
            count += 1;
        }
    }
    assert_eq!(count, 3);
}

#[test]
fn installer_and_package_put_the_same_files_in_the_same_places() {
    let manifest = include_str!("../Cargo.toml");
    let (_, assets) = manifest.split_once("\nassets = [\n").unwrap();
    let assets = assets.lines().take_while(|line| *line != "]").map(|line| {
        let words: Vec<_> = line.split('"').collect();
        let file = words[1].replace("target/release/hushwire", "BINARY");
        (file, words[3].strip_prefix("usr/").unwrap().to_owned(), words[5].to_owned())
    });
    let script = include_str!("../scripts/install.sh");
    let (_, files) = script.split_once("\nreadonly FILES='\n").unwrap();
    let files = files.split('\'').next().unwrap().lines().map(|line| {
        let words: Vec<_> = line.split_whitespace().map(str::to_owned).collect();
        (words[0].clone(), words[1].clone(), words[2].clone())
    });
    let files: BTreeSet<_> = files.collect();
    assert!(files.len() > 8);
    assert_eq!(files, assets.collect());
}

/// A tree to install into, and how the installer is run for it.
struct Tree(PathBuf);

impl Tree {
    fn new(name: &str) -> Self {
        let name = format!("hushwire-install-{name}-{}", std::process::id());
        let path = std::env::temp_dir().join(name);
        fs::create_dir(&path).unwrap();
        Self(path)
    }

    /// Everything in it of this type, as find(1) calls it, below its root.
    fn all(&self, kind: &str) -> Vec<String> {
        let mut find = Command::new("find");
        find.arg(&self.0).args(["-mindepth", "1", "-type", kind, "-printf", "%m %P\n"]);
        let found = String::from_utf8(find.output().unwrap().stdout).unwrap();
        found.lines().map(str::to_owned).collect()
    }

    /// The installer, in the directory of the sources.
    fn installer(&self, prefix: &str, arguments: &[&str]) -> Command {
        let sources = env!("CARGO_MANIFEST_DIR");
        let mut command = Command::new(format!("{sources}/scripts/install.sh"));
        command.args(arguments).current_dir(sources);
        command.env("DESTDIR", &self.0).env("PREFIX", prefix);
        command.env("BINARY", env!("CARGO_BIN_EXE_hushwire"));
        command
    }
}

impl Drop for Tree {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

#[track_caller]
fn run(mut command: Command) {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn installer_takes_away_what_it_has_put_in_place() {
    for prefix in ["/usr", "/opt/hushwire"] {
        let tree = Tree::new("remove");
        run(tree.installer(prefix, &[]));
        let place = tree.0.join(prefix.trim_start_matches('/'));
        let unit = fs::read_to_string(place.join("lib/systemd/system/hushwire@.service")).unwrap();
        assert!(unit.contains(&format!("\nExecStart={prefix}/bin/hushwire up")), "{unit}");
        let version = Command::new(place.join("bin/hushwire")).arg("--version").output().unwrap();
        assert!(version.status.success());
        assert_eq!(tree.all("f").len(), 13);
        // As `systemctl enable` makes them, and one of somebody else.
        let wants = tree.0.join("etc/systemd/system/multi-user.target.wants");
        fs::create_dir_all(&wants).unwrap();
        for unit in ["hushwire.service", "hushwire@office.service", "other.service"] {
            std::os::unix::fs::symlink("/nowhere", wants.join(unit)).unwrap();
        }
        run(tree.installer(prefix, &["--remove"]));
        assert_eq!(tree.all("f"), Vec::<String>::new());
        let links = tree.all("l");
        assert!(links.len() == 1 && links[0].ends_with("/other.service"), "{links:?}");
        let ours: Vec<_> =
            tree.all("d").into_iter().filter(|name| name.contains("hushwire")).collect();
        assert_eq!(ours, Vec::<String>::new());
    }
}

/// `--remove --dry-run` removed.
#[test]
fn installer_does_nothing_with_arguments_that_it_does_not_know() {
    let tree = Tree::new("arguments");
    run(tree.installer("/usr", &[]));
    for (arguments, code) in [
        (&["--remove", "--dry-run"][..], 2),
        (&["--dry-run"], 2),
        (&[""], 2),
        (&["--help", "--remove"], 2),
        (&["--help"], 0),
    ] {
        let output = tree.installer("/usr", arguments).output().unwrap();
        assert_eq!(output.status.code(), Some(code), "{arguments:?}");
        let (said, silent) = match code {
            0 => (output.stdout, output.stderr),
            _ => (output.stderr, output.stdout),
        };
        assert!(said.starts_with(b"usage: ") && silent.is_empty(), "{arguments:?}");
        assert_eq!(tree.all("f").len(), 13, "{arguments:?}");
    }
}

/// They counted from the directory of the sources.
#[test]
fn installer_counts_relative_paths_from_where_it_is_called() {
    let tree = Tree::new("relative");
    fs::copy(env!("CARGO_BIN_EXE_hushwire"), tree.0.join("built")).unwrap();
    let relative = |prefix, arguments: &[&str]| {
        let mut command = tree.installer(prefix, arguments);
        command.current_dir(&tree.0).env("DESTDIR", "stage").env("BINARY", "built");
        command
    };
    run(relative("/usr", &[]));
    assert!(tree.0.join("stage/usr/bin/hushwire").is_file());
    run(relative("/usr", &["--remove"]));
    assert_eq!(tree.all("f").len(), 1);

    run(relative("own", &[]));
    let prefix = tree.0.join("own");
    let place = tree.0.join("stage").join(prefix.strip_prefix("/").unwrap());
    let unit = fs::read_to_string(place.join("lib/systemd/system/hushwire.service")).unwrap();
    assert!(unit.contains(&format!("\nExecStart={}/bin/hushwire up", prefix.display())), "{unit}");
}

/// zsh found no completions in a directory that only root could read.
#[test]
fn installer_makes_directories_for_everybody_whatever_the_umask() {
    let tree = Tree::new("umask");
    let installer = tree.installer("/usr/local", &[]);
    let mut command = Command::new("sh");
    command.args(["-c", "umask 077; exec \"$0\""]).arg(installer.get_program());
    command.current_dir(installer.get_current_dir().unwrap());
    command.envs(installer.get_envs().filter_map(|(name, value)| Some((name, value?))));
    run(command);
    let closed: Vec<_> =
        tree.all("d").into_iter().filter(|found| !found.starts_with("755 ")).collect();
    assert_eq!(closed, Vec::<String>::new());
}
