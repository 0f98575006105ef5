//! The client of the container runtime interface, v1, over the runtime's socket.
//!
//! Invariants: each call has a deadline, each answer a bound in bytes; a client lives for one request of the agent's, so
//! that a runtime that was started anew is met anew.
//!
//! Deliberately absent: pulling, and anything that touches containers or pods.

use std::path::Path;
use std::time::Duration;

use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;
use tonic::transport::{Channel, Endpoint};
use tonic::{Response, Status};
use tower::service_fn;

use self::wire::image_service_client::ImageServiceClient;
use self::wire::runtime_service_client::RuntimeServiceClient;
use super::inventory::{Inventory, Store, created_wall_ns, images, sandbox_image, stores, users};

/// Generated from `cri.proto`.
pub(super) mod wire {
    #![expect(unreachable_pub, clippy::all, reason = "generated code; its servers are for tests")]
    tonic::include_proto!("runtime.v1");
}

/// Connecting to a socket of this machine.
const CONNECT_WAIT: Duration = Duration::from_secs(5);
/// A list or a figure; the kubelet waits for two minutes, but not before it deletes on a full disk.
const CALL_WAIT: Duration = Duration::from_secs(15);
/// Removal: containerd answers when its collector of garbage is through, which on a slow disk takes its time.
const REMOVE_WAIT: Duration = Duration::from_secs(90);
/// Largest answer. The kubelet takes 16 MiB; two thousand images of 4 KiB of names are 8.
const MAX_ANSWER_BYTES: usize = 8 << 20;

/// Why the runtime did not do or say something.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum CriError {
    /// It cannot be reached, or did not answer: nothing is known of what it did.
    #[error("the runtime did not answer {call}: {why}")]
    Silent {
        /// Which call.
        call: &'static str,
        /// In words.
        why: String,
    },
    /// It answered that it would not.
    #[error("the runtime refused {call}: {why}")]
    Refused {
        /// Which call.
        call: &'static str,
        /// In its words.
        why: String,
    },
    /// Its answer is not to be believed.
    #[error("{0}")]
    Nonsense(String),
}

/// A connection.
#[derive(Debug)]
pub(super) struct Cri {
    runtime: RuntimeServiceClient<Channel>,
    images: ImageServiceClient<Channel>,
}

impl Cri {
    /// Connects to `socket`.
    pub(super) async fn connect(socket: &Path) -> Result<Self, CriError> {
        let silent = |why: String| CriError::Silent { call: "at its socket", why };
        let path = socket.to_owned();
        let connector = service_fn(move |_| {
            let path = path.clone();
            async move { UnixStream::connect(path).await.map(TokioIo::new) }
        });
        // The address is never looked up: the connector knows where to go.
        let endpoint = Endpoint::from_static("http://localhost");
        let connecting = endpoint.connect_with_connector(connector);
        let channel = match tokio::time::timeout(CONNECT_WAIT, connecting).await {
            Ok(Ok(channel)) => channel,
            Ok(Err(e)) => return Err(silent(format!("{}: {}", socket.display(), innermost(&e)))),
            Err(_) => {
                return Err(silent(format!("{}: not within {CONNECT_WAIT:?}", socket.display())));
            }
        };
        Ok(Self {
            runtime: RuntimeServiceClient::new(channel.clone()).max_decoding_message_size(MAX_ANSWER_BYTES),
            images: ImageServiceClient::new(channel).max_decoding_message_size(MAX_ANSWER_BYTES),
        })
    }

    /// Everything that decides what may go. Images are listed before containers: one that comes in between is not listed,
    /// and a container that comes in between is.
    pub(super) async fn look(&mut self) -> Result<Inventory, CriError> {
        let listed = call("ListImages", CALL_WAIT, self.images.list_images(wire::ListImagesRequest {}));
        let images = images(listed.await?.images).map_err(CriError::Nonsense)?;
        let status = self.runtime.status(wire::StatusRequest { verbose: true });
        let info = call("Status", CALL_WAIT, status).await?.info;
        let sandbox_image = info.get("config").and_then(|c| sandbox_image(c));
        let stores = self.stores().await?;
        let users = self.users().await?;
        Ok(Inventory { images, users, sandbox_image, stores })
    }

    async fn users(&mut self) -> Result<Vec<super::inventory::User>, CriError> {
        let listing = self.runtime.list_containers(wire::ListContainersRequest {});
        let listed = call("ListContainers", CALL_WAIT, listing).await?.containers;
        users(listed).map_err(CriError::Nonsense)
    }

    /// Where images lie, and what they take there.
    pub(super) async fn stores(&mut self) -> Result<Vec<Store>, CriError> {
        let asked = self.images.image_fs_info(wire::ImageFsInfoRequest {});
        Ok(stores(call("ImageFsInfo", CALL_WAIT, asked).await?.image_filesystems))
    }

    /// What containers have written to their layers, bytes.
    pub(super) async fn writable_bytes(&mut self) -> Result<u64, CriError> {
        let asked = self.runtime.list_container_stats(wire::ListContainerStatsRequest {});
        let stats = call("ListContainerStats", CALL_WAIT, asked).await?.stats;
        let written = |s: wire::ContainerStats| s.writable_layer?.used_bytes.map(|u| u.value);
        Ok(stats.into_iter().filter_map(written).fold(0, u64::saturating_add))
    }

    /// When the image `id` was made, wall ns; `None` where the runtime does not say.
    pub(super) async fn created(&mut self, id: &str) -> Result<Option<i64>, CriError> {
        let image = Some(wire::ImageSpec { image: id.to_owned() });
        let asked = self.images.image_status(wire::ImageStatusRequest { image, verbose: true });
        let info = call("ImageStatus", CALL_WAIT, asked).await?.info;
        Ok(info.get("info").and_then(|i| created_wall_ns(i)))
    }

    /// Removes the image `id`, with all its names.
    pub(super) async fn remove(&mut self, id: &str) -> Result<(), CriError> {
        let image = Some(wire::ImageSpec { image: id.to_owned() });
        let asked = self.images.remove_image(wire::RemoveImageRequest { image });
        call("RemoveImage", REMOVE_WAIT, asked).await.map(|_| ())
    }
}

async fn call<T>(
    call: &'static str,
    wait: Duration,
    asked: impl Future<Output = Result<Response<T>, Status>>,
) -> Result<T, CriError> {
    use tonic::Code;
    match tokio::time::timeout(wait, asked).await {
        Ok(Ok(answer)) => Ok(answer.into_inner()),
        Ok(Err(status)) => {
            let said: String = status.message().chars().filter(|c| !c.is_control()).take(300).collect();
            let why = format!("{:?}: {said}", status.code());
            // What tonic itself says of a broken connection.
            match status.code() {
                Code::Unavailable | Code::Cancelled | Code::DeadlineExceeded | Code::Unknown => {
                    Err(CriError::Silent { call, why })
                }
                Code::OutOfRange | Code::Internal | Code::DataLoss => {
                    Err(CriError::Nonsense(format!("the runtime's answer to {call} cannot be used: {why}")))
                }
                _ => Err(CriError::Refused { call, why }),
            }
        }
        Err(_) => Err(CriError::Silent { call, why: format!("not within {} s", wait.as_secs()) }),
    }
}

/// The cause at the end of the chain, which is the one that names it.
fn innermost(error: &dyn std::error::Error) -> String {
    let mut last = error;
    while let Some(next) = last.source() {
        last = next;
    }
    last.to_string()
}
