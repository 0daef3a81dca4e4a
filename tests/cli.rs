//! The built program as a user meets it: help texts, exit codes, files that it writes.
//!
//! No tunnel is made here. Keys are compared with those of the real `wg`.

use std::io::Write;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};

const COMMANDS: [&str; 10] = [
    "up",
    "check",
    "reload",
    "status",
    "wait",
    "init",
    "alertmanager-flags",
    "genkey",
    "pubkey",
    "genpsk",
];

/// A directory that is removed with what is in it.
struct Scratch(PathBuf);

impl Scratch {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("hushwire-cli-{name}-{}", std::process::id()));
        std::fs::create_dir(&path).unwrap();
        Self(path)
    }

    fn path(&self, name: &str) -> String {
        self.0.join(name).to_str().unwrap().to_owned()
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn run(program: &str, arguments: &[&str], input: &[u8]) -> Output {
    let mut child = Command::new(program)
        .args(arguments)
        .env_remove("CREDENTIALS_DIRECTORY")
        .env_remove("LOG_LEVEL")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap_or_else(|error| panic!("{program}: {error}"));
    // A program that needs no input may have ended without reading it.
    let _ = child.stdin.take().unwrap().write_all(input);
    child.wait_with_output().unwrap()
}

fn hushwire(arguments: &[&str]) -> Output {
    run(env!("CARGO_BIN_EXE_hushwire"), arguments, b"")
}

fn hushwire_with_input(arguments: &[&str], input: &[u8]) -> Output {
    run(env!("CARGO_BIN_EXE_hushwire"), arguments, input)
}

#[track_caller]
fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap()
}

#[track_caller]
fn assert_code(output: &Output, code: i32) {
    let (out, err) = (text(&output.stdout), text(&output.stderr));
    assert_eq!(output.status.code(), Some(code), "stdout:\n{out}\nstderr:\n{err}");
}

#[test]
fn help_texts_fit_80_columns_and_have_examples() {
    let mut pages = vec![hushwire(&["--help"]), hushwire(&["-h"])];
    pages.extend(COMMANDS.map(|command| hushwire(&[command, "--help"])));
    pages.extend(COMMANDS.map(|command| hushwire(&[command, "-h"])));
    for page in &pages {
        assert_code(page, 0);
        for line in text(&page.stdout).lines() {
            assert!(line.chars().count() <= 80, "{} columns: {line}", line.chars().count());
        }
    }
    let overview = text(&pages[0].stdout);
    for command in COMMANDS {
        assert!(overview.contains(&format!("\n  {command} ")), "{command} is not in the overview");
        let page = hushwire(&[command, "--help"]);
        assert!(text(&page.stdout).contains("\nExample"), "{command} has no example");
    }
    assert!(overview.contains("Exit codes:"));
}

#[test]
fn version_is_that_of_the_package() {
    let output = hushwire(&["--version"]);
    assert_code(&output, 0);
    assert_eq!(text(&output.stdout), concat!("hushwire ", env!("CARGO_PKG_VERSION"), "\n"));
}

#[test]
fn bad_usage_exits_2() {
    for arguments in [
        &[][..],
        &["stauts"],
        &["no such command"],
        &["wg0", "status"],
        &["--foreground"],
        &["--foreground", "up"],
        &["up", "--no-such-option"],
        &["up", "--log-level", "loud"],
        &["status", "--interface", "../../etc/passwd"],
        &["status", "--interface", "sixteen-letters1"],
        &["wait", "--peers", "-1"],
        &["wait", "--timeout", "soon"],
        &["init"],
        &["genkey", "extra"],
    ] {
        let output = hushwire(arguments);
        assert_code(&output, 2);
        assert!(output.stdout.is_empty(), "{arguments:?}");
        assert!(!output.stderr.is_empty(), "{arguments:?}");
    }
}

#[test]
fn a_bad_name_of_an_interface_is_no_line_of_a_file() {
    for arguments in [&[""][..], &["lo"], &["bad name"], &["status", "--interface", "a/b"]] {
        let output = hushwire(arguments);
        assert_code(&output, 2);
        let error = text(&output.stderr);
        assert!(error.contains("invalid value") && !error.contains("line"), "{error}");
    }
}

