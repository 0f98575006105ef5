//! Following what happens: one watched stream that outlives the collector's restarts. Used by `watch`, `logs -f` and
//! `get -w`.
//!
//! What is lost while nobody watched is said, with the question that fetches it; it is not fetched by itself, because
//! whoever pipes this somewhere must be able to tell the two apart.

use std::time::Duration;

use dogwatch::record::Severity;

use super::Here;
use crate::client::{Answers, Desk, WatchQuestion, Watched};
use crate::error::CliError;
use crate::output::Io;
use crate::time::Utc;
use crate::view::{News, What};

/// Between attempts to reach a collector that went away: doubled each time, from this…
const FIRST_WAIT: Duration = Duration::from_millis(250);
/// … to this. Somebody sits before it.
const LONGEST_WAIT: Duration = Duration::from_secs(10);

/// A watched stream.
pub(super) struct Feed<'h> {
    here: &'h Here<'h>,
    desk: Desk,
    question: WatchQuestion,
    answers: Answers<Watched>,
    /// When the last thing was heard of, wall ns.
    heard_ns: i64,
}

impl std::fmt::Debug for Feed<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Feed").field("question", &self.question).finish_non_exhaustive()
    }
}

impl<'h> Feed<'h> {
    /// Fails where the collector cannot be watched at all.
    pub(super) async fn open(
        here: &'h Here<'h>,
        mut desk: Desk,
        question: WatchQuestion,
    ) -> Result<Self, CliError> {
        let answers = desk.watch(question.clone()).await?;
        Ok(Self { here, desk, question, answers, heard_ns: crate::program::now_ns() })
    }

    /// The next piece of news, however long it takes. `missed` and lost connections are said and not handed on.
    pub(super) async fn next(&mut self, io: &mut Io<'_>) -> Result<News, CliError> {
        loop {
            let why = match self.answers.next().await {
                Ok(Some(told)) => match News::from_wire(told) {
                    Some(News { what: What::Missed(n), time }) => {
                        io.say(&format!(
                            "{n} passed unseen before {}: they came faster than they could be written; `dogwatch get \
                             events` has them",
                            time.to_the_second()
                        ))?;
                        continue;
                    }
                    Some(news) => {
                        self.heard_ns = crate::program::now_ns();
                        return Ok(news);
                    }
                    None => continue,
                },
                Ok(None) => "it ended the answer".to_owned(),
                Err(CliError::NoAnswer { why, .. }) => why,
                Err(other) => return Err(other),
            };
            self.come_back(io, &why).await?;
        }
    }

    async fn come_back(&mut self, io: &mut Io<'_>, why: &str) -> Result<(), CliError> {
        io.say(&format!("collector {} went away ({why}); trying again until it is back", self.desk.asked()))?;
        let mut wait = FIRST_WAIT;
        loop {
            tokio::time::sleep(wait).await;
            wait = (wait * 2).min(LONGEST_WAIT);
            let again = match self.here.desk().await {
                Ok(desk) => {
                    self.desk = desk;
                    self.desk.watch(self.question.clone()).await
                }
                Err(e) => Err(e),
            };
            match again {
                Ok(answers) => {
                    self.answers = answers;
                    let since = Utc(self.heard_ns).to_the_second();
                    self.heard_ns = crate::program::now_ns();
                    return io.say(&format!(
                        "collector {} is back; what happened between is not shown here: `dogwatch get events --since \
                         {since}`",
                        self.desk.asked()
                    ));
                }
                Err(CliError::NoAnswer { .. }) => {}
                Err(other) => return Err(other),
            }
        }
    }
}

/// Whether `severity` is at least `least`; news without one is told only where none is asked for.
pub(super) fn at_least(least: Option<Severity>, severity: Option<Severity>) -> bool {
    least.is_none_or(|l| severity.is_some_and(|s| s >= l))
}
