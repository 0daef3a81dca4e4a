//! What the network driver asks the helper for: an interface that the engine moves into a container.
//!
//! The same way as in attacher.rs, and the same bounds. The work is done by `attach::sandbox`, each time in the
//! network namespace in which the TUN that comes along is by then.

use std::collections::BTreeSet;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::attacher::{Answer, Attacher, Refused, Request, unexpected};
use crate::sys::attach::sandbox::{self, Finished};
use crate::sys::attach::{AttachError, AttachRequest};
use crate::sys::guard::Guard;
use crate::sys::interface::TunWatch;
use crate::sys::tun::Tun;

/// One request; all but the first and the last but one come with a TUN.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Wish {
    Prepare(AttachRequest),
    Close(AttachRequest),
    Finish(AttachRequest, BTreeSet<IpNet>),
    Reshape(Finished, AttachRequest),
    AttachIn(PathBuf, AttachRequest),
    AdoptThere(AttachRequest),
}

/// What became of it.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Fulfilled {
    /// With the TUN.
    Prepared(u32),
    Closed(Guard),
    /// With the TUN, when it was made or adopted. None when the engine is not done.
    Finished(Option<Finished>),
}

impl Attacher {
    /// As [`sandbox::prepare`].
    ///
    /// # Errors
    ///
    /// [`Refused`].
    pub fn prepare(&self, request: &AttachRequest) -> Result<(Tun, u32), Refused> {
        match self.wish(Wish::Prepare(request.clone()), None)? {
            (Fulfilled::Prepared(index), Some(tun)) => Ok((tun, index)),
            other => Err(unexpected(&other)),
        }
    }

    /// As [`sandbox::close`].
    ///
    /// # Errors
    ///
    /// [`Refused`].
    pub fn close(&self, watch: &TunWatch, request: &AttachRequest) -> Result<Guard, Refused> {
        match self.wish(Wish::Close(request.clone()), Some(watch))? {
            (Fulfilled::Closed(guard), _) => Ok(guard),
            other => Err(unexpected(&other)),
        }
    }

    /// As [`sandbox::finish`].
    ///
    /// # Errors
    ///
    /// [`Refused`].
    pub fn finish(
        &self,
        watch: &TunWatch,
        request: &AttachRequest,
        told: &BTreeSet<IpNet>,
    ) -> Result<Option<Finished>, Refused> {
        match self.wish(Wish::Finish(request.clone(), told.clone()), Some(watch))? {
            (Fulfilled::Finished(finished), _) => Ok(finished),
            other => Err(unexpected(&other)),
        }
    }

    /// As [`sandbox::reshape`].
    ///
    /// # Errors
    ///
    /// [`Refused`].
    pub fn reshape(
        &self,
        watch: &TunWatch,
        was: &Finished,
        request: &AttachRequest,
    ) -> Result<Finished, Refused> {
        match self.wish(Wish::Reshape(was.clone(), request.clone()), Some(watch))? {
            (Fulfilled::Finished(Some(finished)), _) => Ok(finished),
            other => Err(unexpected(&other)),
        }
    }

    /// As [`sandbox::attach_in`].
    ///
    /// # Errors
    ///
    /// [`Refused`].
    pub fn attach_in(
        &self,
        place: &Path,
        request: &AttachRequest,
    ) -> Result<(Tun, Finished), Refused> {
        made(self.wish(Wish::AttachIn(place.to_owned(), request.clone()), None)?)
    }

    /// As [`sandbox::adopt_there`].
    ///
    /// # Errors
    ///
    /// [`Refused`].
    pub fn adopt_there(
        &self,
        tun: OwnedFd,
        request: &AttachRequest,
    ) -> Result<(Tun, Finished), Refused> {
        let watch = TunWatch::of(&tun).map_err(|error| Refused::new(&error))?;
        drop(tun);
        let adopted = self.wish(Wish::AdoptThere(request.clone()), Some(&watch));
        drop(watch);
        made(adopted?)
    }

    fn wish(
        &self,
        wish: Wish,
        tun: Option<&TunWatch>,
    ) -> Result<(Fulfilled, Option<Tun>), Refused> {
        match self.ask(&Request::InContainer(wish), tun.map(AsFd::as_fd))? {
            (Answer::InContainer(fulfilled), tun) => {
                let tun = tun.map(Tun::from_claimed).transpose();
                Ok((fulfilled, tun.map_err(|error| Refused::new(&error))?))
            }
            other => Err(unexpected(&other)),
        }
    }
}

fn made(fulfilled: (Fulfilled, Option<Tun>)) -> Result<(Tun, Finished), Refused> {
    match fulfilled {
        (Fulfilled::Finished(Some(finished)), Some(tun)) => Ok((tun, finished)),
        other => Err(unexpected(&other)),
    }
}

/// Does what the driver asks for.
pub(super) fn fulfil(wish: Wish, tun: Option<OwnedFd>) -> Result<(Answer, Option<Tun>), Refused> {
    let watch = || match &tun {
        Some(tun) => TunWatch::of(tun).map_err(|error| Refused::new(&error)),
        None => Err(Refused::new(&"no TUN came with the request")),
    };
    let said = |fulfilled| (Answer::InContainer(fulfilled), None);
    let finished = |finished| said(Fulfilled::Finished(finished));
    let refused = |error: AttachError| Refused::from(error);
    match wish {
        Wish::Prepare(request) => sandbox::prepare(&request)
            .map(|(tun, index)| (Answer::InContainer(Fulfilled::Prepared(index)), Some(tun)))
            .map_err(refused),
        Wish::Close(request) => sandbox::close(&watch()?, &request)
            .map(|guard| said(Fulfilled::Closed(guard)))
            .map_err(refused),
        Wish::Finish(request, told) => {
            sandbox::finish(&watch()?, &request, &told).map(finished).map_err(refused)
        }
        Wish::Reshape(was, request) => sandbox::reshape(&watch()?, &was, &request)
            .map(|done| finished(Some(done)))
            .map_err(refused),
        Wish::AttachIn(place, request) => sandbox::attach_in(place, &request)
            .map(|(made, done)| (finished(Some(done)).0, Some(made.tun)))
            .map_err(refused),
        Wish::AdoptThere(request) => {
            let tun = tun.ok_or_else(|| Refused::new(&"no TUN came with the request"))?;
            sandbox::adopt_there(tun, &request)
                .map(|(made, done)| (finished(Some(done)).0, Some(made.tun)))
                .map_err(refused)
        }
    }
}
