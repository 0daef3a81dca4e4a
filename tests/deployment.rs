//! What config/ ships for Kubernetes and podman: every field and key is one that these know.
//!
//! Neither is on a machine that tests. The tables hold what the shipped files may use, each name taken from
//! the reference: the Kubernetes API of 1.32, and podman-systemd.unit(5) of 5.4.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use saphyr::{LoadableYamlNode, Yaml};

/// Names, each with the fields or keys that it may have.
type Table = &'static [(&'static str, &'static [&'static str])];

/// Fields by kind; `[]` stands for the items of a list, `*` for keys that are the user's.
const KUBERNETES: Table = &[
    ("Namespace", &["apiVersion", "kind", "metadata.name", "metadata.labels.*"]),
    ("ConfigMap", &["apiVersion", "kind", "metadata.name", "metadata.namespace", "data.*"]),
    (
        "Secret",
        &["apiVersion", "kind", "metadata.name", "metadata.namespace", "type", "stringData.*"],
    ),
    (
        "Service",
        &[
            "apiVersion",
            "kind",
            "metadata.name",
            "metadata.namespace",
            "spec.clusterIP",
            "spec.selector.*",
            "spec.ports[].name",
            "spec.ports[].port",
        ],
    ),
    (
        "StatefulSet",
        &[
            "apiVersion",
            "kind",
            "metadata.name",
            "metadata.namespace",
            "spec.serviceName",
            "spec.replicas",
            "spec.podManagementPolicy",
            "spec.selector.matchLabels.*",
            "spec.template.metadata.labels.*",
            "spec.template.spec.affinity.podAntiAffinity.requiredDuringSchedulingIgnoredDuringExecution[]\
             .labelSelector.matchLabels.*",
            "spec.template.spec.affinity.podAntiAffinity.requiredDuringSchedulingIgnoredDuringExecution[]\
             .topologyKey",
            "spec.template.spec.initContainers[].CONTAINER",
            "spec.template.spec.containers[].CONTAINER",
            "spec.template.spec.volumes[].name",
            "spec.template.spec.volumes[].configMap.name",
            "spec.template.spec.volumes[].secret.secretName",
            "spec.template.spec.volumes[].secret.defaultMode",
            "spec.template.spec.volumes[].emptyDir",
            "spec.template.spec.volumes[].emptyDir.medium",
            "spec.template.spec.volumes[].hostPath.path",
            "spec.template.spec.volumes[].hostPath.type",
        ],
    ),
];

/// Fields of a container, wherever `CONTAINER` stands above.
const CONTAINER: &[&str] = &[
    "name",
    "image",
    "imagePullPolicy",
    "restartPolicy",
    "command[]",
    "args[]",
    "env[].name",
    "env[].valueFrom.fieldRef.fieldPath",
    "ports[].name",
    "ports[].containerPort",
    "ports[].hostPort",
    "ports[].protocol",
    "startupProbe.exec.command[]",
    "startupProbe.periodSeconds",
    "startupProbe.timeoutSeconds",
    "startupProbe.failureThreshold",
    "readinessProbe.httpGet.path",
    "readinessProbe.httpGet.port",
    "securityContext.runAsUser",
    "securityContext.allowPrivilegeEscalation",
    "securityContext.readOnlyRootFilesystem",
    "securityContext.capabilities.drop[]",
    "securityContext.capabilities.add[]",
    "volumeMounts[].name",
    "volumeMounts[].mountPath",
    "volumeMounts[].subPath",
    "volumeMounts[].subPathExpr",
    "volumeMounts[].readOnly",
];

