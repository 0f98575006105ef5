//! The desk: how a collector is reached and asked. The only file that knows TLS, tonic and gRPC's words for failure.
//!
//! Every wait is bounded by a timeout. Errors say which collector was asked, why it failed and what to try.

use std::time::Duration;

use dogwatch::tls::{ClientMaterial, ClientTls, ClientTlsOptions};
use dogwatch::wire;
use dogwatch::wire::desk_client::DeskClient;
use tonic::transport::Channel;
use tonic::{Code, Response, Status, Streaming};

use crate::config::Settings;
use crate::error::{CliError, chain};
use crate::holder;

/// For a connection, and for each answer, where `--timeout` does not say.
const ANSWER: Duration = Duration::from_secs(10);
/// A node surveys a mount for a plan.
const PLAN: Duration = Duration::from_secs(120);
/// A node removes what a plan names.
const APPLY: Duration = Duration::from_secs(600);
/// How long a connection may say nothing at all before it counts as gone, while it is watched.
const KEEPALIVE: Duration = Duration::from_secs(15);
/// Largest message that is taken: an action names each of its objects.
const MAX_MESSAGE_BYTES: usize = 64 * 1024 * 1024;

/// What is asked of a watched stream.
pub(crate) type WatchQuestion = wire::WatchRequest;
/// A piece of a watched stream.
pub(crate) type Watched = wire::WatchEvent;

/// How the collector is reached.
#[derive(Debug, Clone, Default)]
pub enum Dial {
    /// As configuration and flags say: TLS, with a person's certificate.
    #[default]
    Configured,
    /// Over a channel that the caller made.
    Over(Channel),
}

/// A connection to a collector. Clones share it.
#[derive(Debug, Clone)]
pub(crate) struct Desk {
    client: DeskClient<Channel>,
    asked: String,
    timeout: Option<Duration>,
}

/// An answer in parts.
#[derive(Debug)]
pub(crate) struct Answers<T> {
    stream: Streaming<T>,
    asked: String,
    /// For each part; `None` where there need not be one for days.
    wait: Option<Duration>,
}

impl<T> Answers<T> {
    /// The next part; `None` at the end.
    pub(crate) async fn next(&mut self) -> Result<Option<T>, CliError> {
        let Some(wait) = self.wait else {
            return self.stream.message().await.map_err(|s| refused(&self.asked, &s));
        };
        match tokio::time::timeout(wait, self.stream.message()).await {
            Ok(part) => part.map_err(|s| refused(&self.asked, &s)),
            Err(_) => Err(too_slow(&self.asked, wait)),
        }
    }
}

/// Connects, or says why not.
pub(crate) async fn connect(
    settings: &Settings,
    dial: &Dial,
    timeout: Option<Duration>,
) -> Result<Desk, CliError> {
    let (channel, asked) = match dial {
        Dial::Over(channel) => (channel.clone(), settings.asked().unwrap_or_else(|| "(given)".to_owned())),
        Dial::Configured => {
            let address = settings.collector.clone().ok_or_else(|| unconfigured("collector: HOST:PORT"))?;
            let asked = settings.asked().unwrap_or_else(|| address.clone());
            (dial_tls(settings, &address, &asked, timeout.unwrap_or(ANSWER)).await?, asked)
        }
    };
    let client = DeskClient::new(channel).max_decoding_message_size(MAX_MESSAGE_BYTES);
    Ok(Desk { client, asked, timeout })
}

async fn dial_tls(
    settings: &Settings,
    address: &str,
    asked: &str,
    timeout: Duration,
) -> Result<Channel, CliError> {
    let (Some(ca), Some(cert), Some(key)) = (&settings.ca, &settings.cert, &settings.key) else {
        return Err(unconfigured("ca:, cert: and key: (PEM files)"));
    };
    let material = ClientMaterial::from_files(cert, key, ca).map_err(|e| CliError::Usage(chain(&e)))?;
    let options = ClientTlsOptions {
        dns_name: settings.server_name.clone(),
        connect_timeout: timeout,
        ..ClientTlsOptions::default()
    };
    let tls = ClientTls::new(&material, options).map_err(|e| CliError::Usage(chain(&e)))?;
    let endpoint = tls.endpoint(address).map_err(|e| CliError::Usage(chain(&e)))?;
    // A collector that vanishes without a word (a pulled cable) must be noticed while it is watched.
    let endpoint = endpoint.http2_keep_alive_interval(KEEPALIVE).keep_alive_timeout(KEEPALIVE);
    endpoint.connect_with_connector(tls).await.map_err(|e| {
        let why = chain(&e);
        match holder::blame(cert, &why) {
            Some(remedy) => CliError::NoAnswer { asked: asked.to_owned(), why, remedy },
            None => unreachable(asked, &why),
        }
    })
}

