//! What the container engine asks its network driver and address manager, as types.
//!
//! Requests come as JSON under the names that libnetwork gives them (drivers/remote/api and
//! ipams/remote/api): every value that is used is checked here, so that [`Driver`](super::Driver) never
//! sees a bad one; fields that nobody here needs are left alone, as a newer engine has more of them. Pure:
//! called by the server, with bytes.

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnet::IpNet;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// A question of the engine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Request {
    /// What is served here?
    Activate,
    /// What can the network driver do?
    DriverCapabilities,
    /// A network was made with these options of `docker network create --opt`.
    CreateNetwork(BTreeMap<String, Value>),
    /// A container is to be on a network.
    CreateEndpoint(NewEndpoint),
    /// It is no longer.
    DeleteEndpoint(EndpointId),
    /// The container is being started: which interface does it get?
    Join(EndpointId, SandboxKey),
    /// The container has stopped.
    Leave(EndpointId),
    /// Something that needs no more than an acknowledgement.
    Notification,
    /// What is special about an endpoint? Nothing is.
    EndpointInfo,
    /// What can the address manager do?
    ManagerCapabilities,
    /// What are its sets of addresses called?
    AddressSpaces,
    /// Which addresses are on a network?
    Pool(PoolRequest),
    /// Which address does a container get?
    Address(AddressRequest),
}

/// How the engine calls the place of one container on one network.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct EndpointId(pub String);

/// Where the engine mounts a container's network namespace; at the time of the question it need not be
/// there yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SandboxKey(pub String);

/// A container's place on a network, before it is taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewEndpoint {
    /// Which network.
    pub network: String,
    /// Which place.
    pub endpoint: EndpointId,
    /// The addresses that the address manager gave: at most one of each family.
    pub addresses: Vec<IpNet>,
    /// Whether a link-layer address is wanted.
    pub link_layer: bool,
}

/// Which addresses are to be on a network.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PoolRequest {
    /// What `--subnet` says.
    pub subnet: Option<IpNet>,
    /// Whether `--ip-range` is given.
    pub range: bool,
    /// Whether it is about IPv6.
    pub ipv6: bool,
}

/// Which address a container is to get.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AddressRequest {
    /// The pool's name, which tells the family.
    pub pool: PoolId,
    /// What `--ip`, `--gateway` or `--aux-address` says.
    pub wanted: Option<IpAddr>,
}

/// The name of a set of addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum PoolId {
    /// This machine's IPv4 address.
    #[serde(rename = "overlay-ipv4")]
    Ipv4,
    /// This machine's IPv6 address.
    #[serde(rename = "overlay-ipv6")]
    Ipv6,
}

/// Why a question is not answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BadRequest {
    /// There is no such question.
    Unknown(String),
    /// It does not have the form that it should.
    Malformed(String),
}

/// An answer; it becomes JSON with the engine's names.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(untagged)]
pub enum Answer {
    /// To [`Request::Activate`].
    #[serde(rename_all = "PascalCase")]
    Activate {
        /// The interfaces that are served.
        implements: [&'static str; 2],
    },
    /// To [`Request::DriverCapabilities`].
    #[serde(rename_all = "PascalCase")]
    DriverCapabilities {
        /// Whether networks are the engine's own or a swarm's.
        scope: &'static str,
        /// How far their traffic goes.
        connectivity_scope: &'static str,
    },
    /// To [`Request::Join`].
    #[serde(rename_all = "PascalCase")]
    Join {
        /// What to move into the container.
        interface_name: InterfaceName,
        /// What is reached by it.
        static_routes: Vec<StaticRoute>,
    },
    /// To [`Request::EndpointInfo`].
    #[serde(rename_all = "PascalCase")]
    EndpointInfo {
        /// Nothing.
        value: BTreeMap<String, String>,
    },
    /// To [`Request::ManagerCapabilities`].
    ManagerCapabilities {
        /// Whether it wants to know link-layer addresses.
        #[serde(rename = "RequiresMACAddress")]
        requires_mac_address: bool,
        /// Whether it wants to be told of all networks when the engine starts.
        #[serde(rename = "RequiresRequestReplay")]
        requires_request_replay: bool,
    },
    /// To [`Request::AddressSpaces`].
    #[serde(rename_all = "PascalCase")]
    AddressSpaces {
        /// That of networks of the engine.
        local_default_address_space: &'static str,
        /// That of networks of a swarm.
        global_default_address_space: &'static str,
    },
    /// To [`Request::Pool`].
    Pool {
        /// Its name in later questions.
        #[serde(rename = "PoolID")]
        id: PoolId,
        /// The addresses.
        #[serde(rename = "Pool")]
        pool: IpNet,
        /// What the engine would ask next.
        #[serde(rename = "Data")]
        data: BTreeMap<&'static str, IpNet>,
    },
    /// To [`Request::Address`].
    #[serde(rename_all = "PascalCase")]
    Address {
        /// The address, with its prefix length.
        address: IpNet,
    },
    /// To everything else.
    Done {},
}

/// An interface, and how it is to be called in the container.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct InterfaceName {
    /// Its name on the machine.
    pub src_name: String,
    /// Its name in the container, without the number that the engine puts behind.
    pub dst_prefix: String,
}

