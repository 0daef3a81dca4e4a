//! Neighbours that the kernel asks for in vain: who has this address on this link?
//!
//! One request of the daemon's. What is known, or was made by hand, is never touched.

use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::neighbour::{NeighbourAttribute, NeighbourMessage, NeighbourState};

use super::{Netlink, NetlinkError};

impl Netlink {
    /// Forgets the neighbours on an interface that have not answered, so that the next packet to each asks
    /// anew; says how many there were.
    ///
    /// # Errors
    ///
    /// `EPERM` without `CAP_NET_ADMIN`.
    pub fn forget_silent_neighbours(&mut self, index: u32) -> Result<usize, NetlinkError> {
        let request = RouteNetlinkMessage::GetNeighbour(NeighbourMessage::default());
        let answers = self.dump(format_args!("list the neighbours"), request)?;
        let mut forgotten = 0;
        for answer in answers {
            if let RouteNetlinkMessage::NewNeighbour(neighbour) = answer
                && neighbour.header.ifindex == index
                && neighbour.header.state == NeighbourState::Incomplete
            {
                self.forget(index, neighbour)?;
                forgotten += 1;
            }
        }
        Ok(forgotten)
    }

    fn forget(&mut self, index: u32, neighbour: NeighbourMessage) -> Result<(), NetlinkError> {
        let mut message = NeighbourMessage::default();
        message.header.family = neighbour.header.family;
        message.header.ifindex = index;
        let addresses = neighbour.attributes.into_iter();
        message.attributes = addresses
            .filter(|attribute| matches!(attribute, NeighbourAttribute::Destination(_)))
            .collect();
        let what = format_args!("forget a silent neighbour on interface {index}");
        match self.command(what, RouteNetlinkMessage::DelNeighbour(message), 0) {
            // It has answered or was given up meanwhile.
            Err(error) if matches!(error.errno(), Some(libc::ENOENT | libc::ENXIO)) => Ok(()),
            result => result,
        }
    }
}
