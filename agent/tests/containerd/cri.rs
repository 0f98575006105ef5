//! Pods and containers through CRI, as a kubelet makes them: messages with the field numbers of k8s.io/cri-api,
//! pkg/apis/runtime/v1/api.proto.

use std::collections::HashMap;
use std::path::Path;

use hyper_util::rt::TokioIo;
use prost::Message;
use tokio::net::UnixStream;
use tonic::client::Grpc;
use tonic::codegen::http::uri::PathAndQuery;
use tonic::transport::{Channel, Endpoint};
use tonic_prost::ProstCodec;

#[derive(Clone, PartialEq, Message)]
struct Nothing {}
#[derive(Clone, PartialEq, Message)]
struct Id {
    #[prost(string, tag = "1")]
    id: String,
}
#[derive(Clone, PartialEq, Message)]
struct Stop {
    #[prost(string, tag = "1")]
    id: String,
    #[prost(int64, tag = "2")]
    timeout: i64,
}
#[derive(Clone, PartialEq, Message)]
struct Metadata {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(string, tag = "2")]
    uid: String,
    #[prost(string, tag = "3")]
    namespace: String,
}
#[derive(Clone, PartialEq, Message)]
struct Namespaces {
    #[prost(int32, tag = "1")]
    network: i32,
}
#[derive(Clone, PartialEq, Message)]
struct Security {
    #[prost(message, optional, tag = "1")]
    namespaces: Option<Namespaces>,
}
#[derive(Clone, PartialEq, Message)]
struct LinuxPod {
    #[prost(string, tag = "1")]
    cgroup_parent: String,
    #[prost(message, optional, tag = "2")]
    security: Option<Security>,
}
#[derive(Clone, PartialEq, Message)]
pub struct PodConfig {
    #[prost(message, optional, tag = "1")]
    metadata: Option<Metadata>,
    #[prost(string, tag = "3")]
    log_directory: String,
    #[prost(map = "string, string", tag = "6")]
    labels: HashMap<String, String>,
    #[prost(message, optional, tag = "8")]
    linux: Option<LinuxPod>,
}
#[derive(Clone, PartialEq, Message)]
struct RunPod {
    #[prost(message, optional, tag = "1")]
    config: Option<PodConfig>,
}
#[derive(Clone, PartialEq, Message)]
struct Name {
    #[prost(string, tag = "1")]
    name: String,
}
#[derive(Clone, PartialEq, Message)]
struct ContainerConfig {
    #[prost(message, optional, tag = "1")]
    metadata: Option<Name>,
    #[prost(message, optional, tag = "2")]
    image: Option<Name>,
    #[prost(map = "string, string", tag = "9")]
    labels: HashMap<String, String>,
    #[prost(message, optional, tag = "15")]
    linux: Option<LinuxContainer>,
}
#[derive(Clone, PartialEq, Message)]
struct LinuxContainer {
    #[prost(message, optional, tag = "2")]
    security: Option<ContainerSecurity>,
}
#[derive(Clone, PartialEq, Message)]
struct ContainerSecurity {
    #[prost(message, optional, tag = "3")]
    namespaces: Option<Namespaces>,
}
#[derive(Clone, PartialEq, Message)]
struct Create {
    #[prost(string, tag = "1")]
    pod: String,
    #[prost(message, optional, tag = "2")]
    config: Option<ContainerConfig>,
    #[prost(message, optional, tag = "3")]
    pod_config: Option<PodConfig>,
}
#[derive(Clone, PartialEq, Message)]
struct Container {
    #[prost(string, tag = "1")]
    id: String,
    #[prost(int32, tag = "6")]
    state: i32,
}
#[derive(Clone, PartialEq, Message)]
struct Containers {
    #[prost(message, repeated, tag = "1")]
    containers: Vec<Container>,
}
#[derive(Clone, PartialEq, Message)]
struct Image {
    #[prost(string, tag = "1")]
    id: String,
    #[prost(string, repeated, tag = "2")]
    tags: Vec<String>,
    #[prost(bool, tag = "8")]
    pinned: bool,
}
#[derive(Clone, PartialEq, Message)]
struct Images {
    #[prost(message, repeated, tag = "1")]
    images: Vec<Image>,
}

pub const CREATED: i32 = 0;
pub const RUNNING: i32 = 1;
pub const EXITED: i32 = 2;
/// `NamespaceMode.NODE`: no network of its own, so that no CNI is needed.
const NODE: i32 = 2;

pub struct Client {
    runtime: tokio::runtime::Runtime,
    grpc: Grpc<Channel>,
}