/// A route through the interface.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct StaticRoute {
    /// What it leads to.
    pub destination: IpNet,
    /// 1 is through the interface, 0 by a gateway (libnetwork, types/types.go).
    pub route_type: u8,
}

impl Request {
    /// Reads a question: the last part of its path, and its body.
    ///
    /// # Errors
    /// [`BadRequest`], in words for the engine's log.
    pub fn read(name: &str, body: &[u8]) -> Result<Self, BadRequest> {
        Ok(match name {
            "Plugin.Activate" => Self::Activate,
            "NetworkDriver.GetCapabilities" => Self::DriverCapabilities,
            "NetworkDriver.CreateNetwork" => {
                let network: CreateNetwork = parse(name, body)?;
                Self::CreateNetwork(network.generic_options())
            }
            "NetworkDriver.CreateEndpoint" => {
                parse::<CreateEndpoint>(name, body)?.check().map_err(malformed(name))?
            }
            "NetworkDriver.DeleteEndpoint" => Self::DeleteEndpoint(endpoint(name, body)?),
            "NetworkDriver.Join" => {
                let join: Join = parse(name, body)?;
                Self::Join(EndpointId(join.endpoint_id), SandboxKey(join.sandbox_key))
            }
            "NetworkDriver.Leave" => Self::Leave(endpoint(name, body)?),
            "NetworkDriver.EndpointOperInfo" => Self::EndpointInfo,
            "NetworkDriver.DeleteNetwork"
            | "NetworkDriver.DiscoverNew"
            | "NetworkDriver.DiscoverDelete"
            | "NetworkDriver.ProgramExternalConnectivity"
            | "NetworkDriver.RevokeExternalConnectivity"
            | "IpamDriver.ReleasePool"
            | "IpamDriver.ReleaseAddress" => Self::Notification,
            "IpamDriver.GetCapabilities" => Self::ManagerCapabilities,
            "IpamDriver.GetDefaultAddressSpaces" => Self::AddressSpaces,
            "IpamDriver.RequestPool" => {
                parse::<RequestPool>(name, body)?.check().map_err(malformed(name))?
            }
            "IpamDriver.RequestAddress" => {
                parse::<RequestAddress>(name, body)?.check().map_err(malformed(name))?
            }
            _ => return Err(BadRequest::Unknown(name.chars().take(60).collect())),
        })
    }
}

impl std::fmt::Display for BadRequest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Unknown(name) => write!(f, "hushwire's network driver has no {name:?}"),
            Self::Malformed(why) => f.write_str(why),
        }
    }
}

impl std::error::Error for BadRequest {}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct CreateNetwork {
    options: Option<BTreeMap<String, Value>>,
}

impl CreateNetwork {
    /// Those of the operator; the engine's own are beside them.
    fn generic_options(self) -> BTreeMap<String, Value> {
        let generic = self.options.unwrap_or_default().remove("com.docker.network.generic");
        match generic {
            Some(Value::Object(options)) => options.into_iter().collect(),
            _ => BTreeMap::new(),
        }
    }
}

