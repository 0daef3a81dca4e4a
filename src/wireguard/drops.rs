//! Why a packet was not delivered: one enum, which is also the metric's label, the word in `status`
//! and the row in the README.

use serde::Serialize;

macro_rules! drop_reasons {
    ($($(#[doc = $doc:literal])+ $name:ident = $label:literal,)+) => {
        /// Why a packet was not delivered.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum DropReason {
            $($(#[doc = $doc])+ $name,)+
        }

        impl DropReason {
            /// Every reason, in the order in which they are shown.
            pub const ALL: &[DropReason] = &[$(DropReason::$name,)+];

            /// The word for it in metrics, `status` and the README.
            pub fn label(self) -> &'static str {
                match self {
                    $(DropReason::$name => $label,)+
                }
            }
        }
    };
}

drop_reasons! {
    /// From the TUN: neither an IPv4 nor an IPv6 packet, or one whose length field is wrong.
    MalformedPacket = "malformed_packet",
    /// From the TUN: the destination is in no peer's allowed IPs.
    NoPeer = "no_peer",
    /// From the TUN: a datagram of our own; the route to an endpoint leads into the tunnel itself.
    RoutingLoop = "routing_loop",
    /// From the TUN: the peer has no endpoint, and none of its packets has told us one.
    NoEndpoint = "no_endpoint",
    /// From the TUN: the peer had no session, and too many packets were already staged for it.
    StagedOverflow = "staged_overflow",
    /// From the TUN: staged for a session that did not come in time.
    StagedExpired = "staged_expired",
    /// From the TUN: a large packet (up to 64 KiB of one connection) that would have waited too long; the
    /// machine is too busy to seal it.
    Backlog = "backlog",
    /// To the underlay: the kernel refused the datagram (no route, too large, buffer full).
    SendFailed = "send_failed",
    /// To the TUN: the kernel refused the packet (interface down or gone).
    TunWriteFailed = "tun_write_failed",
    /// From the underlay: no WireGuard message by its type and length.
    MalformedMessage = "malformed_message",
    /// From the underlay: a handshake message whose mac1 is not made for our public key.
    InvalidMac = "invalid_mac",
    /// From the underlay: a handshake message while under load, answered with a cookie reply.
    UnderLoad = "under_load",
    /// From the underlay: a valid initiation by a key that is no peer of ours.
    UnknownPeer = "unknown_peer",
    /// From the underlay: a handshake message that does not authenticate.
    InvalidHandshake = "invalid_handshake",
    /// From the underlay: an initiation with a timestamp that is not newer than the last one seen: a
    /// replay, or the peer's clock was set back.
    ReplayedHandshake = "replayed_handshake",
    /// From the underlay: a receiver index that belongs to no session or handshake of ours.
    UnknownIndex = "unknown_index",
    /// From the underlay: transport data of a session past its 180 s or its counter's end.
    SessionExpired = "session_expired",
    /// From the underlay: transport data that does not authenticate.
    InvalidTag = "invalid_tag",
    /// From the underlay: transport data with a counter seen before or too old for the replay window.
    Replayed = "replayed",
    /// From a peer: what it sealed is neither an IPv4 nor an IPv6 packet.
    MalformedInner = "malformed_inner",
    /// From a peer: a congested router marked a packet whose transport does not understand the mark, and
    /// must learn of it by this loss (RFC 6040).
    CongestionMarked = "congestion_marked",
    /// From a peer: the inner source is not in its allowed IPs.
    DisallowedSource = "disallowed_source",
    /// From the TUN: the filter does not let it to that peer.
    FilteredOut = "filtered_out",
    /// From a peer: the filter does not let it in.
    FilteredIn = "filtered_in",
    /// From either side: a fragment that hides its ports, or that continues none which the filter let pass.
    FilteredFragment = "filtered_fragment",
}

/// Packets dropped, counted by reason.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Drops([u64; DropReason::ALL.len()]);

impl Drops {
    /// Counts one more packet.
    pub fn count(&mut self, reason: DropReason) {
        self.add(reason, 1);
    }

    /// Counts so many more packets.
    pub fn add(&mut self, reason: DropReason, packets: usize) {
        if let Some(counter) = self.0.get_mut(reason as usize) {
            *counter += packets as u64;
        }
    }

    /// Packets dropped for this reason.
    pub fn get(&self, reason: DropReason) -> u64 {
        self.0.get(reason as usize).copied().unwrap_or(0)
    }

    /// Packets dropped for any reason.
    pub fn total(&self) -> u64 {
        self.0.iter().sum()
    }

    /// Every reason with its count, zeros included.
    pub fn iter(&self) -> impl Iterator<Item = (DropReason, u64)> + '_ {
        DropReason::ALL.iter().map(|&reason| (reason, self.get(reason)))
    }
}

impl Serialize for Drops {
    /// A map from label to count, zeros included.
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.iter().map(|(reason, count)| (reason.label(), count)))
    }
}
