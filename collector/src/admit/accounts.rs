//! Service accounts: a token that the cluster made for an agent's pod lets its node in.
//!
//! What the cluster says of a token comes through [`Review`], so that admission knows no cluster. [`Accounts::node_of`]
//! judges it: the token must be good for our audience, belong to the configured account, and be bound to a node; that
//! node, and no other, may enrol by it. The name therefore comes from the API server, never from the caller.
//!
//! Limits: [`MAX_TOKEN_BYTES`], [`REVIEW_WAIT`]. Deliberately absent: any look at the token itself (only who signed it can
//! read it), and a memory of tokens: they are not spent, since the kubelet renews them for as long as the pod lives, and
//! whoever steals one comes with another signing key, which is a finding.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use dogwatch::record::NodeName;

/// Tokens of service accounts are signed JSON of one to two KiB.
pub const MAX_TOKEN_BYTES: usize = 16 * 1024;
/// An API server that takes longer is overloaded; shorter than an agent waits for its enrolment.
pub const REVIEW_WAIT: Duration = Duration::from_secs(5);
/// What of somebody else's words is repeated.
const MAX_SHOWN_CHARS: usize = 200;

/// What the cluster says of a token (authentication.k8s.io/v1 TokenReview, `status`).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Reviewed {
    /// Whether it is one of the cluster's, and good.
    pub authenticated: bool,
    /// Why not, in the API server's words.
    pub error: Option<String>,
    /// Whose it is: `system:serviceaccount:<namespace>:<name>`.
    pub username: String,
    /// For which of the asked audiences it is good.
    pub audiences: Vec<String>,
    /// The nodes that its claims name (`authentication.kubernetes.io/node-name`, KEP-4193).
    pub nodes: Vec<String>,
    /// The pods that its claims name (`authentication.kubernetes.io/pod-name`).
    pub pods: Vec<String>,
}

/// The cluster could not be asked; nothing is known of the token.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct ReviewError(pub String);

/// Asks the cluster whose a token is.
#[tonic::async_trait]
pub trait Review: Send + Sync + 'static {
    /// What the cluster says of `token`, when asked for `audience`.
    async fn review(&self, token: &str, audience: &str) -> Result<Reviewed, ReviewError>;
}

/// A service account: `namespace/name`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServiceAccount {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
}

impl FromStr for ServiceAccount {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        // RFC 1123: what Kubernetes lets a namespace and an account be called.
        let plain = |part: &str| {
            let ends = |c: Option<char>| c.is_some_and(|c| c.is_ascii_lowercase() || c.is_ascii_digit());
            part.len() <= 253
                && ends(part.chars().next())
                && ends(part.chars().last())
                && part.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || ".-".contains(c))
        };
        match text.split_once('/') {
            Some((namespace, name)) if plain(namespace) && plain(name) => {
                Ok(Self { namespace: namespace.to_owned(), name: name.to_owned() })
            }
            _ => Err("it is not NAMESPACE/NAME of a service account, such as dogwatch/dogwatch-agent"),
        }
    }
}

impl fmt::Display for ServiceAccount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// Why a service account's token lets nobody in.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AccountRefusal {
    /// This collector takes none.
    #[error(
        "this collector takes no service accounts' tokens; set cluster.token_review there, or give the agent a join token"
    )]
    Off,
    /// It cannot be a token.
    #[error(
        "what the agent sent is no service account's token: {0}; look at uplink.service_account_token_file"
    )]
    Malformed(&'static str),
    /// The cluster does not know it.
    #[error(
        "the cluster does not accept the token: {0}; it must be projected for this collector's cluster and have the \
         audience {1}"
    )]
    NotAccepted(String, String),
    /// It is good, but for somebody else.
    #[error(
        "the token is not for the audience {0}; set it in the agent's projected volume (serviceAccountToken.audience)"
    )]
    WrongAudience(String),
    /// Another account's.
    #[error("the token belongs to {0}, and agents are {1}; see cluster.service_account of the collector")]
    WrongAccount(String, ServiceAccount),
    /// No node is named in it.
    #[error(
        "the token is bound to no node: tokens say so since Kubernetes 1.32, and only those of pods; let the node in by a \
         join token"
    )]
    NotBound,
    /// It is another node's.
    #[error(
        "the token is bound to node {bound}, and the agent says that it is {claimed}; NODE_NAME must be spec.nodeName"
    )]
    WrongNode {
        /// Whose it is.
        bound: String,
        /// Who the agent says to be.
        claimed: NodeName,
    },
}

