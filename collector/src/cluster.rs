//! The cluster's API, of which this is the one module that knows: it asks whose a service account's token is.
//!
//! One call, `create` of `tokenreviews` (authentication.k8s.io/v1); that is all the right that it needs. A refusal of ours
//! (403) and an answer that makes no sense are faults of the installation, not of the agent that enrols: they are told as
//! unavailable, with the remedy, and the agent tries again.
//!
//! Limits: [`CONNECT_WAIT`]; the caller bounds the whole. Deliberately absent: watches, caches, retries (the agent's), and
//! any other resource.

use std::path::{Path, PathBuf};
use std::time::Duration;

use k8s_openapi::api::authentication::v1::{TokenReview, TokenReviewSpec};
use kube::api::PostParams;
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Api, Client};

use crate::admit::accounts::{Review, ReviewError, Reviewed};

/// For TCP and TLS to the API server.
const CONNECT_WAIT: Duration = Duration::from_secs(3);
/// Claims of a token that the API server hands on (KEP-4193; authentication/serviceaccount in the API server).
const NODE_NAME: &str = "authentication.kubernetes.io/node-name";
const POD_NAME: &str = "authentication.kubernetes.io/pod-name";
/// What of an error is repeated: the API server may quote what it was sent.
const MAX_REASON_CHARS: usize = 300;

/// The cluster cannot be spoken to at all.
#[derive(Debug, thiserror::Error)]
#[error(
    "{attempt}: {reason}; run in a pod with its service account's token mounted, or name a file in cluster.kubeconfig"
)]
pub struct ClusterError {
    attempt: String,
    reason: String,
}

/// The cluster that the collector runs in, or that a kubeconfig names.
#[derive(Clone)]
pub struct Cluster {
    client: Client,
}

impl std::fmt::Debug for Cluster {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Cluster")
    }
}

impl Cluster {
    /// Reads how to reach it; asks nothing yet. The files of a pod's own account are read again when they change.
    ///
    /// # Errors
    /// When that cannot be read, or makes no sense.
    pub async fn open(kubeconfig: Option<&PathBuf>) -> Result<Self, ClusterError> {
        let (attempt, config) = match kubeconfig {
            None => ("reading this pod's service account".to_owned(), in_pod()),
            Some(path) => (format!("reading {}", path.display()), from_file(path).await),
        };
        let failed = |reason: String| ClusterError { attempt: attempt.clone(), reason };
        let mut config = config.map_err(failed)?;
        config.connect_timeout = Some(CONNECT_WAIT);
        // The agent tries again; here it would only hold a place.
        config.default_retry = false;
        let client = Client::try_from(config).map_err(|e| failed(with_causes(&e)))?;
        Ok(Self { client })
    }
}

fn in_pod() -> Result<kube::Config, String> {
    kube::Config::incluster().map_err(|e| with_causes(&e))
}

async fn from_file(path: &Path) -> Result<kube::Config, String> {
    let file = Kubeconfig::read_from(path).map_err(|e| with_causes(&e))?;
    kube::Config::from_custom_kubeconfig(file, &KubeConfigOptions::default())
        .await
        .map_err(|e| with_causes(&e))
}

#[tonic::async_trait]
impl Review for Cluster {
    async fn review(&self, token: &str, audience: &str) -> Result<Reviewed, ReviewError> {
        let asked = TokenReview {
            spec: TokenReviewSpec {
                audiences: Some(vec![audience.to_owned()]),
                token: Some(token.to_owned()),
            },
            ..TokenReview::default()
        };
        let reviews: Api<TokenReview> = Api::all(self.client.clone());
        let answer = reviews.create(&PostParams::default(), &asked).await.map_err(|e| why(&e))?;
        let status = answer.status.ok_or_else(|| {
            ReviewError("the API server's answer to a token review has no status".to_owned())
        })?;
        let user = status.user.unwrap_or_default();
        let mut extra = user.extra.unwrap_or_default();
        Ok(Reviewed {
            authenticated: status.authenticated.unwrap_or(false),
            error: status.error.filter(|e| !e.is_empty()),
            username: user.username.unwrap_or_default(),
            audiences: status.audiences.unwrap_or_default(),
            nodes: extra.remove(NODE_NAME).unwrap_or_default(),
            pods: extra.remove(POD_NAME).unwrap_or_default(),
        })
    }
}

fn why(error: &kube::Error) -> ReviewError {
    let text = match error {
        kube::Error::Api(status) if status.code == 403 => format!(
            "the API server does not let this collector create tokenreviews ({}); bind its service account to the \
             ClusterRole dogwatch-collector",
            status.message
        ),
        kube::Error::Api(status) if status.code == 401 => {
            "the API server does not accept this collector's own token; is it mounted?".to_owned()
        }
        kube::Error::Api(status) => format!("the API server answers {}: {}", status.code, status.message),
        kube::Error::SerdeError(e) => format!("the API server's answer cannot be understood: {e}"),
        other => format!("the API server cannot be asked: {}", with_causes(other)),
    };
    ReviewError(text.chars().take(MAX_REASON_CHARS).flat_map(plain).collect())
}

fn plain(c: char) -> Option<char> {
    (!c.is_control()).then_some(c)
}

fn with_causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let said = cause.to_string();
        if !text.contains(&said) {
            text = format!("{text}: {said}");
        }
        source = cause.source();
    }
    text
}
