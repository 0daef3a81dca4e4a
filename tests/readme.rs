//! README.md is true: its tables are complete, its examples load, its commands are those of the program.
//!
//! The quick start is carried out in directories of this test, with real keys in place of the printed
//! ones. What makes a tunnel (`up`, `wait`, `status`) is parsed here; the other tests run it.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use clap::Parser;
use hushwire::cli::{Arguments, DEFAULT_CONFIG};
use hushwire::config::{Environment, load};
use hushwire::status::Status;
use hushwire::wireguard::DropReason;

const README: &str = include_str!("../README.md");

#[test]
fn lines_fit_100_columns() {
    for (number, line) in (1..).zip(README.lines()) {
        assert!(line.chars().count() <= 100, "README.md:{number} is too wide: {line}");
    }
}

#[test]
fn configuration_tables_have_the_keys_of_the_loader_and_no_others() {
    // The loader itself says which keys there are, when it meets one that is not.
    let directory = Directory::new("keys");
    let text = "[interface]\nx = 1\n[filter]\nx = 1\n[gossip]\nx = 1\n[[peer]]\nx = 1\n";
    let errors = load(&directory.write("hushwire.toml", text), &Environment::default());
    let errors = errors.unwrap_err().to_string();
    for name in ["[interface]", "[filter]", "[gossip]", "[[peer]]"] {
        let after = |text: &'static str, start: &str| {
            text.split_once(start).unwrap_or_else(|| panic!("no {start}")).1
        };
        let table = after(section("Configuration"), &format!("\n`{name}`: "));
        let documented = first_column(table.split("\n\n").nth(1).unwrap());
        let (_, known) = errors.split_once(&format!("unknown key in {name}\n  allowed: ")).unwrap();
        // A line that goes on is indented further.
        let known = known.replace("\n           ", " ");
        let known = known.lines().next().unwrap().split(", ").map(str::to_owned).collect();
        assert_eq!(documented, known, "{name}");
    }
}

#[test]
fn drop_reasons_are_those_of_the_program() {
    let known = DropReason::ALL.iter().map(|reason| reason.label().to_owned()).collect();
    assert_eq!(first_column(section("Drop reasons")), known);
}

#[test]
fn commands_are_those_of_the_help() {
    let help = run(Command::new(env!("CARGO_BIN_EXE_hushwire")).arg("--help"));
    let (_, list) = help.split_once("Commands:\n").unwrap();
    let listed = list.lines().take_while(|line| !line.is_empty());
    // A line that goes on is indented further.
    let listed = listed.filter(|line| !line.starts_with("   "));
    let listed = listed.map(|line| line.split_whitespace().next().unwrap().to_owned()).collect();
    assert_eq!(first_column(section("Commands")), listed);
}

#[test]
fn every_command_in_a_code_block_is_accepted() {
    let mut count = 0;
    for command in blocks("sh").iter().flat_map(|block| joined(block)).chain(console_commands()) {
        for arguments in invocations(&command) {
            if let Err(error) = Arguments::try_parse_from(&arguments) {
                panic!("{arguments:?} in README.md: {error}");
            }
            count += 1;
        }
    }
    assert!(count >= 8, "only {count} commands found");
}

#[test]
fn quick_start_prints_what_the_readme_says() {
    let directory = Directory::new("quick-start");
    let file = with_our_keys(&directory, &blocks("toml")[0]);
    for machine in ["machine1", "machine2"] {
        directory.write(&format!("{machine}/hushwire.toml"), &file);
    }
    let mut ran = 0;
    for (machine, command, printed) in blocks("console").iter().flat_map(|block| transcript(block))
    {
        let arguments = invocations(&command).remove(0);
        if !["init", "check", "alertmanager-flags"].contains(&arguments[1].as_str()) {
            continue;
        }
        let config = directory.0.join(&machine).join("hushwire.toml");
        let mut program = Command::new(env!("CARGO_BIN_EXE_hushwire"));
        program.args(&arguments[1..]).env_remove("CREDENTIALS_DIRECTORY");
        if arguments[1] == "init" {
            // It was run once already, for the keys in the file.
            program.arg("--config").arg(directory.0.join("once-more").join(machine).join("x.toml"));
        } else {
            program.arg("--config").arg(&config);
        }
        let out = run(&mut program).replace(config.to_str().unwrap(), DEFAULT_CONFIG);
        assert_eq!(without_keys(&out), without_keys(&printed), "{command}");
        ran += 1;
    }
    assert_eq!(ran, 4);
}