/// What `init` prints above the block.
const FILTER: &str = "\
# Once for all machines: what they may reach on each other.
[filter]
allow = [\"tcp/9094\", \"udp/9094\", \"icmp\"]

";

fn init(config: &str, more: &[&str]) -> Output {
    let mut arguments = vec!["init", "--config", config];
    arguments.extend(more);
    hushwire(&arguments)
}

#[test]
fn init_writes_a_key_and_prints_its_block() {
    let scratch = Scratch::new("init");
    let config = scratch.path("new/directory/hushwire.toml");
    let key_file = scratch.path("new/directory/private.key");
    let output = init(
        &config,
        &[
            "--name",
            "machine1",
            "--address",
            "10.99.0.1",
            "--address",
            "fd00::1/128",
            "--endpoint",
            "machine1.example.org:51820",
        ],
    );
    assert_code(&output, 0);
    assert_eq!(std::fs::metadata(&key_file).unwrap().permissions().mode() & 0o7777, 0o600);
    let key = std::fs::read(&key_file).unwrap();
    let public_key = run("wg", &["pubkey"], &key);
    assert_code(&public_key, 0);
    assert_eq!(
        text(&output.stdout),
        format!(
            "{FILTER}[[peer]]\n\
             name = \"machine1\"\n\
             public_key = \"{}\"\n\
             endpoint = \"machine1.example.org:51820\"\n\
             allowed_ips = [\"10.99.0.1/32\", \"fd00::1/128\"]\n",
            text(&public_key.stdout).trim()
        )
    );
    assert!(text(&output.stderr).contains("Next:"));
    assert!(!text(&output.stderr).contains(text(&key).trim()), "the key stays in its file");

    std::fs::write(&config, &output.stdout).unwrap();
    let check = hushwire(&["check", "--config", &config]);
    assert_code(&check, 0);
    let filter = "\nfilter      tcp/9094 udp/9094 icmp\n";
    for part in ["machine1", "hush0", "10.99.0.1/32 fd00::1/128", "51820", filter] {
        assert!(text(&check.stdout).contains(part), "{part}:\n{}", text(&check.stdout));
    }

    let beside = std::fs::read_dir(scratch.0.join("new/directory")).unwrap().count();
    assert_eq!(beside, 2, "the key and the configuration, nothing else");

    let again = init(&config, &["--name", "machine1", "--address", "10.99.0.1"]);
    assert_code(&again, 1);
    assert!(again.stdout.is_empty());
    assert!(text(&again.stderr).contains("private.key is there already"));
    assert_eq!(std::fs::read(&key_file).unwrap(), key);
}

/// The unit's user could not read the configuration in a directory of root's alone.
#[test]
fn init_makes_directories_for_everybody_and_leaves_those_that_are_there() {
    let scratch = Scratch::new("init-umask");
    let mode =
        |name: &str| std::fs::metadata(scratch.path(name)).unwrap().permissions().mode() & 0o7777;
    std::fs::create_dir(scratch.path("there")).unwrap();
    let closed = std::fs::Permissions::from_mode(0o700);
    std::fs::set_permissions(scratch.path("there"), closed).unwrap();
    for file in ["there/new/directory/hushwire.toml", "bare/hushwire.toml"] {
        let output = Command::new("sh")
            .args(["-c", "umask 077; exec \"$0\" \"$@\"", env!("CARGO_BIN_EXE_hushwire")])
            .args(["init", "--name", "machine1", "--address", "10.99.0.1", "--config", file])
            .current_dir(&scratch.0)
            .output()
            .unwrap();
        assert_code(&output, 0);
    }
    for (name, expected) in [
        ("there", 0o700),
        ("there/new", 0o755),
        ("there/new/directory", 0o755),
        ("there/new/directory/private.key", 0o600),
        ("bare", 0o755),
    ] {
        assert_eq!(mode(name), expected, "{name}");
    }
}

/// The blocks of all machines go into one file, in which a section may stand once.
#[test]
fn init_leaves_the_filter_out_where_the_file_has_it() {
    let scratch = Scratch::new("init-more");
    let mut file = String::new();
    for (number, more) in [(1, &[][..]), (2, &["--block-only"]), (3, &["--block-only"])] {
        let config = scratch.path(&format!("machine{number}/hushwire.toml"));
        let (name, address) = (format!("machine{number}"), format!("10.99.0.{number}"));
        let arguments = [&["--name", &name, "--address", &address], more].concat();
        let output = init(&config, &arguments);
        assert_code(&output, 0);
        file += text(&output.stdout);
    }
    assert_eq!(file.matches("[filter]").count(), 1);
    let config = scratch.path("machine1/hushwire.toml");
    std::fs::write(&config, &file).unwrap();
    assert_code(&hushwire(&["check", "--config", &config]), 0);
    // A machine gets a new key: the section is in the file.
    std::fs::remove_file(scratch.path("machine1/private.key")).unwrap();
    let output = init(&config, &["--name", "machine1", "--address", "10.99.0.1"]);
    assert_code(&output, 0);
    assert!(text(&output.stdout).starts_with("[[peer]]\n"), "{}", text(&output.stdout));
}

#[test]
fn init_checks_its_values_before_it_writes() {
    let scratch = Scratch::new("init-bad");
    let config = scratch.path("hushwire.toml");
    for arguments in [
        &["--name", "", "--address", "10.99.0.1"][..],
        &["--name", "a\"b", "--address", "10.99.0.1"],
        &["--name", "machine1"],
        &["--name", "machine1", "--address", "10.99.0.0/24"],
        &["--name", "machine1", "--address", "10.99.0"],
        &["--name", "machine1", "--address", "10.99.0.1", "--endpoint", "machine1"],
        &["--name", "machine1", "--address", "10.99.0.1", "--endpoint", "machine1:0"],
        &["--name", "machine1", "--address", "10.99.0.1", "--endpoint", "fd00::1:51820"],
    ] {
        assert_code(&init(&config, arguments), 2);
    }
    assert_eq!(std::fs::read_dir(&scratch.0).unwrap().count(), 0);
}

/// With a reader that had gone away no key was made, and nobody was told.
#[test]
fn init_leaves_no_key_when_its_block_cannot_be_printed() {
    let scratch = Scratch::new("init-full");
    let (reader, closed) = std::io::pipe().unwrap();
    drop(reader);
    let full = std::fs::File::options().write(true).open("/dev/full").unwrap();
    for output in [Stdio::from(full), Stdio::from(closed)] {
        let output = Command::new(env!("CARGO_BIN_EXE_hushwire"))
            .args(["init", "--name", "machine1", "--address", "10.99.0.1"])
            .args(["--config", &scratch.path("hushwire.toml")])
            .stdout(output)
            .output()
            .unwrap();
        assert_code(&output, 1);
        let error = text(&output.stderr);
        assert!(error.starts_with("hushwire: cannot write to standard output: "), "{error}");
        assert!(error.ends_with("; no key was written\n"), "{error}");
        assert_eq!(std::fs::read_dir(&scratch.0).unwrap().count(), 0);
    }
}

/// Help and version went to a full disk and were called done.
#[test]
fn what_cannot_be_printed_is_an_error_and_a_reader_that_went_away_is_none() {
    for arguments in [&["--help"][..], &["-h"], &["--version"], &["up", "--help"], &["genkey"]] {
        let run = |out: Stdio| {
            Command::new(env!("CARGO_BIN_EXE_hushwire"))
                .args(arguments)
                .stdout(out)
                .output()
                .unwrap()
        };
        let full = run(std::fs::File::options().write(true).open("/dev/full").unwrap().into());
        assert_code(&full, 1);
        let error = text(&full.stderr);
        assert!(error.starts_with("hushwire: cannot write to standard output: "), "{error}");
        let (reader, closed) = std::io::pipe().unwrap();
        drop(reader);
        let closed = run(closed.into());
        assert_code(&closed, 0);
        assert!(closed.stderr.is_empty(), "{arguments:?}: {}", text(&closed.stderr));
    }
}

#[test]
fn keys_are_those_of_wg() {
    let key = hushwire(&["genkey"]);
    assert_code(&key, 0);
    assert_eq!(key.stdout.len(), 45);
    let ours = hushwire_with_input(&["pubkey"], &key.stdout);
    let theirs = run("wg", &["pubkey"], &key.stdout);
    assert_code(&theirs, 0);
    assert_eq!(ours, theirs);
    let psk = hushwire(&["genpsk"]);
    assert_code(&psk, 0);
    assert_eq!((psk.stdout.len(), psk.stdout.last()), (45, Some(&b'\n')));
    assert_ne!(psk.stdout, hushwire(&["genpsk"]).stdout);
    // Clamped, so that `wg` finds it as it would have made it.
    let clamped = run("sh", &["-c", "base64 -d | od -An -tu1 -v"], key.stdout.trim_ascii_end());
    let bytes: Vec<u8> =
        text(&clamped.stdout).split_whitespace().map(|byte| byte.parse().unwrap()).collect();
    assert_eq!((bytes.len(), bytes[0] & 7, bytes[31] & 0xc0), (32, 0, 0x40));
}

#[test]
fn pubkey_takes_and_refuses_what_wg_takes_and_refuses() {
    let key = "yAnz5TF+lXXJte14tji3zlMNq+hd2rYUIgJBgB3fBmk=";
    let long = format!("{key}{}x", "\n".repeat(5000));
    for input in [
        key,
        &format!("{key}\n"),
        &format!("{key} \t\r\n\x0b\x0c\0\n"),
        &format!("{key}{}", "\n".repeat(5000)),
        "",
        "x",
        &key[1..],
        &format!("{key}x"),
        &format!("{key}\n{key}\n"),
        &format!(" {key}"),
        &key.replace("mk=", "ml="),
        &key.replace('y', "!"),
        &"é".repeat(22),
        &long,
    ] {
        let ours = hushwire_with_input(&["pubkey"], input.as_bytes());
        let theirs = run("wg", &["pubkey"], input.as_bytes());
        assert_eq!(ours.status.code(), theirs.status.code(), "{input:?}");
        assert_eq!(text(&ours.stdout), text(&theirs.stdout), "{input:?}");
        let expected = text(&theirs.stderr).replace("wg: ", "hushwire: ");
        assert_eq!(text(&ours.stderr), expected, "{input:?}");
    }
}

#[test]
fn a_key_in_a_file_for_everybody_is_warned_about_as_wg_does() {
    let scratch = Scratch::new("world");
    for (mode, command) in
        [(0o644, "genkey"), (0o600, "genkey"), (0o606, "genpsk"), (0o640, "genpsk")]
    {
        let warning = |program: &str| {
            let path = scratch.path("key");
            let _ = std::fs::remove_file(&path);
            let file =
                std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path);
            let file = file.unwrap();
            // Past the umask.
            file.set_permissions(std::fs::Permissions::from_mode(mode)).unwrap();
            let output = Command::new(program).arg(command).stdout(file).output().unwrap();
            assert_code(&output, 0);
            assert_eq!(std::fs::metadata(&path).unwrap().len(), 45);
            text(&output.stderr).to_owned()
        };
        assert_eq!(warning(env!("CARGO_BIN_EXE_hushwire")), warning("wg"), "{mode:o} {command}");
    }
}