impl Desk {
    pub(crate) async fn nodes(
        &mut self,
        names: Vec<String>,
        cached: bool,
    ) -> Result<Vec<wire::NodeRow>, CliError> {
        let wait = self.wait(ANSWER);
        let call = self.client.get_nodes(wire::GetNodesRequest { nodes: names, cached });
        Ok(answer(&self.asked, wait, call).await?.nodes)
    }

    pub(crate) async fn incidents(
        &mut self,
        ask: wire::GetIncidentsRequest,
    ) -> Result<Answers<wire::Incident>, CliError> {
        let wait = self.wait(ANSWER);
        let stream = answer(&self.asked, wait, self.client.get_incidents(ask)).await?;
        Ok(self.answers(stream, wait))
    }

    pub(crate) async fn findings(
        &mut self,
        ask: wire::GetFindingsRequest,
    ) -> Result<Answers<wire::FindingRow>, CliError> {
        let wait = self.wait(ANSWER);
        let stream = answer(&self.asked, wait, self.client.get_findings(ask)).await?;
        Ok(self.answers(stream, wait))
    }

    pub(crate) async fn actions(
        &mut self,
        ask: wire::GetActionsRequest,
    ) -> Result<Answers<wire::ActionRow>, CliError> {
        let wait = self.wait(ANSWER);
        let stream = answer(&self.asked, wait, self.client.get_actions(ask)).await?;
        Ok(self.answers(stream, wait))
    }

    pub(crate) async fn events(
        &mut self,
        ask: wire::GetEventsRequest,
    ) -> Result<Answers<wire::Event>, CliError> {
        let wait = self.wait(ANSWER);
        let stream = answer(&self.asked, wait, self.client.get_events(ask)).await?;
        Ok(self.answers(stream, wait))
    }

    pub(crate) async fn describe(&mut self, id: &str) -> Result<wire::IncidentDetail, CliError> {
        let wait = self.wait(ANSWER);
        let call = self.client.describe_incident(wire::IncidentRequest { id: id.to_owned() });
        answer(&self.asked, wait, call).await
    }

    pub(crate) async fn timeline(&mut self, id: &str) -> Result<Answers<wire::TimelineEntry>, CliError> {
        let wait = self.wait(ANSWER);
        let call = self.client.timeline(wire::IncidentRequest { id: id.to_owned() });
        let stream = answer(&self.asked, wait, call).await?;
        Ok(self.answers(stream, wait))
    }

    pub(crate) async fn plan(&mut self, node: &str, mount: &str) -> Result<wire::ActionRow, CliError> {
        let wait = self.wait(PLAN);
        let call = self.client.plan(wire::PlanRequest { node: node.to_owned(), mount: mount.to_owned() });
        answer(&self.asked, wait, call).await
    }

    pub(crate) async fn usage(&mut self, node: &str, path: &str) -> Result<wire::UsageReport, CliError> {
        let wait = self.wait(PLAN);
        let ask = wire::GetUsageRequest { node: node.to_owned(), path: path.to_owned() };
        answer(&self.asked, wait, self.client.get_usage(ask)).await
    }

    pub(crate) async fn apply(
        &mut self,
        node: &str,
        action_id: &str,
        override_brake: bool,
    ) -> Result<wire::ActionRow, CliError> {
        let wait = self.wait(APPLY);
        let ask =
            wire::ApplyRequest { node: node.to_owned(), action_id: action_id.to_owned(), override_brake };
        answer(&self.asked, wait, self.client.apply(ask)).await
    }

    pub(crate) async fn acknowledge(&mut self, id: &str, text: &str) -> Result<wire::Incident, CliError> {
        let wait = self.wait(ANSWER);
        answer(&self.asked, wait, self.client.acknowledge(saying(id, text))).await
    }

