//! How the agent's children begin: executor and image keeper.
//!
//! Each is started before anything hostile is parsed, with a socket and nothing else. It closes every other descriptor,
//! takes its setup, ends with its parent from then on, confines itself, and says [`Ready`].
//!
//! Deliberately absent: what each is confined to, and what it answers.

use std::os::fd::{AsFd, FromRawFd, OwnedFd, RawFd};
use std::process::ExitCode;

use serde::de::DeserializeOwned;

use super::channel::Channel;
use super::confine::{close_other_descriptors, die_with_parent};
use super::executor::{Ready, VERSION};

/// What a child is started with; its first message, as JSON.
pub(super) trait Setup: DeserializeOwned {
    /// Its version, and the process that it comes from.
    fn sender(&self) -> (u32, u32);
}

/// A child that has begun and is not confined yet.
pub(super) struct Begun<S> {
    pub(super) channel: Channel,
    pub(super) setup: S,
    /// What of its confinement did not come about.
    pub(super) lacks: Vec<String>,
}

/// The `main` of the child that people know as `who`: `serve` speaks over the socket, which it takes over, until the parent
/// has closed its end (success) or something fails.
///
/// Must be called in a process of its own that has opened nothing else: every other descriptor is closed.
pub(super) fn main(who: &str, socket: RawFd, serve: fn(OwnedFd) -> Result<(), String>) -> ExitCode {
    // SAFETY: by contract this process was handed `socket`, and nobody else in it uses the number.
    let socket = unsafe { OwnedFd::from_raw_fd(socket) };
    match serve(socket) {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            dogwatch::telemetry::say(&format!("dogwatch {who}: {why}"));
            ExitCode::FAILURE
        }
    }
}

impl<S: Setup> Begun<S> {
    /// Closes what else is open, takes the setup, and ends with its sender from now on.
    pub(super) fn new(socket: OwnedFd) -> Result<Self, String> {
        let mut lacks = Vec::new();
        if let Err(error) = close_other_descriptors(socket.as_fd()) {
            lacks.push(format!("other descriptors: {error}"));
        }
        let channel = Channel::from_socket(socket).map_err(|e| format!("its socket: {e}"))?;
        let setup = channel.receive(None).map_err(|e| format!("no setup: {e}"))?;
        let setup: S = serde_json::from_slice(&setup).map_err(|e| format!("setup: {e}"))?;
        let (version, parent) = setup.sender();
        if version != VERSION {
            return Err(format!("setup of version {version}, not {VERSION}: agent and child differ"));
        }
        die_with_parent(parent)?;
        Ok(Self { channel, setup, lacks })
    }
}

/// Says that it is confined, and how. From then on it answers.
pub(super) fn say_ready(channel: &Channel, ready: &Ready) -> Result<(), String> {
    let ready = serde_json::to_vec(ready).map_err(|e| format!("status: {e}"))?;
    channel.send(&ready, None).map_err(|e| format!("its status could not be sent: {e}"))
}
