//! Where packets come from and go to. What the device has ready leaves here: datagrams to the underlay,
//! packets to the overlay, events to the control plane. One that fails is counted and stops no other.

use std::io;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use tokio::sync::mpsc::UnboundedSender;
use tracing::trace;

use super::Notice;
use crate::sys::poll;
use crate::sys::tun::Tun;
use crate::sys::udp::{self, Family, Sent, Udp};
use crate::wireguard::{Device, Transmit};

/// How long a full socket buffer may hold up the loop before the datagram is dropped.
const SEND_PATIENCE: Duration = Duration::from_millis(10);

/// Where packets come from and go to, and who hears what happened.
pub(super) struct Ports {
    pub(super) udp: Udp,
    pub(super) tun: Option<Tun>,
    pub(super) notices: UnboundedSender<Notice>,
}

impl Ports {
    /// Sends on everything that the device has ready.
    pub(super) fn drain(&mut self, device: &mut Device, now: Instant) {
        while let Some(transmit) = device.poll_transmit() {
            let peer = transmit.peer;
            let Outcome { source_gone, segmentation_refused, failed, failed_bytes } =
                send(&mut self.udp, &transmit);
            if source_gone {
                device.source_gone(peer);
            }
            if segmentation_refused {
                device.segmentation_refused(now, peer);
            }
            if failed > 0 {
                device.transmit_failed(now, peer, failed, failed_bytes);
            }
        }
        while let Some(packet) = device.poll_packet() {
            let written = self
                .tun
                .as_ref()
                .is_some_and(|tun| tun.send(&packet.header, packet.parts()).is_ok());
            if !written {
                let packets = packet.packets();
                device.packets_failed(packets);
            }
        }
        while let Some(event) = device.poll_event() {
            self.notify(Notice::Peer(event));
        }
    }

    /// Copies of the sockets' descriptors, those that are to be had.
    pub(super) fn underlay(&self) -> Vec<(Family, OwnedFd)> {
        let socket = |family| Some((family, self.udp.fd(family)?.try_clone_to_owned().ok()?));
        [Family::V4, Family::V6].into_iter().filter_map(socket).collect()
    }

    pub(super) fn notify(&self, notice: Notice) {
        // Without a control plane there is nobody to tell; the Stop command is on its way.
        let _ = self.notices.send(notice);
    }
}

/// What became of datagrams that were sent.
#[derive(Debug, Default)]
struct Outcome {
    /// The sticky source is gone.
    source_gone: bool,
    /// They had to be sent one by one.
    segmentation_refused: bool,
    /// So many were not sent, with so many bytes.
    failed: usize,
    failed_bytes: usize,
}

/// Sends datagrams with one system call, or one by one where the path does not take them so.
fn send(udp: &mut Udp, transmit: &Transmit<'_>) -> Outcome {
    let mut outcome = Outcome::default();
    let mut note = |contents: &[u8], datagrams: usize| {
        match send_patiently(udp, transmit, contents) {
            Ok(sent) => outcome.source_gone |= sent == Sent::WithoutSource,
            Err(error) if datagrams > 1 && udp::refuses_segmentation(&error) => return false,
            Err(error) => {
                trace!(%error, to = %transmit.to.address, "send failed");
                outcome.failed += datagrams;
                outcome.failed_bytes += contents.len();
            }
        }
        true
    };
    if !note(transmit.contents, transmit.datagrams().len()) {
        for datagram in transmit.datagrams() {
            note(datagram, 1);
        }
        outcome.segmentation_refused = true;
    }
    outcome
}

/// Sends; a full socket buffer is waited for, but not for long.
fn send_patiently(udp: &mut Udp, transmit: &Transmit<'_>, contents: &[u8]) -> io::Result<Sent> {
    loop {
        let Transmit { to, ecn, segment_size, .. } = transmit;
        let result = match transmit.peer {
            Some(_) => udp.send(to, *ecn, contents, *segment_size),
            None => udp.send_shared(to, *ecn, contents, *segment_size),
        };
        match result {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                let family = Family::of(&transmit.to.address);
                let Some(fd) = udp.fd(family) else { return Err(error) };
                if !poll::writable(fd, SEND_PATIENCE)? {
                    return Err(error);
                }
            }
            result => return result,
        }
    }
}
