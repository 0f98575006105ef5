//! Who has the files open that stayed for it: the executor, inside Landlock, may not look at other processes; the agent may,
//! where it has the right.
//!
//! It is for people alone. So it is done aside: whatever holds a look up (a server, the lock of a process) costs the names
//! and a moment, and never the thread that every later cleanup waits for.

use std::path::Path;

use dogwatch::record::{Action, Refusal};

use crate::act::aside::Aside;
use crate::act::holder::Holders;

/// What is said of a file that stays for being open.
const OPEN: &str = "open elsewhere";

/// Names in `action` whoever of the processes under `proc` has its files open, but this process and the `executor`.
pub(super) fn name_holders(action: &mut Action, proc: &Path, executor: u32, aside: &Aside) {
    let open = |r: &Refusal| r.reason.starts_with(OPEN) && r.path.is_some();
    if !action.refused.iter().any(open) {
        return;
    }
    let own = [std::process::id(), executor];
    let processes = proc.to_owned();
    let holders = match aside.look(proc, move || Holders::scan(&processes, &own, false)) {
        Ok(holders) => holders,
        Err(why) => {
            tracing::warn!(action = action.id, why, "who has the files open that stay is not named");
            return;
        }
    };
    for refusal in action.refused.iter_mut().filter(|r| open(r)) {
        let Some(object) = action.objects.iter().find(|o| Some(&o.path) == refusal.path.as_ref()) else {
            continue;
        };
        if let Some(holder) = holders.of((object.device, object.inode)) {
            refusal.reason = format!("{OPEN}: {holder}");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::channel;
    use std::time::Duration;

    use super::*;
    use crate::act::specimen;
    use crate::own_mounts::{in_own_mounts, mount_dead};

    #[test]
    fn what_hangs_while_holders_are_looked_for_costs_their_names_alone() {
        in_own_mounts(|base| {
            let hung = base.join("proc");
            std::fs::create_dir(&hung).unwrap();
            let server = mount_dead(&hung);
            let mut action = specimen::action(vec![specimen::object("/a/app.log.1")]);
            let stays = Refusal { path: Some("/a/app.log.1".into()), reason: OPEN.to_owned() };
            action.refused = vec![stays.clone()];
            let (told, named) = channel();
            let looks = std::thread::spawn(move || {
                let aside = Aside::new(Duration::from_millis(20));
                name_holders(&mut action, &hung, 1, &aside);
                let _ = told.send(action.refused);
            });
            let refused = named.recv_timeout(Duration::from_secs(60));
            // Whoever waits for it waits until then.
            drop(server);
            looks.join().unwrap();
            assert_eq!(refused, Ok(vec![stays]));
        });
    }
}
