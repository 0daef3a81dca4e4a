//! `hushwire reload`: keys that a service may not read anew, what is refused, and what it says.
//!
//! ```text
//!   machine1                        machine2
//!   10.99.0.1, hush0 -- switch -- 10.99.0.2, hush0     under a manager that hands old keys over as credentials
//! ```

use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use hushwire::wireguard::{PresharedKey, PrivateKey};
use nix::sys::signal::Signal;

use crate::service::Pings;
use crate::support::lab::{Family, Lab, overlay};
use crate::support::machine::Machine;
use crate::support::manager::Manager;
use crate::support::process::Process;
use crate::support::tunnel::{GOSSIP_ONLY, HUSHWIRE, Identity, Tunnel, shared_file};
use crate::support::{Scratch, random_bytes, seconds, wait_for};

/// The service on machine2, with its files.
struct Service<'lab> {
    machine: &'lab Machine,
    directory: Scratch,
    manager: Manager,
    process: Process,
}

impl<'lab> Service<'lab> {
    /// Starts it with a copy of its private key among the credentials.
    fn start(machine: &'lab Machine, identity: &Identity, file: &str) -> Self {
        let directory = Tunnel::write_files(identity, file);
        let credentials = directory.path().join("credentials");
        fs::create_dir(&credentials).unwrap();
        fs::copy(directory.path().join("private.key"), credentials.join("private.key")).unwrap();
        let mut manager = Manager::new();
        manager.credentials = Some(credentials);
        let process = manager.start(machine, config(&directory).to_str().unwrap());
        manager.wait_for("READY=1", seconds(5));
        Self { machine, directory, manager, process }
    }

    fn write(&self, name: &str, text: &str, mode: u32) {
        let path = self.directory.path().join(name);
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
    }

    /// Has it reloaded; returns what that printed to both outputs.
    #[track_caller]
    fn reload(&mut self) -> (String, String) {
        let said = reload(self.machine, &config(&self.directory), &[]);
        assert_eq!(said.0, 0, "{said:?}\n{}", self.manager.log());
        self.hears_a_reload();
        (said.1, said.2)
    }

    /// Sends SIGHUP and waits for the end of that.
    #[track_caller]
    fn hang_up(&mut self) {
        self.process.signal(Signal::SIGHUP);
        self.hears_a_reload();
    }

    #[track_caller]
    fn hears_a_reload(&mut self) {
        self.manager.wait_for("RELOADING=1\nMONOTONIC_USEC=", seconds(5));
        let ready = self.manager.wait_for("READY=1", seconds(5));
        assert!(!ready.contains("refused"), "{ready}\n{}", self.manager.log());
    }

    /// Whom the running one believes to be, or with whom it shares a key: as `wg` shows it.
    fn wg(&self, what: &str) -> String {
        self.machine.run("wg", &["show", "hush0", what])
    }
}

fn config(directory: &Scratch) -> PathBuf {
    directory.path().join("hushwire.toml")
}

/// Runs it: exit code, and what it printed to both outputs.
fn reload(machine: &Machine, config: &Path, arguments: &[&str]) -> (i32, String, String) {
    let mut all = vec!["reload", "--config", config.to_str().unwrap()];
    all.extend(arguments);
    let output = machine.attempt(HUSHWIRE, &all);
    let text = |bytes| String::from_utf8(bytes).expect("text");
    (output.status.code().expect("it ends by itself"), text(output.stdout), text(output.stderr))
}

/// A service could be given a new key by a restart only: systemd reads credentials at the start.
#[test]
fn a_service_whose_credential_holds_the_old_key_takes_a_new_one_and_keeps_it() {
    let lab = Lab::new(2);
    let mut identities = Identity::all(2, Family::V4, &[Family::V4]);
    let file = shared_file("", &identities);
    let mut first = Tunnel::start(lab.machine(1), &identities[0], &file);
    first.wait_until_attached();
    let mut service = Service::start(lab.machine(2), &identities[1], &file);
    lab.machine(1).run("ping", &["-c", "1", "-W", "5", &overlay(2, Family::V4)]);
    for _ in 0..2 {
        let outward = Pings::start(lab.machine(2), 1, 300);
        let inward = Pings::start(lab.machine(1), 2, 300);
        identities[1].private_key = PrivateKey::from_random(random_bytes());
        let file = shared_file("", &identities);
        service.write("hushwire.toml", &file, 0o644);
        service.write("private.key", &identities[1].private_key.to_base64(), 0o600);
        let said = service.reload();
        assert_eq!(said, ("hush0 reloaded: private key\n".to_owned(), String::new()));
        first.write_config(&file);
        let (code, said, _) = reload(lab.machine(1), &first.config_path(), &[]);
        let expected = "hush0 reloaded: peer machine2 removed, peer machine2 added\n";
        assert_eq!((code, said.as_str()), (0, expected));
        let (outward, inward) = (outward.lost(), inward.lost());
        println!("of 300 pings each, {outward} were lost from the service, {inward} towards it");
        assert!(outward.max(inward) <= 3, "{outward} and {inward} pings lost");
        let key = identities[1].public_key();
        assert_eq!(service.wg("public-key").trim(), key);
        wait_for("a session of the new key", seconds(20), || {
            let peer = first.peer("machine2");
            (peer.public_key == key && peer.handshake_age_seconds.is_some()).then_some(())
        });
        // A signal brings no key: the credential is still that of the start.
        service.hang_up();
        assert_eq!(service.wg("public-key").trim(), key);
    }
    lab.machine(1).run("ping", &["-c", "1", "-W", "5", &overlay(2, Family::V4)]);
}