    pub(crate) async fn resolve(&mut self, id: &str, text: &str) -> Result<wire::Incident, CliError> {
        let wait = self.wait(ANSWER);
        answer(&self.asked, wait, self.client.resolve(saying(id, text))).await
    }

    pub(crate) async fn note(&mut self, id: &str, text: &str) -> Result<wire::Incident, CliError> {
        let wait = self.wait(ANSWER);
        answer(&self.asked, wait, self.client.add_note(saying(id, text))).await
    }

    pub(crate) async fn reopen(&mut self, id: &str, text: &str) -> Result<wire::Incident, CliError> {
        let wait = self.wait(ANSWER);
        answer(&self.asked, wait, self.client.reopen(saying(id, text))).await
    }

    /// What happens from now on. Ends only with an error, or when the collector ends it.
    pub(crate) async fn watch(
        &mut self,
        ask: wire::WatchRequest,
    ) -> Result<Answers<wire::WatchEvent>, CliError> {
        let wait = self.wait(ANSWER);
        let stream = answer(&self.asked, wait, self.client.watch(ask)).await?;
        Ok(Answers { stream, asked: self.asked.clone(), wait: None })
    }

    pub(crate) async fn samples(
        &mut self,
        ask: wire::GetSamplesRequest,
    ) -> Result<Answers<wire::SampleRow>, CliError> {
        let wait = self.wait(ANSWER);
        let stream = answer(&self.asked, wait, self.client.get_samples(ask)).await?;
        Ok(self.answers(stream, wait))
    }

    pub(crate) async fn preserved(
        &mut self,
        action: &str,
        path: Vec<u8>,
        node: Option<&str>,
    ) -> Result<Answers<wire::FileSeen>, CliError> {
        let wait = self.wait(ANSWER);
        let node = node.unwrap_or_default().to_owned();
        let ask = wire::GetPreservedRequest { action: action.to_owned(), path: path.into(), node };
        let stream = answer(&self.asked, wait, self.client.get_preserved(ask)).await?;
        Ok(self.answers(stream, wait))
    }

    pub(crate) async fn add_hold(&mut self, ask: wire::AddHoldRequest) -> Result<wire::Hold, CliError> {
        let wait = self.wait(ANSWER);
        answer(&self.asked, wait, self.client.add_hold(ask)).await
    }

    pub(crate) async fn release_hold(&mut self, id: &str, reason: &str) -> Result<wire::Hold, CliError> {
        let wait = self.wait(ANSWER);
        let ask = wire::ReleaseHoldRequest { id: id.to_owned(), reason: reason.to_owned() };
        answer(&self.asked, wait, self.client.release_hold(ask)).await
    }

    pub(crate) async fn holds(&mut self, released: bool) -> Result<Vec<wire::Hold>, CliError> {
        let wait = self.wait(ANSWER);
        let call = self.client.get_holds(wire::GetHoldsRequest { released });
        Ok(answer(&self.asked, wait, call).await?.holds)
    }

    pub(crate) async fn status(&mut self) -> Result<wire::GetStatusResponse, CliError> {
        let wait = self.wait(ANSWER);
        answer(&self.asked, wait, self.client.get_status(wire::GetStatusRequest {})).await
    }

    pub(crate) async fn brake(&mut self) -> Result<wire::FleetBrake, CliError> {
        let wait = self.wait(ANSWER);
        answer(&self.asked, wait, self.client.get_brake(wire::GetBrakeRequest {})).await
    }

    pub(crate) async fn set_brake(
        &mut self,
        ask: wire::SetBrakeRequest,
    ) -> Result<wire::FleetBrake, CliError> {
        let wait = self.wait(ANSWER);
        answer(&self.asked, wait, self.client.set_brake(ask)).await
    }

    /// Which collector this is, in words.
    pub(crate) fn asked(&self) -> &str {
        &self.asked
    }

    fn wait(&self, usual: Duration) -> Duration {
        self.timeout.unwrap_or(usual)
    }

    fn answers<T>(&self, stream: Streaming<T>, wait: Duration) -> Answers<T> {
        Answers { stream, asked: self.asked.clone(), wait: Some(wait) }
    }
}

fn saying(id: &str, text: &str) -> wire::IncidentNoteRequest {
    wire::IncidentNoteRequest { id: id.to_owned(), text: text.to_owned() }
}