fn write_cluster(scratch: &Scratch, interface: &str) -> String {
    let config = scratch.path("hushwire.toml");
    let output = init(
        &config,
        &["--name", "machine1", "--address", "10.99.0.1", "--endpoint", "192.0.2.1:51820"],
    );
    assert_code(&output, 0);
    let other = run("wg", &["pubkey"], &hushwire(&["genkey"]).stdout);
    let other = text(&other.stdout).trim();
    std::fs::write(
        &config,
        format!(
            "{interface}{}\n[[peer]]\nname = \"machine2\"\npublic_key = \"{other}\"\n\
             endpoint = \"machine2.example.org:51820\"\nallowed_ips = [\"10.99.0.2/32\"]\n",
            text(&output.stdout)
        ),
    )
    .unwrap();
    config
}

#[test]
fn check_and_alertmanager_flags_read_the_one_file_for_all_machines() {
    let scratch = Scratch::new("cluster");
    let config = write_cluster(&scratch, "");
    let check = hushwire(&["check", "--config", &config]);
    assert_code(&check, 0);
    let peer = "machine2, 10.99.0.2/32, machine2.example.org:51820";
    assert!(text(&check.stdout).contains(peer), "{}", text(&check.stdout));

    let flags = hushwire(&["alertmanager-flags", "--config", &config]);
    assert_code(&flags, 0);
    let expected = "--cluster.listen-address=10.99.0.1:9094 --cluster.peer=10.99.0.2:9094";
    assert_eq!(text(&flags.stdout), format!("{expected}\n"));
    let arguments = ["alertmanager-flags", "--peer-name", "--one-per-line", "--config", &config];
    let flags = hushwire(&arguments);
    assert_code(&flags, 0);
    let lines = expected.replace(' ', "\n");
    assert_eq!(text(&flags.stdout), format!("{lines}\n--cluster.peer-name=machine1\n"));
}