#[test]
fn a_key_file_that_the_service_may_not_read_is_handed_over_with_a_warning() {
    let lab = Lab::new(2);
    let identities = Identity::all(2, Family::V4, &[Family::V4]);
    let mut service = Service::start(lab.machine(2), &identities[1], &shared_file("", &identities));
    let head = "[interface]\npreshared_key_file = \"cluster.psk\"";
    service.write("hushwire.toml", &shared_file(head, &identities), 0o644);
    let [first, second] = [(); 2].map(|()| PresharedKey::from_bytes(random_bytes()));
    // For root's capabilities alone, which the service has not.
    service.write("cluster.psk", &first.to_base64(), 0);
    let (said, warned) = service.reload();
    assert_eq!(said, "hush0 reloaded: peer machine1 changed\n");
    let warning =
        "its next start would fail: give it `LoadCredential=cluster.psk:(path of the file)`";
    assert!(warned.contains(warning), "{warned}");
    assert!(service.manager.log().contains(warning));
    service.hang_up();
    assert!(service.wg("preshared-keys").contains(first.to_base64().as_str()));
    // Once it can read the file, that counts.
    service.write("cluster.psk", &second.to_base64(), 0o600);
    service.hang_up();
    assert!(service.wg("preshared-keys").contains(second.to_base64().as_str()));
    assert_eq!(service.reload(), ("hush0 reloaded: nothing differs\n".to_owned(), String::new()));
}

#[test]
fn what_is_refused_is_said_and_changes_nothing() {
    let lab = Lab::new(1);
    let machine = lab.machine(1);
    let identities = Identity::all(2, Family::V4, &[Family::V4]);
    let good = shared_file("", &identities);
    let mut tunnel = Tunnel::start(machine, &identities[0], &good);
    tunnel.wait_until_attached();
    let path = tunnel.config_path();

    tunnel.write_config("[interface]\nlisten_prot = 1\n[[peer]]\npublic_key = \"nonsense\"\n");
    let (code, out, err) = reload(machine, &path, &[]);
    assert_eq!((code, out.as_str()), (2, ""));
    assert!(err.contains("hushwire.toml:2:") && err.contains("hushwire.toml:4:"), "{err}");
    assert!(!tunnel.process().log().contains("reload"), "it was asked all the same");

    for (head, arguments, reason) in [
        ("fwmark = 7", &[][..], "nothing was changed: restart hushwire to change fwmark (0 to 7)"),
        ("name = \"hush1\"", &[], "no hushwire runs for interface hush1: nobody listens"),
        (
            "name = \"hush1\"",
            &["--interface", "hush0"],
            "restart hushwire to change the interface name (hush0 to hush1)",
        ),
        (
            "name = \"hush1\"\nfwmark = 7\nmtu = 1300",
            &["--interface", "hush0"],
            "to change the interface name (hush0 to hush1), fwmark (0 to 7), mtu (1440 to 1300);",
        ),
    ] {
        tunnel.write_config(&shared_file(&format!("[interface]\n{head}"), &identities));
        let (code, out, err) = reload(machine, &path, arguments);
        assert_eq!((code, out.as_str()), (1, ""));
        assert!(err.contains(reason), "{reason}:\n{err}");
    }
    tunnel.write_config(&good);

    // A draft is not what runs; another name for the same file is.
    let draft = Tunnel::write_files(&identities[0], &good);
    let (code, _, err) = reload(machine, &config(&draft), &[]);
    let reason = format!("runs by {}, and {}", path.display(), config(&draft).display());
    assert!(code == 1 && err.contains(&reason), "{err}");
    fs::remove_file(config(&draft)).unwrap();
    symlink(&path, config(&draft)).unwrap();
    let (code, out, err) = reload(machine, &config(&draft), &[]);
    assert_eq!((code, out.as_str(), err.as_str()), (0, "hush0 reloaded: nothing differs\n", ""));

    tunnel.terminate();
    let (code, _, err) = reload(machine, &path, &[]);
    assert!(code == 1 && err.contains("no hushwire runs for interface hush0"), "{err}");

    let _bare = machine.start(HUSHWIRE, &["--foreground", "hush0"]);
    wait_for("the device", seconds(5), || machine.has_interface("hush0").then_some(()));
    let (err, _) = wait_for("its answer", seconds(5), || {
        let (code, _, err) = reload(machine, &path, &[]);
        (code == 1 && !err.contains("no hushwire runs")).then_some(err)
    });
    assert!(err.contains("a bare device has no configuration; change it with `wg`"), "{err}");
}

