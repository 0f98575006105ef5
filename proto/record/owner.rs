//! How a pod's name betrays who made it. One rule for all that choose pods by name, so that a list and what follows it agree.
//!
//! Limits: a name is all there is, since a node knows no owners; a pod that somebody named as if it were made up passes for one.

/// Letters and digits of the names that Kubernetes makes up (apimachinery, `util/rand`: no vowels, no 0, 1, 3).
const MADE_UP: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";

/// Whether pod `name` on `node` is `wanted`, or one that its owner of that name made: `wanted` and then
/// - the hashes of a Deployment's ReplicaSet and pod (`-6d5f8-x2x`), or of a CronJob's run and pod (`-29012345-x2xzz`);
/// - the hash of a ReplicaSet's, DaemonSet's or Job's pod (`-x2xzz`);
/// - a StatefulSet's ordinal (`-0`), or the node of a static pod.
///
/// Made-up names have no vowels, so `api` is not taken for the owner of `api-gateway`.
pub fn named_after(wanted: &str, name: &str, node: Option<&str>) -> bool {
    let Some(rest) = name.strip_prefix(wanted) else { return false };
    let Some(rest) = rest.strip_prefix('-') else { return rest.is_empty() };
    let made_up =
        |t: &str, least, most| (least..=most).contains(&t.len()) && t.bytes().all(|b| MADE_UP.contains(&b));
    let number = |t: &str| (1..=10).contains(&t.len()) && t.bytes().all(|b| b.is_ascii_digit());
    if node.is_some_and(|n| n == rest) {
        return true;
    }
    match rest.split_once('-') {
        None => number(rest) || made_up(rest, 5, 5),
        Some((owner, pod)) => (made_up(owner, 5, 10) || number(owner)) && made_up(pod, 3, 5),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pod_is_found_by_its_name_and_by_its_owners() {
        let fits = |wanted: &str, name: &str| named_after(wanted, name, Some("node-a"));
        for (wanted, name) in [
            ("api", "api"),
            ("api", "api-6d5f8-x2x"),
            ("api", "api-6d5f8b7c9d-x2xzz"),
            ("api-6d5f8b7c9d", "api-6d5f8b7c9d-x2xzz"),
            ("agent", "agent-x2xzz"),
            ("db", "db-0"),
            ("db", "db-12"),
            ("backup", "backup-29012345-x2xzz"),
            ("kube-apiserver", "kube-apiserver-node-a"),
        ] {
            assert!(fits(wanted, name), "{wanted} {name}");
        }
        for (wanted, name) in [
            ("api", "apix"),
            ("api", "api-gateway"),
            ("api", "api-gateway-x2xzz"),
            ("api", "api-gateway-6d5f8b7c9d-x2xzz"),
            ("api", "api-v2-0"),
            ("api-6d5f8-x2x", "api"),
            ("api", "other-api"),
            ("kube-apiserver", "kube-apiserver-node-b"),
        ] {
            assert!(!fits(wanted, name), "{wanted} {name}");
        }
    }
}