fn read(path: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn allowed(kind: &str) -> BTreeSet<String> {
    let (_, fields) = KUBERNETES.iter().find(|(known, _)| *known == kind).expect("a known kind");
    let all = fields.iter().flat_map(|field| match field.strip_suffix("CONTAINER") {
        Some(start) => CONTAINER.iter().map(|rest| format!("{start}{rest}")).collect(),
        None => vec![(*field).to_owned()],
    });
    all.collect()
}

/// The paths of all leaves, as the table has them.
fn leaves(at: &str, node: &Yaml<'_>, user_keys: &dyn Fn(&str) -> bool, found: &mut Vec<String>) {
    if let Some(items) = node.as_vec() {
        items.iter().for_each(|item| leaves(&format!("{at}[]"), item, user_keys, found));
    } else if let Some(fields) = node.as_mapping().filter(|fields| !fields.is_empty()) {
        for (key, value) in fields {
            let key = if user_keys(at) { "*" } else { key.as_str().expect("a name") };
            let at = if at.is_empty() { key.to_owned() } else { format!("{at}.{key}") };
            leaves(&at, value, user_keys, found);
        }
    } else {
        found.push(at.to_owned());
    }
}

#[test]
fn the_kubernetes_files_parse_and_name_real_fields() {
    let text = read("config/kubernetes/alertmanager.yaml");
    let documents = Yaml::load_from_str(&text).expect("YAML");
    let mut kinds = BTreeSet::new();
    for document in &documents {
        let kind = document["kind"].as_str().expect("a kind");
        kinds.insert(kind.to_owned());
        let allowed = allowed(kind);
        let user_keys = |at: &str| allowed.contains(&format!("{at}.*"));
        let mut found = Vec::new();
        leaves("", document, &user_keys, &mut found);
        for field in &found {
            assert!(allowed.contains(field), "{kind} has no field {field}");
        }
        assert!(found.len() > 3, "{kind} is empty");
    }
    assert_eq!(kinds.len(), KUBERNETES.len());

    // The configuration in it is one that hushwire takes, and the pods' keys are those of its peers.
    let of_name = |kind: &str, name: &str| {
        let is = |document: &&Yaml<'_>| {
            document["kind"].as_str() == Some(kind)
                && document["metadata"]["name"].as_str() == Some(name)
        };
        documents.iter().find(is).expect("it is there")
    };
    let file = of_name("ConfigMap", "hushwire")["data"]["hushwire.toml"].as_str().expect("a text");
    let table = toml::de::DeTable::parse(file).expect("TOML");
    let peers = table.get_ref()["peer"].get_ref().as_array().expect("a list");
    let keys = of_name("Secret", "hushwire-keys")["stringData"].as_mapping().expect("a mapping");
    assert_eq!(peers.len(), keys.len());
    for (peer, (key, _)) in peers.iter().zip(keys) {
        assert_eq!(peer.get_ref()["name"].get_ref().as_str(), key.as_str());
    }
    let pod = &of_name("StatefulSet", "alertmanager")["spec"]["template"]["spec"];
    let sidecar = &pod["initContainers"][0];
    assert_eq!(sidecar["restartPolicy"].as_str(), Some("Always"), "what makes it a sidecar");
    assert_eq!(sidecar["securityContext"]["capabilities"]["add"][0].as_str(), Some("NET_ADMIN"));
}

/// Keys by section of each quadlet file.
const QUADLET: Table = &[
    ("Unit", &["Description", "Requires", "After"]),
    ("Pod", &["PodName", "PublishPort"]),
    (
        "Container",
        &[
            "ContainerName",
            "Image",
            "Pod",
            "DropCapability",
            "AddCapability",
            "AddDevice",
            "NoNewPrivileges",
            "ReadOnly",
            "Tmpfs",
            "Volume",
            "HealthCmd",
            "HealthInterval",
            "Notify",
            "Exec",
        ],
    ),
    ("Service", &["Restart", "RestartSec"]),
    ("Install", &["WantedBy"]),
];

#[test]
fn the_quadlet_files_name_real_keys() {
    for (file, section) in [
        ("alertmanager.pod", "Pod"),
        ("hushwire.container", "Container"),
        ("alertmanager.container", "Container"),
    ] {
        let text = read(&format!("config/podman/{file}"));
        let (mut here, mut sections) = ("", BTreeSet::new());
        for line in text.lines().filter(|line| !line.is_empty() && !line.starts_with('#')) {
            if let Some(name) = line.strip_prefix('[').and_then(|line| line.strip_suffix(']')) {
                here = name;
                sections.insert(name);
                continue;
            }
            let (key, value) = line.split_once('=').expect("KEY=VALUE");
            let known = QUADLET.iter().find(|(name, _)| *name == here);
            let (_, keys) = known.unwrap_or_else(|| panic!("{file}: no section [{here}]"));
            assert!(keys.contains(&key), "{file}: [{here}] has no key {key}");
            assert!(!value.is_empty(), "{file}: {key} is empty");
        }
        assert!(sections.contains(section), "{file} is no {section}");
    }
}
