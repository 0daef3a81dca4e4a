//! What the command line takes and refuses.

use super::*;

#[test]
fn the_definitions_are_consistent() {
    Arguments::command().debug_assert();
}

fn read(words: &[&str], device: bool) -> Result<Arguments, clap::Error> {
    Arguments::try_parse_from([&["hushwire"], words].concat())?.checked(device)
}

/// `hushwire help` made an interface named help, and said nothing.
#[test]
fn help_is_a_command() {
    let printed = |words: &[&str]| {
        let error = read(words, false).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::DisplayHelp, "{words:?}");
        error.to_string()
    };
    assert_eq!(printed(&["help"]), printed(&["--help"]));
    for command in Arguments::command().get_subcommands().map(clap::Command::get_name) {
        assert_eq!(printed(&["help", command]), printed(&[command, "--help"]));
    }
    let refused = |words: &[&str]| read(words, false).unwrap_err().kind();
    assert_eq!(refused(&["help", "wg0"]), ErrorKind::InvalidSubcommand);
    assert_eq!(refused(&["--foreground", "help"]), ErrorKind::InvalidSubcommand);
}

/// `hushwire stop` made an interface named stop.
#[test]
fn a_command_of_other_programs_is_an_interface_only_when_told() {
    let words = "version start run show list ps config stop down quit restart remove uninstall";
    for word in words.split(' ') {
        let error = read(&[word], false).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidSubcommand, "{word}");
        let error = error.to_string();
        assert!(error.starts_with(&format!("error: there is no command '{word}'; ")), "{error}");
        assert!(error.contains(&format!(" hushwire --foreground {word}\n")), "{error}");
        assert!(error.lines().all(|line| line.chars().count() <= 80), "{error}");
        assert_eq!(read(&["--foreground", word], false).unwrap().name.as_deref(), Some(word));
        assert_eq!(read(&[word], true).unwrap().name.as_deref(), Some(word));
    }
    assert_eq!(read(&["wg0"], false).unwrap().name.as_deref(), Some("wg0"));
}

/// `init` printed a block that `check` refused.
#[test]
fn init_takes_each_address_once() {
    let init = |addresses: &[&str]| {
        let addresses = addresses.iter().flat_map(|address| ["--address", address]);
        let words: Vec<_> = ["init", "--name", "machine1"].into_iter().chain(addresses).collect();
        read(&words, false).map(drop).map_err(|error| error.to_string())
    };
    assert_eq!(init(&["10.99.0.1", "10.99.0.2", "fd00::1"]), Ok(()));
    for addresses in
        [["10.99.0.1", "10.99.0.2", "10.99.0.1"], ["fd00::1", "fd00::2", "fd00:0::1/128"]]
    {
        let error = init(&addresses).unwrap_err();
        let expected = format!(
            "error: invalid value '{}' for '--address <ADDRESS>': it stands twice\n",
            addresses[0]
        );
        assert!(error.starts_with(&expected), "{error}");
    }
}

/// The hint named the network as well, which was refused in turn.
#[test]
fn an_address_of_this_machine_has_no_network_around_it() {
    for (text, address) in [("10.99.0.1/24", "10.99.0.1"), ("fd00::1/64", "fd00::1")] {
        let hint = format!("write \"{address}\"");
        let problem = format!("{text} has a network around the address of this machine");
        assert_eq!(single_address(text), Err(Complaint::new(problem).hint(hint)));
        assert!(single_address(address).is_ok());
    }
    for text in ["10.99.0.0/24", "0.0.0.0/0", "127.0.0.1", "10.99.0", ""] {
        assert!(single_address(text).is_err(), "{text}");
    }
}

#[test]
fn seconds_are_numbers_that_a_duration_can_hold() {
    assert_eq!(seconds("0.5"), Ok(Duration::from_millis(500)));
    assert_eq!(seconds("0"), Ok(Duration::ZERO));
    for bad in ["", "-1", "nan", "inf", "1e30", "5s"] {
        assert!(seconds(bad).is_err(), "{bad}");
    }
}

/// A negative number was taken for an option that is not there.
#[test]
fn wait_says_which_numbers_it_takes() {
    for (option, value, allowed) in [
        ("--peers <N>", "x", "give a number of peers, such as 0 or 2"),
        ("--peers <N>", "-1", "give a number of peers, such as 0 or 2"),
        ("--timeout <SECONDS>", "soon", "give a number of seconds, such as 30 or 0.5"),
        ("--timeout <SECONDS>", "-0.5", "give a number of seconds, such as 30 or 0.5"),
    ] {
        let name = option.split(' ').next().unwrap();
        let error = read(&["wait", name, value], false).unwrap_err().to_string();
        let expected = format!("error: invalid value '{value}' for '{option}': {allowed}\n");
        assert!(error.starts_with(&expected), "{error}");
    }
}

#[test]
fn log_levels_have_the_names_of_wireguard_go_too() {
    assert_eq!(LogLevel::from_str("VERBOSE", true), Ok(LogLevel::Debug));
    assert_eq!(LogLevel::from_str("silent", true), Ok(LogLevel::Silent));
    assert!(LogLevel::from_str("loud", true).is_err());
}
