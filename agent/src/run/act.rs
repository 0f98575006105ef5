//! The thread that owns the executor, as a part of the agent: where it ends, nothing would be cleaned any more, so the agent
//! ends with it.
//!
//! An agent that stops does not wait for it: it may be in the midst of a cleanup, which ends with the executor and gets its end
//! in the record at the next start.

use std::io;
use std::time::Duration;

use dogwatch::supervise::{Parts, Stop};
use tokio::sync::oneshot;
use tokio::time::timeout;

/// Its name.
const ACT: &str = "act";
/// How long the core has to say why it ended, where nobody gives jobs any more.
const OTHERS_WITHIN: Duration = Duration::from_secs(1);

/// Starts it.
///
/// # Errors
/// When there can be no thread.
pub(super) fn start_act(
    parts: &mut Parts,
    stop: &Stop,
    work: impl FnOnce() + Send + 'static,
) -> io::Result<()> {
    let (over, ended) = oneshot::channel();
    std::thread::Builder::new().name(ACT.to_owned()).spawn(move || {
        work();
        let _ = over.send(());
    })?;
    let stop = stop.clone();
    parts.spawn(ACT, async move {
        let ended = tokio::select! {
            biased;
            () = stop.wait() => return Ok(()),
            ended = ended => ended,
        };
        match ended {
            Err(_) => Err("it panicked; the message is above"),
            // Who gave them has ended, and says why.
            Ok(()) if timeout(OTHERS_WITHIN, stop.wait()).await.is_ok() => Ok(()),
            Ok(()) => Err("nobody gives it jobs any more"),
        }
    });
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::channel;

    use super::*;

    #[tokio::test]
    async fn its_end_is_the_agents() {
        for (work, why) in [
            (
                Box::new(|| {
                    if true {
                        panic!("on purpose")
                    }
                }) as Box<dyn FnOnce() + Send>,
                "it panicked",
            ),
            (Box::new(|| ()), "nobody gives it jobs"),
        ] {
            let stop = Stop::default();
            let mut parts = Parts::new(stop.clone());
            start_act(&mut parts, &stop, work).unwrap();
            let ended = parts.run().await.unwrap_err();
            assert!(ended.part == ACT && ended.why.contains(why), "{ended}");
        }
    }

    #[tokio::test]
    async fn an_agent_that_stops_does_not_fail_for_it() {
        let stop = Stop::default();
        let mut parts = Parts::new(stop.clone());
        let (free, hung) = channel::<()>();
        let (over, is_over) = channel();
        let work = move || {
            let _ = hung.recv();
            let _ = over.send(());
        };
        start_act(&mut parts, &stop, work).unwrap();
        stop.set();
        parts.run().await.unwrap();
        assert!(is_over.try_recv().is_err(), "it hung all the while");
        drop(free);
        is_over.recv().unwrap();
        // One that ends in the same moment.
        let mut parts = Parts::new(stop.clone());
        start_act(&mut parts, &stop, || ()).unwrap();
        parts.run().await.unwrap();
    }
}