async fn answer<T>(
    asked: &str,
    wait: Duration,
    call: impl Future<Output = Result<Response<T>, Status>>,
) -> Result<T, CliError> {
    match tokio::time::timeout(wait, call).await {
        Ok(Ok(response)) => Ok(response.into_inner()),
        Ok(Err(status)) => Err(refused(asked, &status)),
        Err(_) => Err(too_slow(asked, wait)),
    }
}

fn unconfigured(missing: &str) -> CliError {
    CliError::Usage(format!(
        "no collector is configured: {missing} is missing in cli.yaml and on the command line\n  try: start one here with \
         `cargo up`, name one with --collector, --ca, --cert and --key, or read a node's own records with --journal DIR"
    ))
}

fn unreachable(asked: &str, why: &str) -> CliError {
    let lower = why.to_ascii_lowercase();
    let remedy = if lower.contains("certificate") || lower.contains("tls") || lower.contains("handshake") {
        "check that --ca is this collector's authority and that your certificate is in date"
    } else {
        "check that it runs and that the address is right; --journal DIR reads a node's own records without it"
    };
    CliError::NoAnswer { asked: asked.to_owned(), why: why.to_owned(), remedy: remedy.to_owned() }
}

fn too_slow(asked: &str, wait: Duration) -> CliError {
    CliError::NoAnswer {
        asked: asked.to_owned(),
        why: format!("nothing within {}", crate::time::span(wait.as_secs_f64())),
        remedy: "a longer --timeout; what was ordered may still be carried out, see `dogwatch get actions`"
            .to_owned(),
    }
}

/// What a status means to whoever asked.
fn refused(asked: &str, status: &Status) -> CliError {
    let said = if status.message().is_empty() { status.code().description() } else { status.message() };
    let with = |remedy: &str| CliError::Failed(format!("collector {asked}: {said}\n  try: {remedy}"));
    match status.code() {
        Code::NotFound => CliError::NotFound(format!("collector {asked}: {said}")),
        Code::InvalidArgument => CliError::Usage(format!("collector {asked}: {said}")),
        Code::Unavailable | Code::DeadlineExceeded => unreachable(asked, &why(status)),
        Code::Unauthenticated => with("a certificate that this collector issued (--cert, --key)"),
        Code::PermissionDenied => with(
            "a certificate with the role that this needs (viewer reads, responder commands, admin administers): ask \
             whoever runs the collector; `dogwatch config view` says which one is used now",
        ),
        Code::Unimplemented => with("a collector of this program's version: that one does not know the call"),
        Code::Unknown | Code::Internal | Code::DataLoss => {
            CliError::Failed(format!("collector {asked}: {}", why(status)))
        }
        _ => CliError::Failed(format!("collector {asked}: {said}")),
    }
}

/// A status's message with its causes; transport failures have theirs in the source alone.
fn why(status: &Status) -> String {
    let message = if status.message().is_empty() { status.code().description() } else { status.message() };
    match std::error::Error::source(status) {
        Some(source) => {
            let causes = chain(source);
            if causes.contains(message) { causes } else { format!("{message}: {causes}") }
        }
        None => message.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statuses_become_exit_codes_and_words() {
        for (status, code, words) in [
            (Status::not_found("no incident inc-1"), 3, "no incident inc-1"),
            (Status::invalid_argument("mount must be absolute"), 2, "absolute"),
            (Status::failed_precondition("the plan has expired"), 1, "expired"),
            (Status::permission_denied("viewer may not"), 1, "role"),
            (Status::unauthenticated(""), 1, "certificate"),
            (Status::unavailable("node-1 is not connected"), 1, "node-1 is not connected"),
        ] {
            let error = refused("c:1", &status);
            assert_eq!(error.exit_code(), code, "{error}");
            assert!(error.to_string().contains(words) && error.to_string().contains("c:1"), "{error}");
        }
    }

    #[tokio::test]
    async fn without_a_collector_it_says_what_to_do() {
        let error = connect(&Settings::default(), &Dial::Configured, None).await.unwrap_err();
        assert_eq!(error.exit_code(), 2);
        assert!(error.to_string().contains("cargo up") && error.to_string().contains("--journal"), "{error}");
        let partly = Settings { collector: Some("c:1".into()), ..Settings::default() };
        let error = connect(&partly, &Dial::Configured, None).await.unwrap_err();
        assert!(error.to_string().contains("cert:"), "{error}");
    }
}