#[test]
fn a_bad_configuration_exits_2_with_every_error() {
    let scratch = Scratch::new("bad");
    let config = write_cluster(&scratch, "[interface]\nmtu = 9\nno_such_key = 1\n");
    let commands = ["check", "alertmanager-flags", "up"];
    for command in commands {
        let output = hushwire(&[command, "--config", &config]);
        assert_code(&output, 2);
        assert!(output.stdout.is_empty());
        let errors = text(&output.stderr);
        assert!(errors.contains(&format!("{config}:2:")), "{errors}");
        assert!(errors.contains(&format!("{config}:3:")), "{errors}");
    }
    for command in commands {
        let output = hushwire(&[command, "--config", &scratch.path("missing.toml")]);
        assert_code(&output, 2);
        assert!(text(&output.stderr).contains("missing.toml"));
    }
}

#[test]
fn check_tells_a_machine_without_a_name_from_one_that_is_not_in_the_list() {
    let scratch = Scratch::new("no-name");
    let config = write_cluster(&scratch, "");
    let machine = |file: &str| {
        std::fs::write(&config, file).unwrap();
        let check = hushwire(&["check", "--config", &config]);
        assert_code(&check, 0);
        text(&check.stdout).lines().nth(1).unwrap().to_owned()
    };
    let file = std::fs::read_to_string(&config).unwrap();
    let unnamed = file.replace("name = \"machine1\"\n", "");
    assert_eq!(machine(&unnamed), "machine     (no name)");
    let (_, others) = unnamed.split_once("allowed_ips = [\"10.99.0.1/32\"]\n").unwrap();
    let stranger = format!("[interface]\naddress = [\"10.99.0.1\"]\n{others}");
    assert_eq!(machine(&stranger), "machine     (not in the list of peers)");
}

