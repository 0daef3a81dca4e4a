//! Messages on their way out, back to back in one buffer that is reused: datagrams to the underlay with
//! their endpoints, and packets to the overlay. Nothing is allocated once the buffers have grown to the
//! size of the largest batch.

use std::ops::Range;

/// A queue of byte strings, each with a tag, written in place and read in order.
pub(super) struct Outbox<T> {
    bytes: Vec<u8>,
    used: usize,
    entries: Vec<(T, Range<usize>)>,
    next: usize,
}

impl<T: Copy> Outbox<T> {
    pub(super) fn new() -> Self {
        Self { bytes: Vec::new(), used: 0, entries: Vec::new(), next: 0 }
    }

    /// Room for one more entry; it counts once [`Outbox::push`] is called.
    pub(super) fn place(&mut self, len: usize) -> &mut [u8] {
        let end = self.used + len;
        if self.bytes.len() < end {
            self.bytes.resize(end, 0);
        }
        self.bytes.get_mut(self.used..end).unwrap_or_default()
    }

    /// Queues the first `len` bytes of the place given last.
    pub(super) fn push(&mut self, tag: T, len: usize) {
        let end = (self.used + len).min(self.bytes.len());
        self.entries.push((tag, self.used..end));
        self.used = end;
    }

    /// The oldest entry that was not yet read. Once all were read the room is used again.
    pub(super) fn pop(&mut self) -> Option<(T, &[u8])> {
        let Some((tag, range)) = self.entries.get(self.next).cloned() else {
            self.entries.clear();
            self.next = 0;
            self.used = 0;
            return None;
        };
        self.next += 1;
        Some((tag, self.bytes.get(range).unwrap_or_default()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_come_out_in_order_and_the_room_is_used_again() {
        let mut outbox = Outbox::new();
        for round in 0..3u8 {
            for i in 0..10u8 {
                outbox.place(100)[..2].copy_from_slice(&[round, i]);
                outbox.push(i, 2);
            }
            for i in 0..10u8 {
                assert_eq!(outbox.pop(), Some((i, &[round, i][..])));
            }
            assert_eq!(outbox.pop(), None);
            assert_eq!(outbox.bytes.len(), 118);
        }
    }
}
