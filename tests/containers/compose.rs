//! The Compose files that are shipped: Compose takes each of them.

use std::fs;
use std::path::Path;

use crate::support::machine::Machine;

#[test]
fn compose_accepts_every_shipped_file() {
    let machine = Machine::new("machine1");
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("config/compose");
    let mut files = 0;
    for entry in fs::read_dir(&directory).expect("config/compose is there") {
        let path = entry.expect("an entry").path();
        let path = path.to_str().expect("a path of ASCII");
        machine.run("docker-compose", &["--file", path, "config", "--quiet"]);
        files += 1;
    }
    assert_eq!(files, 4);
}