#[test]
fn toml_examples_load() {
    let examples = blocks("toml");
    let directory = Directory::new("examples");
    let quick_start = with_our_keys(&directory, &examples[0]);
    directory.write("machine1/cluster.psk", &run_hushwire(&["genpsk"]));
    let environment = Environment::default();
    let load = |text: &str| load(&directory.write("machine1/hushwire.toml", text), &environment);
    let whole = load(&quick_start).unwrap_or_else(|errors| panic!("{errors}"));
    assert_eq!(whole.interface.machine.as_deref(), Some("machine1"));
    for example in &examples[1..] {
        let config = load(&format!("{example}\n{quick_start}"));
        assert_ne!(config.unwrap_or_else(|errors| panic!("{errors}\nin:\n{example}")), whole);
    }
}

#[test]
fn status_example_has_the_fields_of_the_program() {
    let example: serde_json::Value = serde_json::from_str(&blocks("json")[0]).unwrap();
    let read: Status = serde_json::from_value(example.clone()).unwrap();
    assert_eq!(serde_json::to_value(read).unwrap(), example, "a field is missing or unknown");
}

#[test]
fn every_dependency_has_its_reason() {
    let manifest = include_str!("../Cargo.toml");
    let names = |heading: &str| -> BTreeSet<String> {
        let (_, rest) = manifest.split_once(&format!("\n{heading}\n")).unwrap();
        let lines = rest.lines().take_while(|line| !line.starts_with('['));
        let names = lines.filter_map(|line| Some(line.split_once(" = ")?.0.to_owned()));
        names.filter(|name| !name.starts_with('#')).collect()
    };
    assert_eq!(first_column(section("Dependencies")), names("[dependencies]"));
    for name in names("[dev-dependencies]") {
        assert!(section("Dependencies").contains(&format!("`{name}`")), "{name} is not explained");
    }
}

#[test]
fn code_map_has_every_room() {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let rooms = fs::read_dir(source).unwrap().map(|entry| {
        let path = entry.unwrap().path();
        let slash = if path.is_dir() { "/" } else { "" };
        format!("src/{}{slash}", path.file_name().unwrap().to_str().unwrap())
    });
    let map = section("Code map").lines().filter(|line| line.starts_with("src/"));
    let map: BTreeSet<_> = map.map(|line| line.split(' ').next().unwrap().to_owned()).collect();
    assert_eq!(map, rooms.collect());
}

#[test]
fn files_that_are_named_are_there() {
    let links = README.split("](").skip(1).map(|rest| rest.split(')').next().unwrap());
    let files = links.filter(|link| !link.starts_with('#'));
    let words = README.split(|c: char| c.is_whitespace() || c == '`');
    for file in files.chain(words.filter(|word| word.starts_with("scripts/"))) {
        assert!(Path::new(env!("CARGO_MANIFEST_DIR")).join(file).exists(), "{file} is not there");
    }
}

/// The text below a heading of the second level.
fn section(title: &str) -> &'static str {
    let (_, rest) = README.split_once(&format!("\n## {title}\n")).unwrap();
    rest.split("\n## ").next().unwrap()
}

/// The code spans that begin the rows of a table.
fn first_column(text: &str) -> BTreeSet<String> {
    let rows = text.lines().filter_map(|line| line.strip_prefix("| `")?.split_once("` |"));
    rows.map(|(cell, _)| cell.to_owned()).collect()
}

