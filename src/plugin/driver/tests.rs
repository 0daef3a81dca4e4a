//! The engine's questions, in the orders in which it asks them, without an engine.

use super::*;
use crate::sys::netns::Namespace;

fn overlay() -> AttachRequest {
    let nets = |texts: &[&str]| texts.iter().map(|text| text.parse().unwrap()).collect();
    AttachRequest {
        namespace: Namespace::Own,
        name: "hush0".into(),
        addresses: nets(&["10.99.0.1/32", "fd99::1/128"]),
        routes: nets(&["10.99.0.2/32", "10.98.0.0/24", "fd99::2/128"]),
        mtu: 1440,
    }
}

fn new(endpoint: &str, addresses: &[&str]) -> Request {
    Request::CreateEndpoint(NewEndpoint {
        network: "0123456789abcdef".into(),
        endpoint: id(endpoint),
        addresses: addresses.iter().map(|text| text.parse().unwrap()).collect(),
        link_layer: false,
    })
}

fn id(endpoint: &str) -> EndpointId {
    EndpointId(endpoint.into())
}

fn join(endpoint: &str) -> Request {
    Request::Join(id(endpoint), SandboxKey(format!("/run/docker/netns/{endpoint}")))
}

const DONE: Step = Step::Answer(Answer::Done {});

/// Puts a question to a driver, while the holder's interface is there.
fn ask(driver: &mut Driver, request: Request) -> Result<Step, String> {
    driver.handle(request, &overlay(), true)
}

/// The same while there is none.
fn ask_free(driver: &mut Driver, request: Request) -> Result<Step, String> {
    driver.handle(request, &overlay(), false)
}

fn routes(step: Step) -> Vec<String> {
    let Step::Attach(Answer::Join { static_routes, .. }) = step else {
        panic!("{step:?} is no answer to Join");
    };
    assert!(static_routes.iter().all(|route| route.route_type == 1));
    static_routes.iter().map(|route| route.destination.to_string()).collect()
}

#[test]
fn a_container_gets_the_interface_and_gives_it_back() {
    let mut driver = Driver::default();
    for _ in 0..3 {
        assert_eq!(ask_free(&mut driver, new("a", &["10.99.0.1/32"])), Ok(DONE));
        let joined = ask_free(&mut driver, join("a")).unwrap();
        assert_eq!(routes(joined), ["10.98.0.0/24", "10.99.0.2/32"]);
        assert_eq!(ask(&mut driver, Request::Leave(id("a"))), Ok(Step::Detach(Answer::Done {})));
        assert_eq!(ask(&mut driver, Request::DeleteEndpoint(id("a"))), Ok(DONE));
        assert_eq!(driver.holder(), None);
    }
}

#[test]
fn routes_of_ipv6_are_for_containers_with_ipv6() {
    let mut driver = Driver::default();
    ask_free(&mut driver, new("a", &["10.99.0.1/32", "fd99::1/128"])).unwrap();
    let joined = ask_free(&mut driver, join("a")).unwrap();
    assert_eq!(routes(joined), ["10.98.0.0/24", "10.99.0.2/32", "fd99::2/128"]);
}

#[test]
fn a_second_container_is_refused_while_the_first_is_there() {
    let mut driver = Driver::default();
    ask_free(&mut driver, new("a", &["10.99.0.1/32"])).unwrap();
    ask_free(&mut driver, join("a")).unwrap();
    let refused = "this machine's overlay address 10.99.0.1 or fd99::1 is in use by another \
                   container, and only one can have it: stop that one first (docker ps --filter \
                   network=0123456789ab)";
    assert_eq!(ask(&mut driver, new("b", &["10.99.0.1/32"])), Err(refused.into()));
    assert_eq!(ask(&mut driver, join("b")), Err(refused.into()));
    // The engine forgets the one that was refused; the first keeps what it has.
    assert_eq!(ask(&mut driver, Request::DeleteEndpoint(id("b"))), Ok(DONE));
    assert_eq!(driver.holder().unwrap().endpoint, id("a"));
}

#[test]
fn a_container_that_is_gone_without_a_word_is_in_nobodys_way() {
    let mut driver = Driver::default();
    ask_free(&mut driver, new("a", &["10.99.0.1/32"])).unwrap();
    ask_free(&mut driver, join("a")).unwrap();
    assert_eq!(driver.handle(new("b", &["10.99.0.1/32"]), &overlay(), false), Ok(DONE));
    // Created and never joined.
    assert_eq!(ask(&mut driver, new("c", &["10.99.0.1/32"])), Ok(DONE));
    assert!(matches!(ask(&mut driver, join("c")), Ok(Step::Attach(_))));
}

