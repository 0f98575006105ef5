//! The image keeper's process: the one that has the runtime's socket.
//!
//! A child of the agent like the executor, started before anything hostile is parsed, with the same life: take the setup,
//! close every other descriptor, confine, say [`Ready`], answer one request at a time until the parent is gone. In
//! between it looks at the runtime every [`LOOK_EVERY`], since nobody else remembers when an image was last used.
//!
//! Confinement: no capability at all; Landlock leaves it the folder in which it keeps what it saw, and no other file.
//! Landlock says nothing of sockets that have a path, so that those are bounded by their permissions alone: the runtime's
//! is root's own, and so is the keeper.
//!
//! Invariants: one thread, one request at a time; it looks whether its parent lives before each image.

use std::os::fd::{AsFd, OwnedFd, RawFd};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use dogwatch::wire;
use prost::Message;
use serde::{Deserialize, Serialize};

use super::keeper::{Keeper, Now};
use super::policy::{ImagePolicy, ImageRules};
use crate::act::channel::{Channel, ChannelError};
use crate::act::child::{self, Begun};
use crate::act::confine::{confine_keeper, die_with_parent};
use crate::act::executor::{Halted, Ready, VERSION, news, send_survey};
use crate::act::hold::HoldSet;
use crate::act::hold_line::HeldNow;
use crate::act::real_path::{CleanupRoots, Mounts};
use crate::act::wire::{action_from_wire, action_to_wire, held_from_wire, spent_from_wire};

/// How often it looks who uses what: a container that lives shorter than this is seen while it lies there exited.
const LOOK_EVERY: Duration = Duration::from_secs(60);
/// The folder in the agent's state folder in which it keeps what it saw.
pub const IMAGES_FOLDER: &str = "images";

/// What the image keeper is started with; its first message, as JSON.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(in crate::act) struct ImageSetup {
    version: u32,
    parent: u32,
    policy: ImagePolicy,
    state_dir: PathBuf,
    host_root: PathBuf,
}

impl ImageSetup {
    pub(in crate::act) fn new(policy: ImagePolicy, state_dir: PathBuf, host_root: PathBuf) -> Self {
        Self { version: VERSION, parent: std::process::id(), policy, state_dir, host_root }
    }
}

/// The image keeper's `main`: speaks over the socket `socket`, which it takes over. Returns when the parent has closed its
/// end (success) or speaks nonsense (failure).
///
/// Must be called in a process of its own that has opened nothing else: every other descriptor is closed.
pub fn child_main(socket: RawFd) -> ExitCode {
    child::main("image keeper", socket, serve)
}

impl child::Setup for ImageSetup {
    fn sender(&self) -> (u32, u32) {
        (self.version, self.parent)
    }
}

fn serve(socket: OwnedFd) -> Result<(), String> {
    let Begun { channel, setup, mut lacks } = Begun::<ImageSetup>::new(socket)?;
    let folder = setup.state_dir.join(IMAGES_FOLDER);
    let unable = setup.policy.validate().first().map(ToString::to_string);
    let rules = ImageRules::new(setup.policy).map_err(|e| format!("its policy does not compile: {e}"))?;
    // Before it is confined: the state folder may not be there yet.
    let made = std::fs::create_dir_all(&setup.state_dir)
        .map_err(|e| e.to_string())
        .and_then(|()| dogwatch::identity::create_private_dir(&folder).map_err(|e| e.to_string()))
        .and_then(|()| std::fs::File::open(&folder).map_err(|e| e.to_string()));
    let own = match &made {
        Ok(folder) => Some(folder.as_fd()),
        Err(why) => {
            lacks.push(format!("{}: {why}; images stay young over restarts", folder.display()));
            None
        }
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|e| format!("its runtime: {e}"))?;
    let mounts = Mounts::open(CleanupRoots::default());
    let mut confinement = confine_keeper(own);
    confinement.lacks.extend(lacks);
    // A kernel clears the signal when credentials change.
    die_with_parent(setup.parent)?;
    let ready = Ready::of_child(confinement, unable.clone());
    child::say_ready(&channel, &ready)?;

    let set = HoldSet::Unknown("the image keeper was not told yet".to_owned());
    let held = HeldNow { set, host_root: setup.host_root.clone() };
    let mut keeper = Keeper::new(rules, setup.host_root, folder, held, Box::new(now));
    keeper.mounts = mounts;
    let mut next_look = Instant::now();
    let halted = Halted::default();
    loop {
        let request = match channel.receive(Some(next_look)) {
            Ok(request) => request,
            Err(ChannelError::Closed) => return Ok(()),
            Err(ChannelError::Late) => {
                if unable.is_none() {
                    // What is wrong is told to whoever asks for a survey.
                    let _ = runtime.block_on(keeper.watch());
                }
                next_look = Instant::now() + LOOK_EVERY;
                continue;
            }
            Err(error) => return Err(format!("request: {error}")),
        };
        let request =
            wire::ExecutorRequest::decode(request.as_slice()).map_err(|e| format!("request: {e}"))?;
        match answer(&mut keeper, &runtime, &channel, &halted, request, unable.as_deref()) {
            Ok(()) => {}
            Err(ChannelError::Closed) => return Ok(()),
            Err(error) => return Err(format!("reply: {error}")),
        }
    }
}

fn answer(
    keeper: &mut Keeper,
    runtime: &tokio::runtime::Runtime,
    channel: &Channel,
    halted: &Halted,
    request: wire::ExecutorRequest,
    unable: Option<&str>,
) -> Result<(), ChannelError> {
    use wire::executor_reply::Reply;
    use wire::executor_request::Request;
    let id = request.id;
    let send = |reply: Reply| {
        let reply = wire::ExecutorReply { id, reply: Some(reply) };
        channel.send(&reply.encode_to_vec(), None)
    };
    match (request.request, unable) {
        (Some(Request::Held(held)), _) => {
            keeper.hold(held_from_wire(held));
            Ok(())
        }
        (Some(Request::Stop(stop)), _) => {
            halted.add(stop);
            Ok(())
        }
        (Some(Request::Spent(spent)), _) => {
            keeper.spent(&spent_from_wire(&spent));
            Ok(())
        }
        (_, Some(why)) => send(Reply::Error(why.to_owned())),
        (Some(Request::Survey(wire::Survey { device })), None) => {
            match runtime.block_on(keeper.survey(device)) {
                Err(why) => send(Reply::Error(why)),
                Ok(found) => send_survey(&found, &send),
            }
        }
        (Some(Request::Apply(wire::Apply { plan: Some(plan) })), None) => match action_from_wire(plan) {
            Err(why) => send(Reply::Error(format!("the plan does not make sense: {why}"))),
            Ok(plan) => {
                let id = plan.id.clone();
                let applied = runtime.block_on(keeper.apply(plan, &|| news(channel, halted, &id)));
                send(Reply::Applied(action_to_wire(&applied)))
            }
        },
        (Some(Request::Apply(wire::Apply { plan: None })), None) => {
            send(Reply::Error("no plan to apply".to_owned()))
        }
        (Some(Request::Witnessed(_) | Request::Aside(_) | Request::Restore(_)), None) => {
            send(Reply::Error("that is for the executor of files".to_owned()))
        }
        (None, None) => send(Reply::Error("a request of a newer version".to_owned())),
    }
}

fn now() -> Now {
    let now = dogwatch::clock::now();
    Now { wall_ns: now.wall_ns, boot_ns: now.boot_ns }
}