/// The code blocks of a language.
fn blocks(language: &str) -> Vec<String> {
    let start = format!("\n```{language}\n");
    let blocks = README.split(&start).skip(1);
    let blocks: Vec<_> =
        blocks.map(|rest| rest.split("\n```").next().unwrap().to_owned() + "\n").collect();
    assert!(!blocks.is_empty(), "no block of {language}");
    blocks
}

/// The lines of a block, those that end in a backslash with the next.
fn joined(block: &str) -> Vec<String> {
    block.replace("\\\n", " ").lines().map(str::to_owned).collect()
}

/// The commands of a console block: machine, command line, what it prints.
fn transcript(block: &str) -> Vec<(String, String, String)> {
    let mut steps: Vec<(String, String, String)> = Vec::new();
    for line in joined(block) {
        match line.split_once("# ") {
            Some((machine, command)) if machine.starts_with("machine") => {
                steps.push((machine.to_owned(), command.to_owned(), String::new()));
            }
            _ => {
                let (_, _, printed) =
                    steps.last_mut().expect("a console block begins with a command");
                *printed += &format!("{line}\n");
            }
        }
    }
    steps
}

fn console_commands() -> Vec<String> {
    let blocks = blocks("console");
    blocks.iter().flat_map(|block| transcript(block)).map(|(_, command, _)| command).collect()
}

/// The calls of hushwire in a line of shell: at its start, in `$(...)`, or as another program's command.
fn invocations(line: &str) -> Vec<Vec<String>> {
    let line = line.split(" # ").next().unwrap();
    // Not `inet hushwire input`, nor the path of an installed file.
    let starts = line.match_indices("hushwire ").map(|(at, _)| at).filter(|&at| {
        let before = line[..at].trim_end();
        before.is_empty()
            || before == "until"
            || before.ends_with("$(")
            || before.ends_with("/ns/net\"")
    });
    let ends = |c| matches!(c, ')' | '|' | '>' | '&' | ';');
    starts
        .map(|at| line[at..].split(ends).next().unwrap())
        .map(|call| call.split_whitespace().map(str::to_owned).collect())
        .collect()
}

/// The file with keys whose private halves lie in `machine1/private.key` and `machine2/private.key`.
fn with_our_keys(directory: &Directory, file: &str) -> String {
    let mut printed = Vec::new();
    for machine in ["machine1", "machine2"] {
        let config = directory.0.join(machine).join("hushwire.toml");
        let arguments = ["init", "--name", machine, "--address", "10.99.0.1", "--config"];
        let block = run_hushwire(&[&arguments[..], &[config.to_str().unwrap()]].concat());
        printed.push(keys(&block).remove(0).to_owned());
    }
    let shown: Vec<_> = keys(file).into_iter().map(str::to_owned).collect();
    assert_eq!(shown.len(), 2, "one key for each machine");
    file.replace(&shown[0], &printed[0]).replace(&shown[1], &printed[1])
}

/// The words of a text that look like keys.
fn keys(text: &str) -> Vec<&str> {
    let words = text.split(|c: char| c.is_whitespace() || c == '"');
    words.filter(|word| word.len() == 44 && word.ends_with('=')).collect()
}

fn without_keys(text: &str) -> String {
    keys(text).into_iter().fold(text.to_owned(), |text, key| text.replace(key, "KEY"))
}

fn run_hushwire(arguments: &[&str]) -> String {
    run(Command::new(env!("CARGO_BIN_EXE_hushwire")).args(arguments))
}

/// What a command prints that ends well.
fn run(command: &mut Command) -> String {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// A directory of one test, removed at its end.
struct Directory(PathBuf);

impl Directory {
    fn new(test: &str) -> Self {
        let name = format!("hushwire-readme-{}-{test}", std::process::id());
        let path = std::env::temp_dir().join(name);
        fs::create_dir(&path).unwrap();
        Self(path)
    }

    /// Writes a file of mode 0600.
    fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.0.join(name);
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        path
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}
