//! What the engine is answered: this machine's own overlay address, for one container at a time.
//!
//! The address manager remembers nothing, since there is one address to give; the network driver remembers
//! which endpoint has the interface. Pure: whether the holder's interface is still there is an argument,
//! and what must be done in the system is a [`Step`] for the daemon, which calls this.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnet::{IpNet, Ipv4Net};

use super::protocol::{
    AddressRequest, Answer, EndpointId, InterfaceName, NewEndpoint, PoolId, PoolRequest, Request,
    SandboxKey, StaticRoute,
};
use crate::sys::attach::AttachRequest;

/// One set of addresses for all: those of peers are as unique as ours.
const ADDRESS_SPACE: &str = "hushwire";
/// By this name the engine finds the gateway that a pool comes with (libnetwork, netlabel/labels.go).
const GATEWAY: &str = "com.docker.network.gateway";
/// Through the interface, as opposed to by a gateway (libnetwork, types/types.go, `CONNECTED`).
const CONNECTED: u8 = 1;
/// An interface's name has 15 bytes, and the engine puts at least one digit behind the prefix.
const PREFIX_BYTES: usize = 14;

/// The state of the network driver.
#[derive(Debug, Default)]
pub struct Driver {
    holder: Option<Holder>,
}

/// Who has the overlay address, and the interface from its Join to its Leave.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Holder {
    /// Its place on the network.
    pub endpoint: EndpointId,
    /// The network.
    pub network: String,
    /// Where its network namespace is; none before Join.
    pub sandbox: Option<SandboxKey>,
    /// The addresses that the engine gives it; unknown, and so empty, if it was created before this process.
    pub addresses: Vec<IpNet>,
    /// The routes that it was told at Join; a reload may have changed the overlay since.
    pub routes: BTreeSet<IpNet>,
}

impl Holder {
    /// All that the engine puts into the container: addresses and routes.
    pub fn told(&self) -> BTreeSet<IpNet> {
        self.routes.iter().chain(&self.addresses).copied().collect()
    }
}

/// What of the overlay the engine is to put into a container, beside these addresses: where that has no
/// IPv6 address, the engine has IPv6 switched off, and a route fails.
fn routes(addresses: &[IpNet], overlay: &AttachRequest) -> BTreeSet<IpNet> {
    let ipv6 = addresses.iter().any(|address| address.addr().is_ipv6());
    let mut routes = overlay.tunnel_routes();
    routes.retain(|route| ipv6 || route.addr().is_ipv4());
    routes
}

/// What is to be done for an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Nothing more.
    Answer(Answer),
    /// Make the interface on the machine first. When that fails, [`Driver::release`] and say why.
    Attach(Answer),
    /// Take the interface away first.
    Detach(Answer),
}

impl Driver {
    /// Who has the address.
    pub fn holder(&self) -> Option<&Holder> {
        self.holder.as_ref()
    }

    /// Takes up an endpoint from before this process, as the engine tells of it.
    pub fn take_up(&mut self, holder: Holder) {
        self.holder = Some(holder);
    }

    /// Nobody has the address any more.
    pub fn release(&mut self) {
        self.holder = None;
    }

