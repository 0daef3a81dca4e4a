//! Datagrams on their way to the underlay with their endpoints, back to back in one buffer that is reused.
//! Nothing is allocated once the buffer has grown to the size of the largest batch.

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

    /// The oldest entry that was not yet read, with those behind it that `joins` lets leave together with
    /// it: up to `most` of the same length, or shorter for the last, in no more than `most_bytes`. Its tag,
    /// all their bytes, and how many each has. Once all were read the room is used again.
    pub(super) fn pop_run(
        &mut self,
        most: usize,
        most_bytes: usize,
        joins: impl Fn(&T, &T) -> bool,
    ) -> Option<(T, &[u8], usize)> {
        let unread = self.entries.get(self.next..).unwrap_or_default();
        let Some(((tag, first), rest)) = unread.split_first() else {
            self.clear();
            return None;
        };
        let (mut end, mut taken) = (first.end, 1);
        for (other, range) in rest.iter().take(most.saturating_sub(1)) {
            let fits = range.len() <= first.len() && range.end - first.start <= most_bytes;
            if !fits || !joins(tag, other) {
                break;
            }
            (end, taken) = (range.end, taken + 1);
            if range.len() < first.len() {
                break;
            }
        }
        self.next += taken;
        let bytes = self.bytes.get(first.start..end).unwrap_or_default();
        Some((*tag, bytes, first.len()))
    }

    /// Forgets all entries: the room is used again.
    fn clear(&mut self) {
        self.entries.clear();
        self.next = 0;
        self.used = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn push<T: Copy>(outbox: &mut Outbox<T>, tag: T, bytes: &[u8]) {
        outbox.place(bytes.len() + 32)[..bytes.len()].copy_from_slice(bytes);
        outbox.push(tag, bytes.len());
    }

    #[test]
    fn entries_come_out_in_order_and_the_room_is_used_again() {
        let mut outbox = Outbox::new();
        for round in 0..3u8 {
            for i in 0..10u8 {
                push(&mut outbox, i, &[round, i]);
            }
            for i in 0..10u8 {
                let alone = outbox.pop_run(64, 1000, |_, _| false);
                assert_eq!(alone, Some((i, &[round, i][..], 2)));
            }
            assert_eq!(outbox.pop_run(64, 1000, |_, _| false), None);
            assert_eq!(outbox.bytes.len(), 52);
        }
    }

    #[test]
    fn what_leaves_together_has_one_tag_and_one_length_but_for_the_last() {
        let mut outbox = Outbox::new();
        for (tag, bytes) in
            [(1, "aaa"), (1, "bbb"), (1, "c"), (1, "ddd"), (2, "eee"), (2, "f"), (2, "gg")]
        {
            push(&mut outbox, tag, bytes.as_bytes());
        }
        let mut pop = || {
            let (tag, bytes, each) = outbox.pop_run(64, 1000, |a, b| a == b)?;
            Some((tag, String::from_utf8_lossy(bytes).into_owned(), each))
        };
        assert_eq!(pop(), Some((1, "aaabbbc".into(), 3)));
        assert_eq!(pop(), Some((1, "ddd".into(), 3)));
        assert_eq!(pop(), Some((2, "eeef".into(), 3)));
        assert_eq!(pop(), Some((2, "gg".into(), 2)));
        assert_eq!(pop(), None);
    }

    #[test]
    fn no_more_leaves_together_than_the_kernel_takes() {
        let mut outbox = Outbox::new();
        for _ in 0..7 {
            push(&mut outbox, (), b"1234");
        }
        let mut lengths = |most, most_bytes| {
            outbox.pop_run(most, most_bytes, |_, _| true).map(|(_, bytes, _)| bytes.len())
        };
        assert_eq!(lengths(2, 1000), Some(8));
        assert_eq!(lengths(64, 15), Some(12));
        assert_eq!(lengths(64, 3), Some(4), "one always goes");
        assert_eq!(lengths(1, 1000), Some(4));
        assert_eq!(lengths(1, 1000), None);
    }
}
