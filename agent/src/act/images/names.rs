//! Names of images, made comparable: as containerd and CRI-O list them, and as people write them in pods.
//!
//! Pure. A name that cannot be understood stays as it is and equals only itself.

/// The one way to write `name`: with a registry, and a tag or digest; an id with its algorithm.
///
/// `busybox` is `docker.io/library/busybox:latest` (the defaults of distribution/reference).
pub(super) fn canonical(name: &str) -> String {
    if name.starts_with("sha256:") {
        return name.to_owned();
    }
    if name.len() == 64 && name.bytes().all(|b| b.is_ascii_hexdigit()) {
        return format!("sha256:{name}");
    }
    let registry = |first: &str| first.contains(['.', ':']) || first == "localhost";
    let full = match name.split_once('/') {
        Some((first, _)) if registry(first) => name.to_owned(),
        Some(_) => format!("docker.io/{name}"),
        None => format!("docker.io/library/{name}"),
    };
    if full.contains('@') || tag_at(&full).is_some() { full } else { format!("{full}:latest") }
}

/// Every canonical name that `name` stands for: one with a tag and a digest stands for both.
pub(super) fn meanings(name: &str) -> Vec<String> {
    let full = canonical(name);
    match full.split_once('@') {
        Some((before, digest)) => {
            let mut all = vec![format!("{}@{digest}", repository(before))];
            if tag_at(before).is_some() {
                all.push(before.to_owned());
            }
            all
        }
        None => vec![full],
    }
}

/// A canonical name without tag and digest.
pub(super) fn repository(name: &str) -> &str {
    let name = name.split_once('@').map_or(name, |(before, _)| before);
    tag_at(name).map_or(name, |at| &name[..at])
}

/// Whether a repository is by its name that of the image that holds a pod's namespaces: `pause`, as Kubernetes, k3s
/// (`mirrored-pause`), EKS and AKS call it, and `pod-infrastructure` of older OpenShift.
pub(super) fn is_pause(repository: &str) -> bool {
    let last = repository.rsplit('/').next().unwrap_or(repository);
    let word = |w: &str| last.split(['-', '_', '.']).any(|part| part == w);
    word("pause") || last == "pod-infrastructure" || last == "podman-pause"
}

/// Where the tag's colon is: the last one, behind the last slash.
fn tag_at(name: &str) -> Option<usize> {
    let last = name.rfind('/').map_or(0, |at| at + 1);
    name[last..].rfind(':').map(|at| last + at)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_one_image_become_equal() {
        let hex = "ab".repeat(32);
        for (written, one) in [
            ("busybox", "docker.io/library/busybox:latest"),
            ("a/b:1", "docker.io/a/b:1"),
            ("localhost/x", "localhost/x:latest"),
            ("r.test:5000/x", "r.test:5000/x:latest"),
            ("r.test/x@sha256:00", "r.test/x@sha256:00"),
            ("sha256:00", "sha256:00"),
        ] {
            assert_eq!(canonical(written), one);
            assert_eq!(canonical(one), one, "canonical names stay");
        }
        assert_eq!(canonical(&hex), format!("sha256:{hex}"));
        assert_eq!(meanings("r.test/x:1@sha256:00"), ["r.test/x@sha256:00", "r.test/x:1"]);
        assert_eq!(meanings("x@sha256:00"), ["docker.io/library/x@sha256:00"]);
    }

    #[test]
    fn repositories_have_neither_tag_nor_digest() {
        assert_eq!(repository("r.test:5000/x"), "r.test:5000/x");
        assert_eq!(repository("r.test:5000/x:1"), "r.test:5000/x");
        assert_eq!(repository("r.test:5000/x:1@sha256:00"), "r.test:5000/x");
    }

    #[test]
    fn pause_images_are_known_by_name_and_nothing_else_is() {
        for pause in ["registry.k8s.io/pause", "docker.io/rancher/mirrored-pause", "x/eks/pause-amd64"] {
            assert!(is_pause(pause), "{pause}");
        }
        for other in ["docker.io/library/menopause", "r.test/pauses", "r.test/pause/app"] {
            assert!(!is_pause(other), "{other}");
        }
    }

    #[test]
    fn no_name_is_too_odd() {
        for odd in ["", "/", ":", "@", "a@@b", "é/ü:ß", "::::", "a/:"] {
            let one = canonical(odd);
            assert_eq!(canonical(&one), one, "{odd:?}");
            repository(&one);
            assert!(!meanings(odd).is_empty());
        }
    }
}