    /// Finds the answer to a question. `occupied` says whether the interface of the holder, or its
    /// network namespace, is still there: an engine that was killed does not tell of every end.
    ///
    /// # Errors
    /// Why not, in a sentence that `docker` shows.
    pub fn handle(
        &mut self,
        request: Request,
        overlay: &AttachRequest,
        occupied: bool,
    ) -> Result<Step, String> {
        let answer = match request {
            Request::CreateEndpoint(new) => self.create(new, overlay, occupied)?,
            Request::Join(endpoint, sandbox) => {
                return self.join(endpoint, sandbox, overlay, occupied).map(Step::Attach);
            }
            // The holder from before this process, of whom the engine has not told yet.
            Request::Leave(_) if self.holder.is_none() && occupied => {
                return Ok(Step::Detach(Answer::Done {}));
            }
            Request::Leave(endpoint) | Request::DeleteEndpoint(endpoint) => {
                return Ok(self.leave(&endpoint));
            }
            Request::CreateNetwork(options) => create_network(&options)?,
            Request::Pool(request) => pool(&request, overlay)?,
            Request::Address(request) => address(&request, overlay)?,
            Request::Notification => Answer::Done {},
            Request::Activate => Answer::Activate { implements: ["NetworkDriver", "IpamDriver"] },
            Request::DriverCapabilities => {
                Answer::DriverCapabilities { scope: "local", connectivity_scope: "global" }
            }
            Request::EndpointInfo => Answer::EndpointInfo { value: BTreeMap::new() },
            Request::ManagerCapabilities => Answer::ManagerCapabilities {
                requires_mac_address: false,
                requires_request_replay: false,
            },
            Request::AddressSpaces => Answer::AddressSpaces {
                local_default_address_space: ADDRESS_SPACE,
                global_default_address_space: ADDRESS_SPACE,
            },
        };
        Ok(Step::Answer(answer))
    }

    fn create(
        &mut self,
        new: NewEndpoint,
        overlay: &AttachRequest,
        occupied: bool,
    ) -> Result<Answer, String> {
        if new.link_layer {
            return Err(
                "an overlay interface has no link-layer address: leave --mac-address out".into()
            );
        }
        if new.addresses.is_empty() {
            return Err(format!("no address was chosen: {ANOTHER_MANAGER}"));
        }
        for address in &new.addresses {
            if !has(overlay, address.addr()) {
                let whose = not_ours(address.addr(), overlay);
                return Err(format!("{whose}: {ANOTHER_MANAGER}"));
            }
        }
        self.refuse_a_second(&new.endpoint, overlay, occupied)?;
        self.holder = Some(Holder {
            endpoint: new.endpoint,
            network: new.network,
            sandbox: None,
            addresses: new.addresses,
            routes: BTreeSet::new(),
        });
        Ok(Answer::Done {})
    }

    /// Also of an endpoint that was created before this process: the engine does not create it again.
    fn join(
        &mut self,
        endpoint: EndpointId,
        sandbox: SandboxKey,
        overlay: &AttachRequest,
        occupied: bool,
    ) -> Result<Answer, String> {
        self.refuse_a_second(&endpoint, overlay, occupied)?;
        let known = self.holder.take().filter(|holder| holder.endpoint == endpoint);
        let (network, addresses) =
            known.map_or_else(Default::default, |it| (it.network, it.addresses));
        let routes = routes(&addresses, overlay);
        let told = |&destination| StaticRoute { destination, route_type: CONNECTED };
        let static_routes = routes.iter().map(told).collect();
        self.holder = Some(Holder { endpoint, network, sandbox: Some(sandbox), addresses, routes });
        Ok(Answer::Join {
            interface_name: InterfaceName {
                src_name: overlay.name.clone(),
                dst_prefix: prefix(&overlay.name),
            },
            static_routes,
        })
    }

    fn leave(&mut self, endpoint: &EndpointId) -> Step {
        if self.holder.as_ref().is_some_and(|holder| holder.endpoint == *endpoint) {
            self.holder = None;
            Step::Detach(Answer::Done {})
        } else {
            // One that was refused, or from before: the engine forgets it all the same.
            Step::Answer(Answer::Done {})
        }
    }

    /// An endpoint that was created and never joined holds nothing: the engine joins it at once, or was
    /// killed in between.
    fn refuse_a_second(
        &self,
        endpoint: &EndpointId,
        overlay: &AttachRequest,
        occupied: bool,
    ) -> Result<(), String> {
        let network = match &self.holder {
            _ if !occupied => return Ok(()),
            Some(holder) if holder.endpoint == *endpoint || holder.sandbox.is_none() => {
                return Ok(());
            }
            Some(holder) => holder.network.get(..12).unwrap_or(&holder.network),
            None => "NAME",
        };
        Err(format!(
            "this machine's overlay address {} is in use by another container, and only one can have it: \
             stop that one first (docker ps --filter network={network})",
            list(overlay)
        ))
    }
}

