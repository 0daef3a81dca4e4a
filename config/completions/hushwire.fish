# Print an optspec for argparse to handle cmd's options that are independent of any subcommand.
function __fish_hushwire_global_optspecs
    string join \n f/foreground h/help V/version
end

function __fish_hushwire_needs_command
    # Figure out if the current invocation already has a command.
    set -l cmd (commandline -opc)
    set -e cmd[1]
    argparse -s (__fish_hushwire_global_optspecs) -- $cmd 2>/dev/null
    or return
    if set -q argv[1]
        # Also print the command, so this can be used to figure out what it is.
        echo $argv[1]
        return 1
    end
    return 0
end

function __fish_hushwire_using_subcommand
    set -l cmd (__fish_hushwire_needs_command)
    test -z "$cmd"
    and return 1
    contains -- $cmd[1] $argv
end

complete -c hushwire -n "__fish_hushwire_needs_command" -s f -l foreground -d 'With NAME: stay in the foreground'
complete -c hushwire -n "__fish_hushwire_needs_command" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c hushwire -n "__fish_hushwire_needs_command" -s V -l version -d 'Print version'
complete -c hushwire -n "__fish_hushwire_needs_command" -a "up" -d 'Run the tunnel, in the foreground'
complete -c hushwire -n "__fish_hushwire_needs_command" -a "docker-plugin" -d 'Run the tunnel as a network driver of the container engine'
complete -c hushwire -n "__fish_hushwire_needs_command" -a "check" -d 'Validate the configuration; changes nothing'
complete -c hushwire -n "__fish_hushwire_needs_command" -a "reload" -d 'Have the running hushwire read its configuration and keys again'
complete -c hushwire -n "__fish_hushwire_needs_command" -a "status" -d 'Show peers, sessions, traffic and dropped packets'
complete -c hushwire -n "__fish_hushwire_needs_command" -a "wait" -d 'Wait until the overlay is ready: for start scripts and health checks'
complete -c hushwire -n "__fish_hushwire_needs_command" -a "init" -d 'Make this machine\'s key, and print its `[[peer]]` block'
complete -c hushwire -n "__fish_hushwire_needs_command" -a "alertmanager-flags" -d 'Print the Alertmanager flags for this machine'
complete -c hushwire -n "__fish_hushwire_needs_command" -a "genkey" -d 'Print a new private key, as `wg genkey` does'
complete -c hushwire -n "__fish_hushwire_needs_command" -a "pubkey" -d 'Read a private key, print its public key, as `wg pubkey` does'
complete -c hushwire -n "__fish_hushwire_needs_command" -a "genpsk" -d 'Print a new preshared key, as `wg genpsk` does'
complete -c hushwire -n "__fish_hushwire_needs_command" -a "help" -d 'Print this message or the help of the given subcommand(s)'
complete -c hushwire -n "__fish_hushwire_using_subcommand up" -l config -d 'The configuration file [default: /etc/hushwire/hushwire.toml]' -r -F
complete -c hushwire -n "__fish_hushwire_using_subcommand up" -l log-level -d 'How much to log [default: $LOG_LEVEL, else info]' -r -f -a "silent\t'Nothing'
error\t'What made it stop'
warn\t'Odd, but it goes on'
info\t'Peers and the overlay, up or down'
debug\t'Why something was not done'
trace\t'Single packets'"
complete -c hushwire -n "__fish_hushwire_using_subcommand up" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c hushwire -n "__fish_hushwire_using_subcommand docker-plugin" -l config -d 'The configuration file [default: /etc/hushwire/hushwire.toml]' -r -F
complete -c hushwire -n "__fish_hushwire_using_subcommand docker-plugin" -l log-level -d 'How much to log [default: $LOG_LEVEL, else info]' -r -f -a "silent\t'Nothing'
error\t'What made it stop'
warn\t'Odd, but it goes on'
info\t'Peers and the overlay, up or down'
debug\t'Why something was not done'
trace\t'Single packets'"
complete -c hushwire -n "__fish_hushwire_using_subcommand docker-plugin" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c hushwire -n "__fish_hushwire_using_subcommand check" -l config -d 'The configuration file [default: /etc/hushwire/hushwire.toml]' -r -F
complete -c hushwire -n "__fish_hushwire_using_subcommand check" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c hushwire -n "__fish_hushwire_using_subcommand reload" -l interface -d 'The interface of the running hushwire [default: as configured, else hush0]' -r
complete -c hushwire -n "__fish_hushwire_using_subcommand reload" -l config -d 'The configuration file [default: /etc/hushwire/hushwire.toml]' -r -F
complete -c hushwire -n "__fish_hushwire_using_subcommand reload" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c hushwire -n "__fish_hushwire_using_subcommand status" -l interface -d 'The interface of the running hushwire [default: as configured, else hush0]' -r
complete -c hushwire -n "__fish_hushwire_using_subcommand status" -l config -d 'The configuration file [default: /etc/hushwire/hushwire.toml]' -r -F
complete -c hushwire -n "__fish_hushwire_using_subcommand status" -l json -d 'Print JSON, for scripts'
complete -c hushwire -n "__fish_hushwire_using_subcommand status" -l watch -d 'Show it again each second, until interrupted; with --json, one line each'
complete -c hushwire -n "__fish_hushwire_using_subcommand status" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c hushwire -n "__fish_hushwire_using_subcommand wait" -l peers -d 'How many peers must have a session' -r
complete -c hushwire -n "__fish_hushwire_using_subcommand wait" -l timeout -d 'Give up after so many seconds (30 if not given); 0.5 is half a second. Given, it is waited for hushwire to be started as well; else its absence fails at once' -r
complete -c hushwire -n "__fish_hushwire_using_subcommand wait" -l interface -d 'The interface of the running hushwire [default: as configured, else hush0]' -r
complete -c hushwire -n "__fish_hushwire_using_subcommand wait" -l config -d 'The configuration file [default: /etc/hushwire/hushwire.toml]' -r -F
complete -c hushwire -n "__fish_hushwire_using_subcommand wait" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c hushwire -n "__fish_hushwire_using_subcommand init" -l name -d 'Name of this machine, for people and for Alertmanager' -r
complete -c hushwire -n "__fish_hushwire_using_subcommand init" -l address -d 'Its overlay address: one that no other machine has; may be repeated' -r
complete -c hushwire -n "__fish_hushwire_using_subcommand init" -l endpoint -d 'Where peers reach it, HOST:PORT; none if it is behind NAT' -r
complete -c hushwire -n "__fish_hushwire_using_subcommand init" -l config -d 'The configuration file [default: /etc/hushwire/hushwire.toml]' -r -F
complete -c hushwire -n "__fish_hushwire_using_subcommand init" -l block-only -d 'Leave `[filter]` out: the file has it already'
complete -c hushwire -n "__fish_hushwire_using_subcommand init" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c hushwire -n "__fish_hushwire_using_subcommand alertmanager-flags" -l config -d 'The configuration file [default: /etc/hushwire/hushwire.toml]' -r -F
complete -c hushwire -n "__fish_hushwire_using_subcommand alertmanager-flags" -l peer-name -d 'Add --cluster.peer-name: for Alertmanager 0.30 and later only'
complete -c hushwire -n "__fish_hushwire_using_subcommand alertmanager-flags" -l one-per-line -d 'Print each flag on a line of its own'
complete -c hushwire -n "__fish_hushwire_using_subcommand alertmanager-flags" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c hushwire -n "__fish_hushwire_using_subcommand genkey" -l out -d 'Write it to this new file, mode 0600, instead of printing it' -r -F
complete -c hushwire -n "__fish_hushwire_using_subcommand genkey" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c hushwire -n "__fish_hushwire_using_subcommand pubkey" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c hushwire -n "__fish_hushwire_using_subcommand genpsk" -l out -d 'Write it to this new file, mode 0600, instead of printing it' -r -F
complete -c hushwire -n "__fish_hushwire_using_subcommand genpsk" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c hushwire -n "__fish_hushwire_using_subcommand help; and not __fish_seen_subcommand_from up docker-plugin check reload status wait init alertmanager-flags genkey pubkey genpsk help" -f -a "up" -d 'Run the tunnel, in the foreground'
complete -c hushwire -n "__fish_hushwire_using_subcommand help; and not __fish_seen_subcommand_from up docker-plugin check reload status wait init alertmanager-flags genkey pubkey genpsk help" -f -a "docker-plugin" -d 'Run the tunnel as a network driver of the container engine'
complete -c hushwire -n "__fish_hushwire_using_subcommand help; and not __fish_seen_subcommand_from up docker-plugin check reload status wait init alertmanager-flags genkey pubkey genpsk help" -f -a "check" -d 'Validate the configuration; changes nothing'
complete -c hushwire -n "__fish_hushwire_using_subcommand help; and not __fish_seen_subcommand_from up docker-plugin check reload status wait init alertmanager-flags genkey pubkey genpsk help" -f -a "reload" -d 'Have the running hushwire read its configuration and keys again'
complete -c hushwire -n "__fish_hushwire_using_subcommand help; and not __fish_seen_subcommand_from up docker-plugin check reload status wait init alertmanager-flags genkey pubkey genpsk help" -f -a "status" -d 'Show peers, sessions, traffic and dropped packets'
complete -c hushwire -n "__fish_hushwire_using_subcommand help; and not __fish_seen_subcommand_from up docker-plugin check reload status wait init alertmanager-flags genkey pubkey genpsk help" -f -a "wait" -d 'Wait until the overlay is ready: for start scripts and health checks'
complete -c hushwire -n "__fish_hushwire_using_subcommand help; and not __fish_seen_subcommand_from up docker-plugin check reload status wait init alertmanager-flags genkey pubkey genpsk help" -f -a "init" -d 'Make this machine\'s key, and print its `[[peer]]` block'
complete -c hushwire -n "__fish_hushwire_using_subcommand help; and not __fish_seen_subcommand_from up docker-plugin check reload status wait init alertmanager-flags genkey pubkey genpsk help" -f -a "alertmanager-flags" -d 'Print the Alertmanager flags for this machine'
complete -c hushwire -n "__fish_hushwire_using_subcommand help; and not __fish_seen_subcommand_from up docker-plugin check reload status wait init alertmanager-flags genkey pubkey genpsk help" -f -a "genkey" -d 'Print a new private key, as `wg genkey` does'
complete -c hushwire -n "__fish_hushwire_using_subcommand help; and not __fish_seen_subcommand_from up docker-plugin check reload status wait init alertmanager-flags genkey pubkey genpsk help" -f -a "pubkey" -d 'Read a private key, print its public key, as `wg pubkey` does'
complete -c hushwire -n "__fish_hushwire_using_subcommand help; and not __fish_seen_subcommand_from up docker-plugin check reload status wait init alertmanager-flags genkey pubkey genpsk help" -f -a "genpsk" -d 'Print a new preshared key, as `wg genpsk` does'
complete -c hushwire -n "__fish_hushwire_using_subcommand help; and not __fish_seen_subcommand_from up docker-plugin check reload status wait init alertmanager-flags genkey pubkey genpsk help" -f -a "help" -d 'Print this message or the help of the given subcommand(s)'
