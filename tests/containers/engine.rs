//! The harness: an engine runs, restarts and leaves nothing behind.

use std::fs;
use std::path::Path;

use crate::support::docker::Docker;
use crate::support::machine::Machine;
use crate::support::{http, seconds, wait_for};

#[test]
fn an_engine_runs_containers_of_local_files_and_leaves_nothing_behind() {
    let machine = Machine::new("machine1");
    let mut docker = Docker::start_with(&machine, &["--live-restore"]);
    docker.alertmanager_image();
    let events = docker.events();
    docker.run_alertmanager("am", &[], &["--cluster.listen-address=".to_owned()]);
    assert!(events.started("am") > 0);
    let web = docker.address("am", 9093);
    wait_for("Alertmanager to be ready", seconds(20), || {
        let answer = http::request(&machine, web, "GET", "/-/ready", "").ok();
        answer.filter(|(code, _)| *code == 200)
    });
    assert!(docker.inside("am", "ip", &["-brief", "address"]).contains("eth0"));
    let pid = docker.pid("am").expect("it runs");
    let runs = || Path::new(&format!("/proc/{pid}/exe")).exists();

    // A container outlives its engine where that is wanted.
    for stop in [Docker::stop_engine, Docker::kill_engine] {
        stop(&mut docker);
        assert!(!docker.attempt(&["version"]).status.success(), "the engine still answers");
        assert!(runs(), "the engine took its container along");
        docker.start_engine();
        assert_eq!(docker.pid("am"), Some(pid));
    }
    drop(docker);
    wait_for("the container's end", seconds(5), || (!runs()).then_some(()));
    let mounts = fs::read_to_string("/proc/self/mountinfo").expect("there is /proc");
    assert!(!mounts.contains("/docker-"), "a mount is left: {mounts}");
}