#[derive(Deserialize)]
struct CreateEndpoint {
    #[serde(rename = "NetworkID")]
    network_id: String,
    #[serde(rename = "EndpointID")]
    endpoint_id: String,
    #[serde(rename = "Interface")]
    interface: Option<Interface>,
}

#[derive(Default, Deserialize)]
struct Interface {
    #[serde(default, rename = "Address")]
    address: String,
    #[serde(default, rename = "AddressIPv6")]
    address_ipv6: String,
    #[serde(default, rename = "MacAddress")]
    mac_address: String,
}

impl CreateEndpoint {
    fn check(self) -> Result<Request, String> {
        let interface = self.interface.unwrap_or_default();
        let texts = [&interface.address, &interface.address_ipv6];
        let given = texts.into_iter().filter(|text| !text.is_empty());
        Ok(Request::CreateEndpoint(NewEndpoint {
            network: self.network_id,
            endpoint: EndpointId(self.endpoint_id),
            addresses: given.map(|text| value(text)).collect::<Result<_, _>>()?,
            link_layer: !interface.mac_address.is_empty(),
        }))
    }
}

#[derive(Deserialize)]
struct Endpoint {
    #[serde(rename = "EndpointID")]
    endpoint_id: String,
}

#[derive(Deserialize)]
struct Join {
    #[serde(rename = "EndpointID")]
    endpoint_id: String,
    #[serde(rename = "SandboxKey")]
    sandbox_key: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct RequestPool {
    #[serde(default)]
    pool: String,
    #[serde(default)]
    sub_pool: String,
    #[serde(default)]
    v6: bool,
}

impl RequestPool {
    fn check(self) -> Result<Request, String> {
        let subnet = (!self.pool.is_empty()).then(|| value(&self.pool)).transpose()?;
        let ipv6 = subnet.map_or(self.v6, |subnet: IpNet| subnet.addr().is_ipv6());
        Ok(Request::Pool(PoolRequest { subnet, range: !self.sub_pool.is_empty(), ipv6 }))
    }
}

#[derive(Deserialize)]
struct RequestAddress {
    #[serde(rename = "PoolID")]
    pool_id: PoolId,
    #[serde(default, rename = "Address")]
    address: String,
}

impl RequestAddress {
    fn check(self) -> Result<Request, String> {
        let wanted = (!self.address.is_empty()).then(|| value(&self.address)).transpose()?;
        Ok(Request::Address(AddressRequest { pool: self.pool_id, wanted }))
    }
}

fn endpoint(name: &str, body: &[u8]) -> Result<EndpointId, BadRequest> {
    parse::<Endpoint>(name, body).map(|endpoint| EndpointId(endpoint.endpoint_id))
}

fn parse<T: DeserializeOwned>(name: &str, body: &[u8]) -> Result<T, BadRequest> {
    serde_json::from_slice(body).map_err(|error| malformed(name)(error.to_string()))
}

fn malformed(name: &str) -> impl Fn(String) -> BadRequest + use<'_> {
    move |why| BadRequest::Malformed(format!("{name}: {why}"))
}