/// A reload compared the file with the one before: it said that nothing differs, and left no peer.
#[test]
fn what_wg_has_set_is_undone_by_a_reload_that_says_so() {
    let lab = Lab::new(3);
    let identities = Identity::all(3, Family::V4, &[Family::V4]);
    let mut tunnels = Tunnel::start_all(&lab, &identities);
    let (machine, path) = (lab.machine(1), tunnels[0].config_path());
    let ping = |number| machine.run("ping", &["-c1", "-W5", &overlay(number, Family::V4)]);
    let reloaded = |what: &str| {
        let expected = format!("hush0 reloaded: {what}\n");
        assert_eq!(reload(machine, &path, &[]), (0, expected, String::new()));
    };
    let shaken = |number: usize| {
        let shown = machine.run("wg", &["show", "hush0", "latest-handshakes"]);
        let mut lines = shown.lines().filter_map(|line| line.split_once('\t'));
        let at = lines.find(|(key, _)| *key == identities[number - 1].public_key());
        at.map(|(_, at)| at.to_owned())
    };
    ping(2);
    ping(3);
    let third = shaken(3);

    machine.run("wg", &["set", "hush0", "peer", &identities[1].public_key(), "remove"]);
    let log = tunnels[0].process().log();
    assert!(log.contains("changed by the control socket") && log.contains("peer machine2 removed"));
    // Handshakes are told by the second.
    std::thread::sleep(seconds(1));
    reloaded("whole file (`wg` had set something else), peer machine2 added");
    ping(2);
    assert_eq!(shaken(3), third, "the session of another peer is kept");
    assert_eq!(tunnels[0].peer("machine2").endpoint, "192.0.2.2:51820".parse().ok());

    // A change of the same peer, a peer of no file, and a prefix that goes elsewhere.
    let stranger = PrivateKey::from_random(random_bytes()).public_key().to_string();
    let taken = overlay(2, Family::V4) + "/32";
    let set = ["set", "hush0", "listen-port", "4242", "peer", &stranger, "allowed-ips", &taken];
    machine.run("wg", &set);
    let mut file = identities.clone();
    file[1].extra = "persistent_keepalive = 25".to_owned();
    tunnels[0].write_config(&shared_file(GOSSIP_ONLY, &file));
    reloaded(&format!(
        "whole file (`wg` had set something else), listen_port, peer {stranger} removed, peer machine2 changed"
    ));
    assert!(machine.run("wg", &["show", "hush0", "persistent-keepalive"]).contains("\t25\n"));
    ping(2);

    machine.run("wg", &["setconf", "hush0", "/dev/null"]);
    assert!(tunnels[0].status().peers.is_empty());
    let log = tunnels[0].process().log();
    assert!(log.contains("all peers removed"), "{log}");
    reloaded(
        "whole file (`wg` had set something else), private key, listen_port, peer machine2 added, \
         peer machine3 added",
    );
    ping(2);
    ping(3);
    let status = tunnels[0].status();
    assert_eq!((status.interface.listen_port, status.peers.len()), (51820, 2));
    assert_eq!(status.interface.public_key, identities[0].public_key());
    reloaded("nothing differs");

    // A refused one does not forget; SIGHUP does the same.
    machine.run("wg", &["set", "hush0", "peer", &identities[1].public_key(), "remove"]);
    tunnels[0].write_config("nonsense");
    tunnels[0].reload();
    wait_for("the refusal", seconds(5), || {
        tunnels[0].process().log().contains("reload refused").then_some(())
    });
    tunnels[0].write_config(&shared_file(GOSSIP_ONLY, &file));
    tunnels[0].reload();
    wait_for("machine2", seconds(5), || (tunnels[0].status().peers.len() == 2).then_some(()));
}
