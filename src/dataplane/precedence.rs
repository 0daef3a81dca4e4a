//! Who goes first among datagrams that were received together: one that gossip may be, before the many that
//! a transfer is. Which flow is inside cannot be seen before they are opened, but a flow has one sender: so
//! datagrams of one sender keep their order, and those of another one need not wait for them.

use std::net::SocketAddr;

/// What was received with so many bytes or fewer is small.
const SMALL: usize = 2048;

/// Whether something small, from `sender` and with `len` bytes, goes before what is large in its batch;
/// `earlier` is what came before it there.
pub(super) fn goes_first(
    sender: SocketAddr,
    len: usize,
    mut earlier: impl Iterator<Item = (SocketAddr, usize)>,
) -> bool {
    len <= SMALL && !earlier.any(|(other, len)| other == sender && len > SMALL)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The order in which a batch of senders and lengths is handled.
    fn order(batch: &[(u16, usize)]) -> Vec<usize> {
        let batch: Vec<(SocketAddr, usize)> =
            batch.iter().map(|(port, len)| (([192, 0, 2, 1], *port).into(), *len)).collect();
        let first = |index: usize| {
            let (sender, len) = batch[index];
            goes_first(sender, len, batch[..index].iter().copied())
        };
        let (mut order, rest): (Vec<_>, Vec<_>) = (0..batch.len()).partition(|&index| first(index));
        order.extend(rest);
        order
    }

    /// A datagram shorter than those before it, as the last of a burst is, came out before all of them.
    #[test]
    fn the_short_end_of_a_burst_stays_its_end() {
        assert_eq!(order(&[(1, 65_000), (1, 65_000), (1, 300)]), [0, 1, 2]);
        assert_eq!(order(&[(1, 300), (1, 65_000), (1, 100), (1, 200)]), [0, 1, 2, 3]);
    }

    #[test]
    fn what_is_small_passes_by_what_another_sender_has_sent() {
        assert_eq!(
            order(&[(1, 65_000), (2, 300), (1, 300), (2, 2048), (3, 2049)]),
            [1, 3, 0, 2, 4]
        );
    }
}