#[test]
fn an_endpoint_from_before_this_process_is_joined_and_left() {
    let mut driver = Driver::default();
    assert_eq!(ask_free(&mut driver, Request::Leave(id("old"))), Ok(DONE));
    assert!(matches!(ask_free(&mut driver, join("older")), Ok(Step::Attach(_))));
    let left = ask(&mut driver, Request::Leave(id("older")));
    assert_eq!(left, Ok(Step::Detach(Answer::Done {})));
    // The interface was taken over from a predecessor, and the engine has not told whose it is.
    let refused = ask(&mut driver, new("b", &["10.99.0.1/32"])).unwrap_err();
    assert!(refused.contains("is in use by another container"), "{refused}");
    let left = ask(&mut driver, Request::Leave(id("oldest")));
    assert_eq!(left, Ok(Step::Detach(Answer::Done {})));
}

#[test]
fn the_address_manager_gives_this_machines_address_and_no_other() {
    let mut driver = Driver::default();
    let mut address = |pool, wanted: Option<&str>| {
        let wanted = wanted.map(|text| text.parse().unwrap());
        ask(&mut driver, Request::Address(AddressRequest { pool, wanted }))
    };
    let own = |text: &str| Ok(Step::Answer(Answer::Address { address: text.parse().unwrap() }));
    assert_eq!(address(PoolId::Ipv4, None), own("10.99.0.1/32"));
    assert_eq!(address(PoolId::Ipv4, Some("10.99.0.1")), own("10.99.0.1/32"));
    assert_eq!(address(PoolId::Ipv6, None), own("fd99::1/128"));
    let refused = "10.99.0.7 is not this machine's overlay address, which is 10.99.0.1 or fd99::1: \
                   leave --ip, --gateway and --aux-address out";
    assert_eq!(address(PoolId::Ipv4, Some("10.99.0.7")), Err(refused.into()));
}

#[test]
fn pools_hold_this_machines_address() {
    let pool = |subnet: Option<&str>, range, ipv6| {
        let subnet = subnet.map(|text| text.parse().unwrap());
        let request = Request::Pool(PoolRequest { subnet, range, ipv6 });
        match Driver::default().handle(request, &overlay(), false) {
            Ok(Step::Answer(Answer::Pool { pool, data, .. })) => {
                Ok((pool.to_string(), data[GATEWAY].to_string()))
            }
            other => Err(other.unwrap_err()),
        }
    };
    let expected = |pool: &str, gateway: &str| Ok((pool.to_owned(), gateway.to_owned()));
    assert_eq!(pool(None, false, false), expected("0.0.0.0/0", "10.99.0.1/32"));
    assert_eq!(pool(None, false, true), expected("fd99::1/128", "fd99::1/128"));
    assert_eq!(pool(Some("10.99.0.0/24"), false, false), expected("10.99.0.0/24", "10.99.0.1/32"));
    let refused = "subnet 10.0.0.0/24 does not hold this machine's overlay address 10.99.0.1: leave \
                   --subnet out";
    assert_eq!(pool(Some("10.0.0.0/24"), false, false), Err(refused.into()));
    let refused = "there is one address to choose from: leave --ip-range out";
    assert_eq!(pool(None, true, false), Err(refused.into()));
    let mut ipv6_alone = overlay();
    ipv6_alone.addresses.remove(0);
    let request = Request::Pool(PoolRequest { subnet: None, range: false, ipv6: false });
    let refused = Driver::default().handle(request, &ipv6_alone, false).unwrap_err();
    assert!(refused.starts_with("this machine has no IPv4 overlay address: "), "{refused}");
}

#[test]
fn what_hushwire_cannot_give_is_refused_with_what_to_do() {
    let mut driver = Driver::default();
    let foreign = ask_free(&mut driver, new("a", &["10.99.0.9/24"])).unwrap_err();
    assert_eq!(
        foreign,
        "10.99.0.9 is not this machine's overlay address, which is 10.99.0.1 or fd99::1: make the \
         network with `docker network create -d hushwire --ipam-driver hushwire NAME`"
    );
    let none = ask_free(&mut driver, new("a", &[])).unwrap_err();
    assert!(none.starts_with("no address was chosen: make the network with"), "{none}");
    let Request::CreateEndpoint(mut wanted) = new("a", &["10.99.0.1/32"]) else { unreachable!() };
    wanted.link_layer = true;
    let refused = ask_free(&mut driver, Request::CreateEndpoint(wanted)).unwrap_err();
    assert!(refused.ends_with("leave --mac-address out"), "{refused}");
    let options = BTreeMap::from([("mtu".to_owned(), "9000".into())]);
    let refused = ask(&mut driver, Request::CreateNetwork(options)).unwrap_err();
    assert!(refused.starts_with("option mtu: a network of hushwire takes none"), "{refused}");
    assert_eq!(driver.holder(), None);
}

#[test]
fn the_engine_numbers_the_interface() {
    for (name, expected) in [
        ("hush0", "hush"),
        ("am", "am"),
        ("gossip-12", "gossip-"),
        ("0", "hush"),
        ("fifteen-letters", "fifteen-letter"),
    ] {
        assert_eq!(prefix(name), expected, "{name}");
    }
}
