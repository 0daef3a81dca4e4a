//! Where packets come from and go to. What the device has ready leaves here: datagrams to the underlay,
//! packets to the overlay, events to the control plane. One that fails is counted and stops no other.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use tokio::sync::mpsc::UnboundedSender;
use tracing::trace;

use super::Notice;
use crate::sys::epoll::{Epoll, Ready};
use crate::sys::poll::Waker;
use crate::sys::tun::Tun;
use crate::sys::udp::{self, Family, SOCKETS, Sent, Udp};
use crate::wireguard::{Device, Transmit};

/// Numbers of what is waited for, in the order in which it is attended to; the sockets have those below.
pub(super) const OVERLAY: u32 = Epoll::NUMBERS - 2;
pub(super) const CONTROL_PLANE: u32 = Epoll::NUMBERS - 1;
const _: () = assert!(SOCKETS <= OVERLAY as usize);

/// How often the control plane hears, at most, that the TUN is down.
const DOWN_INTERVAL: Duration = Duration::from_secs(1);

/// Where packets come from and go to, and who hears what happened.
pub(super) struct Ports {
    udp: Udp,
    tun: Option<Tun>,
    notices: UnboundedSender<Notice>,
    /// Has the sockets and the TUN that are here, and the control plane's waker.
    epoll: Epoll,
    /// A packet was written to the overlay.
    has_written: bool,
    /// When the control plane was last told that the TUN is down.
    told_down: Option<Instant>,
}

impl Ports {
    /// These, and the control plane's waker to be waited for as well.
    pub(super) fn new(
        udp: Udp,
        tun: Option<Tun>,
        waker: &Waker,
        notices: UnboundedSender<Notice>,
    ) -> io::Result<Self> {
        let epoll = Epoll::new()?;
        epoll.add(waker.as_fd(), CONTROL_PLANE)?;
        let mut ports = Self {
            udp: Udp::closed(0),
            tun: None,
            notices,
            epoll,
            has_written: false,
            told_down: None,
        };
        ports.set_udp(udp)?;
        ports.set_tun(tun)?;
        Ok(ports)
    }

    pub(super) fn udp(&self) -> &Udp {
        &self.udp
    }

    pub(super) fn tun(&self) -> Option<&Tun> {
        self.tun.as_ref()
    }

    /// Takes other sockets; those before are closed. They stay when an error comes.
    pub(super) fn set_udp(&mut self, udp: Udp) -> io::Result<()> {
        for (index, fd) in udp.fds() {
            self.epoll.add(fd, index as u32)?;
        }
        self.udp.fds().for_each(|(_, fd)| self.epoll.remove(fd));
        self.udp = udp;
        Ok(())
    }

    /// Takes another TUN or none; the one before is closed. It stays when an error comes.
    pub(super) fn set_tun(&mut self, tun: Option<Tun>) -> io::Result<()> {
        if let Some(tun) = &tun {
            self.epoll.add(tun.as_fd(), OVERLAY)?;
        }
        if let Some(before) = std::mem::replace(&mut self.tun, tun) {
            self.epoll.remove(before.as_fd());
        }
        Ok(())
    }

    /// Whether something was written to the overlay since the last call.
    pub(super) fn take_has_written(&mut self) -> bool {
        std::mem::take(&mut self.has_written)
    }

    /// Waits for any of it, or until the time is over.
    pub(super) fn wait(&self, timeout: Option<Duration>) -> io::Result<Ready> {
        self.epoll.wait(timeout)
    }

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
            let tun = self.tun.as_ref();
            match tun.map(|tun| tun.send(&packet.header, packet.parts())) {
                Some(Ok(())) => self.has_written = true,
                failed => {
                    let packets = packet.packets();
                    device.packets_failed(packets);
                    if let Some(Err(error)) = failed {
                        self.not_written(now, &error);
                    }
                }
            }
        }
        while let Some(event) = device.poll_event() {
            self.notify(Notice::Peer(event));
        }
    }

    #[cold]
    fn not_written(&mut self, now: Instant, error: &io::Error) {
        trace!(%error, "TUN write failed");
        let is_down = error.raw_os_error() == Some(libc::EIO);
        let is_news = self.told_down.is_none_or(|told| now >= told + DOWN_INTERVAL);
        if is_down && is_news {
            self.told_down = Some(now);
            self.notify(Notice::TunDown);
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

/// Sends datagrams with one system call, or one by one where the path does not take them so. What a full
/// socket buffer does not take is dropped, as the kernel's WireGuard drops what the queue of a link does not
/// take: what waited for it would make all other peers wait.
fn send(udp: &mut Udp, transmit: &Transmit<'_>) -> Outcome {
    let Transmit { to, ecn, segment_size, .. } = transmit;
    let mut outcome = Outcome::default();
    let mut note = |contents: &[u8], datagrams: usize| {
        let result = match transmit.peer {
            Some(_) => udp.send(to, *ecn, contents, *segment_size),
            None => udp.send_shared(to, *ecn, contents, *segment_size),
        };
        match result {
            Ok(sent) => outcome.source_gone |= sent == Sent::WithoutSource,
            Err(error) if datagrams > 1 && udp::refuses_segmentation(&error) => return false,
            Err(error) => {
                trace!(%error, to = %to.address, "send failed");
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
