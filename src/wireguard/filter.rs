//! Which packets inside the tunnel may pass, in both directions: what the two ends may reach on each other.
//!
//! TCP is judged by who opens: to an allowed port anything goes, from an allowed port whatever opens nothing.
//! UDP is judged by its destination; an answer passes because the datagram before it was seen, for a source
//! port alone would let a peer reach any port. An ICMP error is judged by the packet that it quotes, so that
//! path MTU discovery works whatever is allowed. The first fragment decides for the others.
//!
//! The state is one peer's, so that no peer can spend that of another, and bounded. Nothing is allocated
//! once it has been used. Called by peer/filtering.rs for each packet, a large one once.

mod allow;
mod headers;
mod tables;

use std::net::IpAddr;
use std::time::Instant;

pub use allow::{Allow, PortRange, Rule};
pub(super) use headers::Headers;
use headers::{Fragment, Icmp, Transport};
use tables::{Flow, Flows, Fragments, Piece};

/// Why a packet may not pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refusal {
    /// What it is or where it goes is not allowed, or cannot be read.
    NotAllowed,
    /// A first fragment that hides its ports, or a later one that continues none which passed.
    Fragment,
}

/// What one peer's packets have left behind for those that follow.
#[derive(Default)]
pub(super) struct Filter {
    flows: Flows,
    fragments: Fragments,
}

impl Filter {
    /// Judges a packet. `is_far` says whether an address is at the end that sent it: an ICMP error is
    /// about what goes there, or else a peer could slow down what goes to another.
    pub(super) fn judge(
        &mut self,
        now: Instant,
        allow: &Allow,
        packet: &[u8],
        is_far: impl Fn(IpAddr) -> bool,
    ) -> Result<(), Refusal> {
        if allow.is_everything() {
            return Ok(());
        }
        let headers = Headers::of(packet).ok_or(Refusal::NotAllowed)?;
        match headers.fragment {
            None => {
                let transport = headers.transport().ok_or(Refusal::NotAllowed)?;
                self.judge_transport(now, allow, &headers, transport, is_far)
            }
            Some(fragment) => self.judge_fragment(now, allow, &headers, fragment),
        }
    }

    /// The first fragment has to show what the datagram is; the later ones must belong to one that passed,
    /// and lie behind it: they could else overwrite what was judged (RFC 1858, RFC 5722).
    fn judge_fragment(
        &mut self,
        now: Instant,
        allow: &Allow,
        headers: &Headers<'_>,
        fragment: Fragment,
    ) -> Result<(), Refusal> {
        let Headers { source, destination, protocol, .. } = *headers;
        // The protocol of a later fragment in IPv6 is not looked at by who puts them together.
        let protocol = if source.is_ipv4() { protocol } else { 0 };
        let piece = Piece { source, destination, protocol, id: fragment.id };
        if fragment.offset != 0 {
            let continues = self.fragments.continues(now, &piece, fragment.offset);
            return continues.then_some(()).ok_or(Refusal::Fragment);
        }
        match headers.transport() {
            // Nobody cuts an error in pieces: it is made to fit (RFC 1812 section 4.3.2.3, RFC 4443 2.4).
            None | Some(Transport::Icmp(Icmp::Error(_))) => return Err(Refusal::Fragment),
            Some(transport) => self.judge_transport(now, allow, headers, transport, |_| false)?,
        }
        self.fragments.remember(now, piece, fragment.length);
        Ok(())
    }

    fn judge_transport(
        &mut self,
        now: Instant,
        allow: &Allow,
        headers: &Headers<'_>,
        transport: Transport<'_>,
        is_far: impl Fn(IpAddr) -> bool,
    ) -> Result<(), Refusal> {
        let passes = match transport {
            Transport::Tcp { source, destination, flags } => {
                allow.tcp(destination) || (allow.tcp(source) && opens_nothing(flags))
            }
            Transport::Udp { source, destination } if allow.udp(destination) => {
                // Where the answer would pass by its own destination there is nothing to remember.
                if !allow.udp(source) {
                    self.flows.remember(now, Flow::of(headers, source, destination));
                }
                true
            }
            Transport::Udp { source, destination } => {
                allow.udp(source)
                    && self.flows.is_answer(now, &Flow::of(headers, source, destination))
            }
            Transport::Icmp(Icmp::Echo) => allow.icmp(),
            Transport::Icmp(Icmp::Error(quoted)) => {
                self.may_quote(now, allow, headers.destination, quoted, is_far)
            }
            Transport::Icmp(Icmp::Other) | Transport::Other => false,
        };
        passes.then_some(()).ok_or(Refusal::NotAllowed)
    }

    /// Whether an error to `destination` is about a packet that it could have sent: it would have passed,
    /// as far as the quotation tells.
    fn may_quote(
        &self,
        now: Instant,
        allow: &Allow,
        destination: IpAddr,
        quoted: &[u8],
        is_far: impl Fn(IpAddr) -> bool,
    ) -> bool {
        let Some(headers) = Headers::quoted(quoted) else { return false };
        if headers.source != destination || !is_far(headers.destination) {
            return false;
        }
        // Routers tell of first fragments alone (RFC 1122 section 3.2.2).
        if headers.fragment.is_some_and(|fragment| fragment.offset != 0) {
            return false;
        }
        match headers.quoted_transport() {
            Some(Transport::Tcp { source, destination, .. }) => {
                allow.tcp(destination) || allow.tcp(source)
            }
            Some(Transport::Udp { source, destination }) => {
                allow.udp(destination)
                    || allow.udp(source)
                        && self.flows.is_answer(now, &Flow::of(&headers, source, destination))
            }
            Some(Transport::Icmp(Icmp::Echo)) => allow.icmp(),
            _ => false,
        }
    }
}

const FIN: u8 = 0x01;
const SYN: u8 = 0x02;
const RST: u8 = 0x04;
const ACK: u8 = 0x10;

/// Whether no listener takes this segment for the beginning of a connection, whatever its stack thinks of
/// odd flags: RFC 9293 section 3.10.7.2 lets SYN open beside any flag but RST and ACK, and stacks differ
/// about SYN with FIN. What has neither ACK nor RST is sent by nobody but scanners, who see by the silence
/// that somebody listens.
fn opens_nothing(flags: u8) -> bool {
    let odd = flags & SYN != 0 && flags & (FIN | RST | ACK) != ACK;
    flags & (ACK | RST) != 0 && !odd
}

#[cfg(test)]
mod tests {
    use super::*;

    /// After RFC 9293: of all 256 sets of flags, written out the other way round.
    #[test]
    fn what_opens_a_connection_in_any_stack_is_known_by_its_flags() {
        let passing: Vec<u8> = (0..=255).filter(|&flags| opens_nothing(flags)).collect();
        for flags in &passing {
            let (syn, ack) = (flags & SYN != 0, flags & ACK != 0);
            assert!(!syn || ack, "{flags:08b} opens");
            assert!(!syn || flags & (FIN | RST) == 0, "{flags:08b} opens somewhere");
        }
        // What connections are made of: SYN-ACK, ACK, PSH-ACK, FIN-ACK, RST, RST-ACK, with ECE and CWR, too.
        for flags in [0x12, 0x10, 0x18, 0x11, 0x04, 0x14, 0x52, 0xd0, 0x38] {
            assert!(passing.contains(&flags), "{flags:08b}");
        }
        // Without SYN 6 of the 8 sets of FIN, RST and ACK, with it ACK alone; beside any of 16 sets of others.
        assert_eq!(passing.len(), 16 * (6 + 1));
    }
}
