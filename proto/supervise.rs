//! Tasks with a name, an owner, a way to end and a consequence.
//!
//! A daemon builds everything first, then spawns its parts here. A part that ends by itself, or panics, ends the
//! daemon with a message that names it: half a daemon is worse than one that restarts. [`Stop`] is how all are told to
//! end; it is set by a signal, by a part that failed, or by the owner.

use std::future::Future;
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinSet;

/// How long the parts have to end after they were told to, before they are left behind.
pub const GRACE: Duration = Duration::from_secs(10);

/// Tells parts to end. Clones share one state.
#[derive(Debug, Clone)]
pub struct Stop {
    sender: std::sync::Arc<watch::Sender<bool>>,
}

impl Default for Stop {
    fn default() -> Self {
        Self { sender: std::sync::Arc::new(watch::Sender::new(false)) }
    }
}

impl Stop {
    /// Says that it is time to end.
    pub fn set(&self) {
        self.sender.send_replace(true);
    }

    /// Whether it is.
    pub fn is_set(&self) -> bool {
        *self.sender.borrow()
    }

    /// Waits until it is.
    pub async fn wait(&self) {
        let mut receiver = self.sender.subscribe();
        // The sender lives as long as `self`, so this cannot fail before the value is set.
        let _ = receiver.wait_for(|stop| *stop).await;
    }

    /// Sets itself on SIGTERM or SIGINT.
    ///
    /// # Errors
    /// When the handlers cannot be installed.
    pub fn on_signals(&self) -> std::io::Result<()> {
        use tokio::signal::unix::{SignalKind, signal};
        let mut term = signal(SignalKind::terminate())?;
        let mut int = signal(SignalKind::interrupt())?;
        let stop = self.clone();
        tokio::spawn(async move {
            tokio::select! { _ = term.recv() => (), _ = int.recv() => () }
            stop.set();
        });
        Ok(())
    }
}

/// A part that ended when it should not have.
#[derive(Debug, thiserror::Error)]
#[error("{part} ended: {why}")]
pub struct Ended {
    /// The part's name.
    pub part: &'static str,
    /// Its error, or that it panicked, or that it just returned.
    pub why: String,
}

/// The parts of a daemon.
#[derive(Debug, Default)]
pub struct Parts {
    stop: Stop,
    set: JoinSet<(&'static str, Result<(), String>)>,
}

impl Parts {
    /// Parts that end when `stop` is set.
    pub fn new(stop: Stop) -> Self {
        Self { stop, set: JoinSet::new() }
    }

    /// Spawns a part; it is expected to run until stop is set.
    pub fn spawn<E: std::fmt::Display>(
        &mut self,
        name: &'static str,
        part: impl Future<Output = Result<(), E>> + Send + 'static,
    ) {
        self.set.spawn(async move {
            // A panic must not take the name with it, so the part gets a task of its own.
            let result = match tokio::spawn(async move { part.await.map_err(|e| e.to_string()) }).await {
                Ok(r) => r,
                Err(e) if e.is_panic() => Err("it panicked; the message is above".to_owned()),
                Err(_) => Err("it was cancelled".to_owned()),
            };
            (name, result)
        });
    }

    /// Spawns a blocking part on a thread of its own name.
    ///
    /// # Errors
    /// When the thread cannot be created.
    pub fn spawn_thread(
        &mut self,
        name: &'static str,
        part: impl FnOnce() -> Result<(), String> + Send + 'static,
    ) -> std::io::Result<()> {
        let (sender, receiver) = tokio::sync::oneshot::channel();
        std::thread::Builder::new().name(name.to_owned()).spawn(move || {
            let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(part))
                .unwrap_or_else(|_| Err("it panicked; the message is above".to_owned()));
            let _ = sender.send(result);
        })?;
        self.set.spawn(async move {
            (name, receiver.await.unwrap_or_else(|_| Err("its thread vanished".to_owned())))
        });
        Ok(())
    }

    /// Runs until stop is set or a part ends early; then tells all to end and waits up to [`GRACE`].
    ///
    /// # Errors
    /// The part that ended early.
    pub async fn run(mut self) -> Result<(), Ended> {
        let mut first = None;
        let stop = self.stop.clone();
        tokio::select! {
            () = stop.wait() => {}
            done = self.set.join_next() => {
                if let Some(Ok((part, result))) = done && !stop.is_set() {
                    let why = result.err().unwrap_or_else(|| "it returned".to_owned());
                    first = Some(Ended { part, why });
                }
            }
        }
        stop.set();
        let drain = async {
            while let Some(done) = self.set.join_next().await {
                if let Ok((part, Err(why))) = done {
                    tracing::warn!(part, why, "ended with an error while stopping");
                }
            }
        };
        if tokio::time::timeout(GRACE, drain).await.is_err() {
            tracing::warn!(
                grace_seconds = GRACE.as_secs(),
                "some parts did not end in time and are left behind"
            );
        }
        first.map_or(Ok(()), Err)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_part_that_panics_ends_the_rest_and_is_named() {
        let stop = Stop::default();
        let mut parts = Parts::new(stop.clone());
        let waiting = stop.clone();
        parts.spawn("patient", async move {
            waiting.wait().await;
            Ok::<(), String>(())
        });
        parts.spawn("faulty", async { if true { panic!("on purpose") } else { Ok::<(), String>(()) } });
        let ended = parts.run().await.unwrap_err();
        assert_eq!(ended.part, "faulty");
        assert!(stop.is_set());
    }

    #[tokio::test]
    async fn stop_ends_threads_and_tasks() {
        let stop = Stop::default();
        let mut parts = Parts::new(stop.clone());
        let seen = stop.clone();
        parts
            .spawn_thread("thread", move || {
                while !seen.is_set() {
                    std::thread::yield_now();
                }
                Ok(())
            })
            .unwrap();
        stop.set();
        parts.run().await.unwrap();
    }
}