fn value<T: std::str::FromStr>(text: &str) -> Result<T, String> {
    let kind = if text.contains('/') { "address with a prefix length" } else { "address" };
    text.parse().map_err(|_| format!("{text:?} is no {kind}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(name: &str, body: &str) -> Request {
        Request::read(name, body.as_bytes()).unwrap()
    }

    /// The bodies are those of Docker 20.10, with what is not used in them.
    #[test]
    fn questions_of_an_engine_are_understood() {
        assert_eq!(read("Plugin.Activate", ""), Request::Activate);
        assert_eq!(read("NetworkDriver.GetCapabilities", "null"), Request::DriverCapabilities);
        let create = r#"{"NetworkID":"9f","EndpointID":"4a","Interface":{"Address":"10.99.0.1/32",
            "AddressIPv6":"","MacAddress":""},"Options":{"com.docker.network.portmap":[]}}"#;
        let expected = NewEndpoint {
            network: "9f".into(),
            endpoint: EndpointId("4a".into()),
            addresses: vec!["10.99.0.1/32".parse().unwrap()],
            link_layer: false,
        };
        assert_eq!(read("NetworkDriver.CreateEndpoint", create), Request::CreateEndpoint(expected));
        let join = r#"{"NetworkID":"9f","EndpointID":"4a","SandboxKey":"/var/run/docker/netns/77",
            "Options":null}"#;
        let key = SandboxKey("/var/run/docker/netns/77".into());
        let id = || EndpointId("4a".into());
        assert_eq!(read("NetworkDriver.Join", join), Request::Join(id(), key));
        let leave = r#"{"NetworkID":"9f","EndpointID":"4a"}"#;
        assert_eq!(read("NetworkDriver.Leave", leave), Request::Leave(id()));
        let pool = r#"{"AddressSpace":"hushwire","Pool":"","SubPool":"","Options":{},"V6":true}"#;
        let expected = PoolRequest { subnet: None, range: false, ipv6: true };
        assert_eq!(read("IpamDriver.RequestPool", pool), Request::Pool(expected));
        let address = r#"{"PoolID":"overlay-ipv4","Address":"10.99.0.7","Options":null}"#;
        let wanted = Some("10.99.0.7".parse().unwrap());
        let expected = AddressRequest { pool: PoolId::Ipv4, wanted };
        assert_eq!(read("IpamDriver.RequestAddress", address), Request::Address(expected));
        let network = r#"{"NetworkID":"9f","Options":{"com.docker.network.enable_ipv6":false,
            "com.docker.network.generic":{"mtu":"9000"}},"IPv4Data":[],"IPv6Data":null}"#;
        let options = BTreeMap::from([("mtu".to_owned(), Value::from("9000"))]);
        assert_eq!(read("NetworkDriver.CreateNetwork", network), Request::CreateNetwork(options));
    }

    #[test]
    fn what_is_no_question_is_refused_with_its_name() {
        let cases = [
            ("NetworkDriver.Join", "{}", "NetworkDriver.Join: missing field `EndpointID`"),
            ("NetworkDriver.Leave", "", "NetworkDriver.Leave: EOF while parsing a value"),
            (
                "NetworkDriver.CreateEndpoint",
                r#"{"NetworkID":"9f","EndpointID":"4a","Interface":{"Address":"10.99.0.300/32"}}"#,
                "\"10.99.0.300/32\" is no address with a prefix length",
            ),
            (
                "IpamDriver.RequestAddress",
                r#"{"PoolID":"other","Address":""}"#,
                "unknown variant `other`",
            ),
            (
                "IpamDriver.RequestAddress",
                r#"{"PoolID":"overlay-ipv4","Address":"::x"}"#,
                "\"::x\" is no address",
            ),
            ("NetworkDriver.AllocateNetwork", "{}", "has no \"NetworkDriver.AllocateNetwork\""),
        ];
        for (name, body, expected) in cases {
            let error = Request::read(name, body.as_bytes()).unwrap_err().to_string();
            assert!(error.contains(expected), "{name}: {error}");
        }
    }

    #[test]
    fn answers_have_the_engines_names() {
        let json = |answer: Answer| serde_json::to_string(&answer).unwrap();
        let join = Answer::Join {
            interface_name: InterfaceName { src_name: "hush0".into(), dst_prefix: "hush".into() },
            static_routes: vec![StaticRoute {
                destination: "10.99.0.2/32".parse().unwrap(),
                route_type: 1,
            }],
        };
        assert_eq!(
            json(join),
            r#"{"InterfaceName":{"SrcName":"hush0","DstPrefix":"hush"},"StaticRoutes":[{"Destination":"10.99.0.2/32","RouteType":1}]}"#
        );
        let pool: IpNet = "10.99.0.1/32".parse().unwrap();
        let data = BTreeMap::from([("com.docker.network.gateway", pool)]);
        assert_eq!(
            json(Answer::Pool { id: PoolId::Ipv4, pool, data }),
            r#"{"PoolID":"overlay-ipv4","Pool":"10.99.0.1/32","Data":{"com.docker.network.gateway":"10.99.0.1/32"}}"#
        );
        assert_eq!(
            json(Answer::Activate { implements: ["NetworkDriver", "IpamDriver"] }),
            r#"{"Implements":["NetworkDriver","IpamDriver"]}"#
        );
        assert_eq!(json(Answer::Done {}), "{}");
    }
}