const ANOTHER_MANAGER: &str =
    "make the network with `docker network create -d hushwire --ipam-driver hushwire NAME`";

fn create_network(options: &BTreeMap<String, serde_json::Value>) -> Result<Answer, String> {
    match options.keys().next() {
        Some(option) => Err(format!(
            "option {option}: a network of hushwire takes none; leave --opt out, the MTU and all else are \
             in hushwire's own configuration"
        )),
        None => Ok(Answer::Done {}),
    }
}

/// The engine compares a pool of our choice with the routes of the machine and asks again, for ever, while
/// one of them covers it. Ours never is on the machine; the engine lets this one pass, which its own
/// manager for no addresses uses (libnetwork, ipams/null).
fn pool(request: &PoolRequest, overlay: &AttachRequest) -> Result<Answer, String> {
    if request.range {
        return Err("there is one address to choose from: leave --ip-range out".into());
    }
    let (id, family) = if request.ipv6 { (PoolId::Ipv6, "IPv6") } else { (PoolId::Ipv4, "IPv4") };
    let Some(own) = own(overlay, id) else {
        let cure = if request.ipv6 {
            "leave --ipv6 out, or give it one in hushwire's configuration"
        } else {
            "the engine wants one on every network: give it one in hushwire's configuration"
        };
        return Err(format!("this machine has no {family} overlay address: {cure}"));
    };
    let pool = match request.subnet {
        Some(subnet) if !subnet.contains(&own.addr()) => {
            return Err(format!(
                "subnet {subnet} does not hold this machine's overlay address {}: leave --subnet out",
                own.addr()
            ));
        }
        Some(subnet) => subnet,
        None if request.ipv6 => own.trunc(),
        None => IpNet::V4(Ipv4Net::default()),
    };
    // Without one, the engine would ask for a second address. It is put nowhere: Join names none.
    Ok(Answer::Pool { id, pool, data: BTreeMap::from([(GATEWAY, own)]) })
}

fn address(request: &AddressRequest, overlay: &AttachRequest) -> Result<Answer, String> {
    let own = match request.wanted {
        Some(wanted) => overlay.addresses.iter().copied().find(|own| own.addr() == wanted),
        None => own(overlay, request.pool),
    };
    match (own, request.wanted) {
        (Some(address), _) => Ok(Answer::Address { address }),
        (None, Some(wanted)) => Err(format!(
            "{}: leave --ip, --gateway and --aux-address out",
            not_ours(wanted, overlay)
        )),
        (None, None) => {
            Err("this machine has no overlay address of that family any more: make the \
                             network anew"
                .into())
        }
    }
}

/// The address of a family that the engine gets to know. Of several it is the first.
fn own(overlay: &AttachRequest, pool: PoolId) -> Option<IpNet> {
    let ipv6 = pool == PoolId::Ipv6;
    overlay.addresses.iter().copied().find(|address| address.addr().is_ipv6() == ipv6)
}

fn has(overlay: &AttachRequest, address: IpAddr) -> bool {
    overlay.addresses.iter().any(|own| own.addr() == address)
}

fn not_ours(address: IpAddr, overlay: &AttachRequest) -> String {
    format!("{address} is not this machine's overlay address, which is {}", list(overlay))
}

fn list(overlay: &AttachRequest) -> String {
    let addresses = overlay.addresses.iter().map(|address| address.addr().to_string());
    addresses.collect::<Vec<_>>().join(" or ")
}

/// What the engine calls an interface of this name in a container.
pub fn name_in_container(interface: &str) -> String {
    format!("{}0", prefix(interface))
}

/// What is left of an interface's name for the engine to number, which it does from 0.
fn prefix(interface: &str) -> String {
    let stem = interface.trim_end_matches(|c: char| c.is_ascii_digit());
    let stem = if stem.is_empty() { "hush" } else { stem };
    stem.chars().take(PREFIX_BYTES).collect()
}

#[cfg(test)]
mod tests;
