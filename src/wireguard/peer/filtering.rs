//! The filter in front of one peer: what applies to it, what it refused, and when that is told.
//!
//! Called by device.rs for each packet that a peer sent and by device/outgoing.rs for each that it is sent.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use super::{Context, Peer};
use crate::wireguard::drops::DropReason;
use crate::wireguard::filter::{Allow, Filter, Headers, Refusal};
use crate::wireguard::io::{Event, Refused, Way};

/// How often the log hears of refused packets of one peer.
const TELL_EVERY: Duration = Duration::from_secs(60);

/// What a peer's filter knows.
#[derive(Default)]
pub(super) struct Filtering {
    /// What may pass instead of what the device lets pass.
    allow: Option<Allow>,
    filter: Filter,
    told: Option<Instant>,
    /// Packets refused since it was told.
    untold: u64,
}

impl Peer {
    /// Takes another list of what may pass; `None` is what the device says.
    pub(in crate::wireguard) fn set_allow(&mut self, allow: Option<Allow>) {
        self.filtering.allow = allow;
    }

    /// What may pass here instead of what the device says.
    pub(in crate::wireguard) fn own_allow(&self) -> Option<&Allow> {
        self.filtering.allow.as_ref()
    }

    /// Whether a packet may go to the peer; counts it if not.
    #[inline]
    pub(in crate::wireguard) fn lets_out(&mut self, cx: &mut Context<'_>, packet: &[u8]) -> bool {
        // Errors of our own are the kernel's to make.
        let result = self.filter(cx, Way::Out, packet, |_| true);
        result.map_err(|reason| self.drops.count(reason)).is_ok()
    }

    /// Whether a packet of the peer may come in. `is_peers` says whether an address is behind the peer:
    /// it has nothing to say about packets to any other.
    #[inline]
    pub(in crate::wireguard) fn lets_in(
        &mut self,
        cx: &mut Context<'_>,
        packet: &[u8],
        is_peers: impl Fn(IpAddr) -> bool,
    ) -> Result<(), DropReason> {
        self.filter(cx, Way::In, packet, is_peers)
    }

    #[inline]
    fn filter(
        &mut self,
        cx: &mut Context<'_>,
        way: Way,
        packet: &[u8],
        is_far: impl Fn(IpAddr) -> bool,
    ) -> Result<(), DropReason> {
        let Filtering { allow, filter, .. } = &mut self.filtering;
        let Some(allow) = allow.as_ref().or(cx.allow) else { return Ok(()) };
        let Err(refusal) = filter.judge(cx.now, allow, packet, is_far) else { return Ok(()) };
        self.tell(cx, way, packet);
        Err(match (refusal, way) {
            (Refusal::Fragment, _) => DropReason::FilteredFragment,
            (Refusal::NotAllowed, Way::Out) => DropReason::FilteredOut,
            (Refusal::NotAllowed, Way::In) => DropReason::FilteredIn,
        })
    }

    /// Tells the control plane of a refused packet, unless it was told of another one just now.
    fn tell(&mut self, cx: &mut Context<'_>, way: Way, packet: &[u8]) {
        let filtering = &mut self.filtering;
        filtering.untold += 1;
        if filtering.told.is_some_and(|at| cx.now < at + TELL_EVERY) {
            return;
        }
        filtering.told = Some(cx.now);
        let packets = std::mem::take(&mut filtering.untold);
        let what = Headers::of(packet).map(|headers| Refused {
            source: headers.source,
            destination: headers.destination,
            protocol: headers.protocol,
            ports: headers.ports(),
        });
        cx.events.push_back(Event::Filtered { peer: self.public_key, way, packets, what });
    }
}