/// Long lists of addresses, ports or keys went over the edge of the terminal.
#[test]
fn check_and_its_errors_fit_80_columns() {
    let scratch = Scratch::new("wide");
    let rules: Vec<_> = (1..=20).map(|n| format!("\"tcp/{n}00-{n}99\"")).collect();
    let rules = format!("allow = [{}]\n", rules.join(", "));
    let nets: Vec<_> = (1..=9).map(|n| format!("\"fd00:99:1234:5678::{n}/128\"")).collect();
    let config = write_cluster(&scratch, "");
    let peer = format!("allowed_ips = [\"10.99.0.2/32\", {}]\n{rules}", nets.join(", "));
    let file = std::fs::read_to_string(&config).unwrap();
    let file = file.replace("allow = [\"tcp/9094\", \"udp/9094\", \"icmp\"]\n", &rules);
    let file = file.replace("allowed_ips = [\"10.99.0.2/32\"]\n", &peer);
    std::fs::write(&config, &file).unwrap();
    let check = hushwire(&["check", "--config", &config]);
    assert_code(&check, 0);
    std::fs::write(&config, format!("{file}typo = 1\nendpoint = \"machine2\"\n")).unwrap();
    let errors = hushwire(&["check", "--config", &config]);
    assert_code(&errors, 2);
    let (check, errors) = (text(&check.stdout), text(&errors.stderr));
    assert!(check.contains("\n            fd00:99:1234:5678::4/128 "), "{check}");
    assert!(errors.contains("\n           persistent_keepalive, allow\n"), "{errors}");
    // Lines of a file and its place are as long as the path.
    for line in check.lines().chain(errors.lines()).filter(|line| !line.starts_with(&config)) {
        assert!(line.chars().count() <= 80, "{} columns: {line}", line.chars().count());
    }
}

#[test]
fn status_and_wait_say_that_no_hushwire_runs() {
    let scratch = Scratch::new("nobody");
    let config = write_cluster(&scratch, "[interface]\nname = \"hwnobody\"\n");
    let missing = scratch.path("missing.toml");
    for command in ["status", "wait"] {
        for (arguments, interface) in [
            (&["--config", &config][..], "hwnobody"),
            (&["--config", &config, "--interface", "hwother"], "hwother"),
            (&["--config", &missing, "--interface", "hwother"], "hwother"),
        ] {
            let output = hushwire(&[&[command], arguments].concat());
            assert_code(&output, 1);
            assert!(output.stdout.is_empty());
            let error = text(&output.stderr);
            let expected = format!(
                "hushwire: no hushwire runs for interface {interface}: nobody listens on \
                 /var/run/wireguard/{interface}.sock"
            );
            assert!(error.starts_with(&expected), "{error}");
        }
    }
}

#[test]
fn a_reader_that_goes_away_is_no_error() {
    let scratch = Scratch::new("pipe");
    let config = write_cluster(&scratch, "");
    for arguments in [vec!["check", "--config", &config], vec!["genkey"], vec!["--help"]] {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let output = Command::new(env!("CARGO_BIN_EXE_hushwire"))
            .args(&arguments)
            .stdout(writer)
            .output()
            .unwrap();
        assert_code(&output, 0);
        assert_eq!(text(&output.stderr), "", "{arguments:?}");
    }
}
