//! What a container has mounted, by an executor that cannot see it itself.

use std::fs;
use std::process::Command;

use super::common::LoopFs;
use super::{DEADLINE, device, make_plan, policy, spawn};

#[test]
fn a_file_that_another_namespace_has_mounted_stays_by_a_plan_from_before_too() {
    use std::io::Read as _;
    let fs = LoopFs::ext4(32);
    let root = fs.path().join("logs");
    fs::create_dir(&root).unwrap();
    for n in 1..=3 {
        fs::write(root.join(format!("app.log.{n}")), vec![b'x'; 1 << 20]).unwrap();
    }
    let policy = policy(&root);
    let mut executor = spawn(policy.clone());
    let before = executor.survey(device(&root), DEADLINE).unwrap();
    let before = make_plan(&before, &policy, &root, u64::MAX, 0);
    assert_eq!(before.objects.len(), 3, "{:?}", before.refused);

    let script = format!(
        "mount -t tmpfs t /mnt; touch /mnt/x; mount --bind '{}' /mnt/x; echo ready; read _ || true",
        root.join("app.log.2").display()
    );
    let mut other = Command::new("unshare")
        .args(["-m", "--propagation", "private", "sh", "-ec", &script])
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    other.stdout.as_mut().unwrap().read_exact(&mut [0; 6]).expect("its mounts failed");
    let why = format!("mounted at /mnt/x of process {} (sh)", other.id());

    let survey = executor.survey(device(&root), DEADLINE).unwrap();
    assert_eq!(survey.candidates.len(), 2);
    assert!(survey.passed_over.iter().any(|r| r.reason == why), "{:?}", survey.passed_over);
    let done = executor.apply(&before, DEADLINE).unwrap();
    let said: Vec<&str> = done.refused.iter().map(|r| r.reason.as_str()).collect();
    assert!(said.contains(&why.as_str()), "{said:?}");
    let left = |n: u8| root.join(format!("app.log.{n}")).exists();
    assert_eq!([1, 2, 3].map(left), [false, true, false]);
    drop(other.stdin.take());
    other.wait().unwrap();
}