impl Client {
    pub fn connect(socket: &Path) -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let socket = socket.to_owned();
        let connector = tower::service_fn(move |_| {
            let socket = socket.clone();
            async move { UnixStream::connect(socket).await.map(TokioIo::new) }
        });
        let endpoint = Endpoint::from_static("http://localhost");
        let channel = runtime.block_on(endpoint.connect_with_connector(connector)).unwrap();
        Self { runtime, grpc: Grpc::new(channel) }
    }

    fn call<Q: Message + 'static, A: Message + Default + 'static>(
        &mut self,
        method: &'static str,
        request: Q,
    ) -> Result<A, tonic::Status> {
        let grpc = &mut self.grpc;
        self.runtime.block_on(async {
            grpc.ready().await.map_err(|e| tonic::Status::unavailable(e.to_string()))?;
            let path = PathAndQuery::from_static(method);
            grpc.unary(tonic::Request::new(request), path, ProstCodec::default())
                .await
                .map(|r| r.into_inner())
        })
    }

    /// Begins a pod without a network of its own.
    pub fn run_pod(&mut self, name: &str, cgroup: &str, logs: &Path) -> (String, PodConfig) {
        let labels = [("io.kubernetes.pod.name", name), ("io.kubernetes.pod.namespace", "shop")];
        let config = PodConfig {
            metadata: Some(Metadata {
                name: name.to_owned(),
                uid: format!("uid-{name}"),
                namespace: "shop".to_owned(),
            }),
            log_directory: logs.display().to_string(),
            labels: labels.map(|(k, v)| (k.to_owned(), v.to_owned())).into(),
            linux: Some(LinuxPod {
                cgroup_parent: cgroup.to_owned(),
                security: Some(Security { namespaces: Some(Namespaces { network: NODE }) }),
            }),
        };
        let method = "/runtime.v1.RuntimeService/RunPodSandbox";
        let pod: Id = self.call(method, RunPod { config: Some(config.clone()) }).unwrap();
        (pod.id, config)
    }

    pub fn create(&mut self, (pod, pod_config): &(String, PodConfig), name: &str, image: &str) -> String {
        let pod_labels = pod_config.labels.clone();
        let config = ContainerConfig {
            metadata: Some(Name { name: name.to_owned() }),
            image: Some(Name { name: image.to_owned() }),
            labels: pod_labels,
            linux: Some(LinuxContainer {
                security: Some(ContainerSecurity { namespaces: Some(Namespaces { network: NODE }) }),
            }),
        };
        let request = Create { pod: pod.clone(), config: Some(config), pod_config: Some(pod_config.clone()) };
        let made: Id = self.call("/runtime.v1.RuntimeService/CreateContainer", request).unwrap();
        made.id
    }

    pub fn start(&mut self, container: &str) {
        let id = Id { id: container.to_owned() };
        let _: Nothing = self.call("/runtime.v1.RuntimeService/StartContainer", id).unwrap();
    }

    /// The state of each container.
    pub fn states(&mut self) -> HashMap<String, i32> {
        let listed: Containers = self.call("/runtime.v1.RuntimeService/ListContainers", Nothing {}).unwrap();
        listed.containers.into_iter().map(|c| (c.id, c.state)).collect()
    }

    pub fn image_tags(&mut self) -> Vec<String> {
        let listed: Images = self.call("/runtime.v1.ImageService/ListImages", Nothing {}).unwrap();
        listed.images.into_iter().flat_map(|i| i.tags).collect()
    }

    pub fn image_ids(&mut self) -> Vec<String> {
        let listed: Images = self.call("/runtime.v1.ImageService/ListImages", Nothing {}).unwrap();
        listed.images.into_iter().map(|i| i.id).collect()
    }

    /// Whether the runtime tells that the image is pinned; containerd 1.6.20 never does.
    pub fn is_pinned(&mut self, tag: &str) -> bool {
        let listed: Images = self.call("/runtime.v1.ImageService/ListImages", Nothing {}).unwrap();
        listed.images.iter().any(|i| i.pinned && i.tags.iter().any(|t| t == tag))
    }

    /// Removes a pod with its containers.
    pub fn remove_pod(&mut self, pod: &str) {
        for container in self.states().into_keys().collect::<Vec<_>>() {
            let stop = Stop { id: container.clone(), timeout: 0 };
            let _: Nothing = self.call("/runtime.v1.RuntimeService/StopContainer", stop).unwrap();
            let _: Nothing =
                self.call("/runtime.v1.RuntimeService/RemoveContainer", Id { id: container }).unwrap();
        }
        let id = || Id { id: pod.to_owned() };
        let _: Nothing = self.call("/runtime.v1.RuntimeService/StopPodSandbox", id()).unwrap();
        let _: Nothing = self.call("/runtime.v1.RuntimeService/RemovePodSandbox", id()).unwrap();
    }
}