/// Why nobody was let in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AccountError {
    /// The token does not do.
    Refused(AccountRefusal),
    /// It is not known whether it does; later it may be.
    Unavailable(ReviewError),
}

/// Judges tokens of service accounts.
pub struct Accounts {
    review: Box<dyn Review>,
    audience: String,
    account: ServiceAccount,
    wait: Duration,
}

impl fmt::Debug for Accounts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Accounts({} for {})", self.account, self.audience)
    }
}

impl Accounts {
    /// Lets in by tokens of `account` for `audience`, as `review` says.
    pub fn new(review: Box<dyn Review>, audience: String, account: ServiceAccount) -> Self {
        Self { review, audience, account, wait: REVIEW_WAIT }
    }

    /// With another patience than [`REVIEW_WAIT`].
    #[must_use]
    pub fn with_wait(self, wait: Duration) -> Self {
        Self { wait, ..self }
    }

    /// Whether `token` lets `claimed` in. In words, by what: for the record and the log.
    ///
    /// # Errors
    /// [`AccountError`]: refused, or not known now.
    pub async fn admit(&self, token: &str, claimed: &NodeName) -> Result<String, AccountError> {
        let refuse = |r| Err(AccountError::Refused(r));
        let token = token.trim();
        if token.is_empty() {
            return refuse(AccountRefusal::Malformed("it is empty"));
        }
        if token.len() > MAX_TOKEN_BYTES {
            return refuse(AccountRefusal::Malformed("it is too long"));
        }
        // A JSON web token: three parts of base64url. Anything else would be a needless question.
        let parts = token.split('.').count();
        if parts != 3 || !token.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b)) {
            return refuse(AccountRefusal::Malformed("it is no JSON web token"));
        }
        let asked = self.review.review(token, &self.audience);
        let reviewed = match tokio::time::timeout(self.wait, asked).await {
            Ok(answer) => answer.map_err(AccountError::Unavailable)?,
            Err(_) => {
                let seconds = self.wait.as_secs_f32();
                return Err(AccountError::Unavailable(ReviewError(format!(
                    "the API server did not answer within {seconds} s"
                ))));
            }
        };
        self.judge(&reviewed, claimed).map_err(AccountError::Refused)
    }

    fn judge(&self, said: &Reviewed, claimed: &NodeName) -> Result<String, AccountRefusal> {
        if !said.authenticated {
            let why = said.error.as_deref().unwrap_or("it gives no reason");
            return Err(AccountRefusal::NotAccepted(shown(why), self.audience.clone()));
        }
        // A server that does not know audiences answers with none, and its word is then about itself.
        if !said.audiences.contains(&self.audience) {
            return Err(AccountRefusal::WrongAudience(self.audience.clone()));
        }
        let user = format!("system:serviceaccount:{}:{}", self.account.namespace, self.account.name);
        if said.username != user {
            return Err(AccountRefusal::WrongAccount(shown(&said.username), self.account.clone()));
        }
        let [bound] = said.nodes.as_slice() else { return Err(AccountRefusal::NotBound) };
        if bound != claimed.as_str() {
            return Err(AccountRefusal::WrongNode { bound: shown(bound), claimed: claimed.clone() });
        }
        let pod = said.pods.first().map_or_else(String::new, |p| format!(", pod {}", shown(p)));
        Ok(format!("service account {}{pod}", self.account))
    }
}

/// Somebody else's words, safe to repeat.
fn shown(text: &str) -> String {
    text.chars().take(MAX_SHOWN_CHARS).flat_map(char::escape_default).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const TOKEN: &str = "aGVhZA.Ym9keQ.c2ln";

    struct Says(Result<Reviewed, ReviewError>);

    #[tonic::async_trait]
    impl Review for Says {
        async fn review(&self, token: &str, audience: &str) -> Result<Reviewed, ReviewError> {
            assert_eq!((token, audience), (TOKEN, "dogwatch"));
            self.0.clone()
        }
    }

    fn good() -> Reviewed {
        Reviewed {
            authenticated: true,
            error: None,
            username: "system:serviceaccount:dogwatch:dogwatch-agent".to_owned(),
            audiences: vec!["dogwatch".to_owned()],
            nodes: vec!["worker-1".to_owned()],
            pods: vec!["dogwatch-agent-x7".to_owned()],
        }
    }

    async fn admit(said: Result<Reviewed, ReviewError>, token: &str) -> Result<String, AccountError> {
        let account = "dogwatch/dogwatch-agent".parse().unwrap();
        let accounts = Accounts::new(Box::new(Says(said)), "dogwatch".to_owned(), account);
        accounts.admit(token, &"worker-1".parse().unwrap()).await
    }

    #[tokio::test]
    async fn only_the_very_node_is_let_in() {
        let by = admit(Ok(good()), &format!("{TOKEN}\n")).await.unwrap();
        assert_eq!(by, "service account dogwatch/dogwatch-agent, pod dogwatch-agent-x7");
        type Change = fn(&mut Reviewed);
        let changes: [(Change, &str); 9] = [
            (|r| r.authenticated = false, "does not accept"),
            (
                |r| (r.authenticated, r.error) = (false, Some("expired \u{1b}[31m".to_owned())),
                "expired \\u{1b}[31m",
            ),
            (|r| r.audiences.clear(), "not for the audience dogwatch"),
            (|r| r.audiences = vec!["https://kubernetes.default.svc".to_owned()], "not for the audience"),
            (|r| r.username = "system:serviceaccount:other:dogwatch-agent".to_owned(), "belongs to"),
            (|r| r.username = "system:node:worker-1".to_owned(), "belongs to system:node:worker-1"),
            (|r| r.nodes.clear(), "since Kubernetes 1.32"),
            (|r| r.nodes.push("worker-1".to_owned()), "bound to no node"),
            (|r| r.nodes = vec!["worker-2".to_owned()], "bound to node worker-2"),
        ];
        for (change, says) in changes {
            let mut said = good();
            change(&mut said);
            match admit(Ok(said), TOKEN).await.unwrap_err() {
                AccountError::Refused(r) => assert!(r.to_string().contains(says), "{says}: {r}"),
                other => panic!("{other:?}"),
            }
        }
        let away = ReviewError("away".to_owned());
        let unavailable = admit(Err(away.clone()), TOKEN).await.unwrap_err();
        assert_eq!(unavailable, AccountError::Unavailable(away));
    }

    #[tokio::test]
    async fn what_is_no_token_is_never_asked_about() {
        let long = format!("a.{}.c", "b".repeat(MAX_TOKEN_BYTES));
        for bad in ["", "  \n", "abc", "a.b", "a.b.c.d", "a.b\r\nX: y.c", "dwj1.0.0.0", long.as_str()] {
            let account = "dogwatch/dogwatch-agent".parse().unwrap();
            let never = Box::new(Says(Err(ReviewError("asked".to_owned()))));
            let accounts = Accounts::new(never, "dogwatch".to_owned(), account);
            let error = accounts.admit(bad, &"worker-1".parse().unwrap()).await.unwrap_err();
            assert!(matches!(error, AccountError::Refused(AccountRefusal::Malformed(_))), "{bad}: {error:?}");
        }
    }

    #[test]
    fn accounts_are_written_with_a_slash() {
        let account: ServiceAccount = "dogwatch/dogwatch-agent".parse().unwrap();
        assert_eq!(account.to_string(), "dogwatch/dogwatch-agent");
        for bad in ["", "dogwatch", "/a", "a/", "a/b/c", "A/b", "a/-b", "a/b:c"] {
            assert!(bad.parse::<ServiceAccount>().is_err(), "{bad}");
        }
    }
}
