//! The keeper against a runtime that can be made to say anything.

use std::cell::Cell;
use std::rc::Rc;
use std::sync::{Arc, Mutex};

use dogwatch::record::CleanupMode;
use tokio::net::UnixListener;
use tokio_stream::wrappers::UnixListenerStream;
use tonic::{Request, Response, Status};

use super::super::cri::wire;
use super::super::cri::wire::image_service_server::{ImageService, ImageServiceServer};
use super::super::cri::wire::runtime_service_server::{RuntimeService, RuntimeServiceServer};
use super::super::inventory::MAX_IMAGES;
use super::super::policy::ImagePolicy;
use super::*;
use crate::act::hold::{HeldThing, HoldSet, NodeHold};
use crate::act::policy::Budgets;
use crate::act::specimen;

#[derive(Default)]
struct State {
    images: Vec<wire::Image>,
    containers: Vec<wire::Container>,
    store_at: String,
    used_bytes: u64,
    /// Removal answers so and does not remove.
    refuses: Option<Status>,
    removed: Vec<String>,
}

#[derive(Clone, Default)]
struct Fake(Arc<Mutex<State>>);

type Answer<T> = Result<Response<T>, Status>;

#[tonic::async_trait]
impl ImageService for Fake {
    async fn list_images(&self, _: Request<wire::ListImagesRequest>) -> Answer<wire::ListImagesResponse> {
        Ok(Response::new(wire::ListImagesResponse { images: self.0.lock().unwrap().images.clone() }))
    }
    async fn image_status(&self, _: Request<wire::ImageStatusRequest>) -> Answer<wire::ImageStatusResponse> {
        Ok(Response::new(wire::ImageStatusResponse::default()))
    }
    async fn remove_image(
        &self,
        asked: Request<wire::RemoveImageRequest>,
    ) -> Answer<wire::RemoveImageResponse> {
        let mut state = self.0.lock().unwrap();
        if let Some(status) = &state.refuses {
            return Err(status.clone());
        }
        let id = asked.into_inner().image.unwrap().image;
        state.images.retain(|i| i.id != id);
        state.used_bytes -= 10;
        state.removed.push(id);
        Ok(Response::new(wire::RemoveImageResponse {}))
    }
    async fn image_fs_info(&self, _: Request<wire::ImageFsInfoRequest>) -> Answer<wire::ImageFsInfoResponse> {
        let state = self.0.lock().unwrap();
        let usage = wire::FilesystemUsage {
            timestamp: i64::MAX,
            fs_id: Some(wire::FilesystemIdentifier { mountpoint: state.store_at.clone() }),
            used_bytes: Some(wire::UInt64Value { value: state.used_bytes }),
            inodes_used: Some(wire::UInt64Value { value: 100 }),
        };
        Ok(Response::new(wire::ImageFsInfoResponse { image_filesystems: vec![usage] }))
    }
}

#[tonic::async_trait]
impl RuntimeService for Fake {
    async fn list_containers(
        &self,
        _: Request<wire::ListContainersRequest>,
    ) -> Answer<wire::ListContainersResponse> {
        let containers = self.0.lock().unwrap().containers.clone();
        Ok(Response::new(wire::ListContainersResponse { containers }))
    }
    async fn list_container_stats(
        &self,
        _: Request<wire::ListContainerStatsRequest>,
    ) -> Answer<wire::ListContainerStatsResponse> {
        Ok(Response::new(wire::ListContainerStatsResponse::default()))
    }
    async fn status(&self, _: Request<wire::StatusRequest>) -> Answer<wire::StatusResponse> {
        Ok(Response::new(wire::StatusResponse::default()))
    }
}

fn image(n: u64) -> wire::Image {
    wire::Image {
        id: format!("sha256:{n:064x}"),
        repo_tags: vec![format!("registry.test/app{n}:1")],
        size: 10,
        ..Default::default()
    }
}

/// A keeper, its runtime, its clock, and the device that images lie on.
struct Scene {
    fake: Fake,
    keeper: Keeper,
    seconds: Rc<Cell<u64>>,
    device: u64,
    _folder: tempfile::TempDir,
}

impl Scene {
    fn new(images: u64, policy: ImagePolicy) -> Self {
        use std::os::unix::fs::MetadataExt;
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("sock");
        let state = State {
            images: (0..images).map(image).collect(),
            store_at: folder.path().display().to_string(),
            used_bytes: 1_000,
            ..State::default()
        };
        let fake = Fake(Arc::new(Mutex::new(state)));
        let listener = UnixListener::bind(&socket).unwrap();
        let router = tonic::transport::Server::builder()
            .add_service(ImageServiceServer::new(fake.clone()))
            .add_service(RuntimeServiceServer::new(fake.clone()));
        tokio::spawn(router.serve_with_incoming(UnixListenerStream::new(listener)));
        let rules = ImageRules::new(ImagePolicy { socket: Some(socket), ..policy }).unwrap();
        let held = HeldNow { set: HoldSet::Known(Vec::new()), host_root: "/".into() };
        let seconds = Rc::new(Cell::new(0));
        let now = seconds.clone();
        let clock = move || Now { wall_ns: 1_000, boot_ns: now.get() * 1_000_000_000 };
        let keeper = Keeper::new(rules, "/".into(), folder.path().to_owned(), held, Box::new(clock));
        let device = std::fs::metadata(folder.path()).unwrap().dev();
        Self { fake, keeper, seconds, device, _folder: folder }
    }

    async fn survey(&mut self) -> Result<Survey, String> {
        self.keeper.survey(self.device).await
    }

    async fn plan(&mut self) -> Action {
        let survey = self.survey().await.unwrap();
        let objects = survey.candidates.into_iter().map(|c| c.object).collect();
        Action { planned_bytes: 0, expires_wall_ns: 2_000, ..specimen::action(objects) }
    }

    fn with<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        change(&mut self.fake.0.lock().unwrap())
    }
}

fn policy() -> ImagePolicy {
    ImagePolicy { mode: CleanupMode::Plan, min_age_seconds: 0, keep_newest: 0, ..ImagePolicy::default() }
}

fn no_news() -> News {
    News::default()
}

fn skipped(action: &Action) -> String {
    assert!(action.objects.iter().all(|o| o.outcome != ObjectOutcome::Removed), "{action:#?}");
    action.refused.iter().map(|r| r.reason.clone()).collect::<Vec<_>>().join("; ")
}

#[tokio::test]
async fn an_image_goes_by_its_id_and_the_figures_are_the_runtimes() {
    let mut scene = Scene::new(2, policy());
    let plan = scene.plan().await;
    let applied = scene.keeper.apply(plan, &no_news).await;
    assert_eq!(applied.state, ActionState::Done);
    assert_eq!(scene.with(|s| s.removed.clone()), [image(0).id, image(1).id]);
    let store = applied.image_store.unwrap();
    assert_eq!((store.listed_bytes, store.used_before_bytes, store.used_after_bytes), (20, 1_000, Some(980)));
    assert_eq!(applied.freed_bytes, Some(20));
}

/// What comes between the plan and the deed.
#[tokio::test]
async fn whatever_changed_since_the_plan_saves_the_image() {
    type Change = fn(&mut State);
    let changes: [(&str, Change); 6] = [
        ("(created) uses it", |s| {
            s.containers.push(wire::Container { image_ref: image(0).id, ..Default::default() });
        }),
        ("its names changed", |s| s.images[0].repo_tags = vec!["registry.test/other:1".to_owned()]),
        ("its names changed", |s| s.images[0].repo_digests = vec!["registry.test/a@sha256:00".to_owned()]),
        ("pinned", |s| s.images[0].pinned = true),
        ("gone already", |s| s.images.clear()),
        ("does not say which image", |s| s.containers.push(wire::Container::default())),
    ];
    for (words, change) in changes {
        let mut scene = Scene::new(1, policy());
        let plan = scene.plan().await;
        let state = scene.fake.0.clone();
        // Not before the very last look.
        scene.keeper.before_look = Some(Box::new(move || change(&mut state.lock().unwrap())));
        let applied = scene.keeper.apply(plan, &no_news).await;
        assert!(skipped(&applied).contains(words), "{words}: {applied:#?}");
        assert_eq!(scene.with(|s| s.removed.len()), 0);
    }
}

#[tokio::test]
async fn a_hold_that_comes_before_the_removal_wins_by_every_name() {
    for name in ["registry.test/app0", "registry.test/app0:1", &image(0).id, "registry.test"] {
        let mut scene = Scene::new(1, policy());
        let plan = scene.plan().await;
        let what = HeldThing::Path(place(name));
        let hold = NodeHold { id: "hold-1".to_owned(), what, reason: "court".to_owned() };
        let held = HeldNow { set: HoldSet::Known(vec![hold]), host_root: "/".into() };
        let asked = Cell::new(0);
        // The second time is the last moment, after the last look.
        let news = || {
            asked.set(asked.get() + 1);
            News { held: (asked.get() == 2).then(|| held.clone()), stop: None }
        };
        let applied = scene.keeper.apply(plan, &news).await;
        assert_eq!(skipped(&applied), "held: hold-1 court", "{name}");
        assert_eq!(asked.get(), 2);
    }
    let mut scene = Scene::new(1, policy());
    let plan = scene.plan().await;
    scene.keeper.hold(HeldNow { set: HoldSet::Unknown("torn".to_owned()), host_root: "/".into() });
    assert!(skipped(&scene.keeper.apply(plan, &no_news).await).contains("not known: torn"));
    let mut scene = Scene::new(1, policy());
    let plan = scene.plan().await;
    let gone = || News { held: None, stop: Some("the agent ended".to_owned()) };
    assert_eq!(skipped(&scene.keeper.apply(plan, &gone).await), "the agent ended");
}

#[tokio::test]
async fn a_stop_that_comes_with_a_hold_of_something_else_ends_it_before_the_next_image() {
    let mut scene = Scene::new(2, policy());
    let plan = scene.plan().await;
    let elsewhere = HeldNow { set: HoldSet::Known(Vec::new()), host_root: "/elsewhere".into() };
    let asked = Cell::new(0);
    // At the last moment of the first.
    let news = || {
        asked.set(asked.get() + 1);
        let now = asked.get() >= 2;
        News { held: now.then(|| elsewhere.clone()), stop: now.then(|| "stopped: enough".to_owned()) }
    };
    let applied = scene.keeper.apply(plan, &news).await;
    assert_eq!(skipped(&applied), "stopped: enough; stopped: enough");
    assert_eq!(scene.keeper.held, elsewhere, "and the hold is not lost for it");
}

#[tokio::test]
async fn what_a_keeper_before_it_spent_counts_for_the_hour() {
    let budgets = Budgets { max_objects_per_hour: 3, ..ImagePolicy::default().budgets };
    let mut scene = Scene::new(3, ImagePolicy { budgets, ..policy() });
    scene.keeper.spent(&[Spending { at_boot_ns: 0, source: Source::NoRoot, objects: 2, bytes: 20 }]);
    assert_eq!(scene.survey().await.unwrap().candidates.len(), 1);
    scene.seconds.set(3_602);
    assert_eq!(scene.survey().await.unwrap().candidates.len(), 3, "an hour later");
}

#[tokio::test]
async fn plans_that_are_stale_forged_or_too_large_are_refused() {
    let mut scene = Scene::new(3, ImagePolicy { min_age_seconds: 60, ..policy() });
    assert_eq!(scene.survey().await.unwrap().candidates.len(), 0, "young");
    scene.seconds.set(60);
    let plan = scene.plan().await;
    assert_eq!(plan.objects.len(), 3);
    let mut expired = plan.clone();
    expired.expires_wall_ns = 1_000;
    assert!(skipped(&scene.keeper.apply(expired, &no_news).await).contains("expired"));
    let mut done = plan.clone();
    done.state = ActionState::Done;
    assert!(skipped(&scene.keeper.apply(done, &no_news).await).contains("cannot be applied"));
    let mut elsewhere = plan.clone();
    elsewhere.objects.iter_mut().for_each(|o| o.device += 1);
    assert!(
        skipped(&scene.keeper.apply(elsewhere, &no_news).await).contains("do not lie on that filesystem")
    );
    let mut file = plan.clone();
    file.objects.iter_mut().for_each(|o| o.image = None);
    assert!(skipped(&scene.keeper.apply(file, &no_news).await).contains("it is no image"));
    // A parent that names what is pinned, young or used gets it as little as any other.
    let mut forged = plan;
    scene.with(|s| s.images[0].pinned = true);
    scene.with(|s| s.images.push(image(9)));
    forged.objects[1].image.as_mut().unwrap().id = image(9).id;
    forged.objects[1].image.as_mut().unwrap().tags = image(9).repo_tags;
    forged.objects.truncate(2);
    let said = skipped(&scene.keeper.apply(forged, &no_news).await);
    assert!(said.contains("pinned") && said.contains("less than 1 min"), "{said}");
}

#[tokio::test]
async fn budgets_bound_what_is_offered_and_what_goes() {
    let budgets = Budgets { max_objects: 2, max_objects_per_hour: 3, ..ImagePolicy::default().budgets };
    let mut scene = Scene::new(5, ImagePolicy { budgets, ..policy() });
    let survey = scene.survey().await.unwrap();
    assert_eq!(survey.candidates.len(), 2);
    let over = survey.passed_over.iter().filter(|r| r.reason.contains("2 images an action")).count();
    assert_eq!(over, 3);
    for (left, words) in [(3, ""), (2, "3 images an hour"), (2, "3 images an hour")] {
        let plan = scene.plan().await;
        scene.keeper.apply(plan, &no_news).await;
        assert_eq!(scene.with(|s| s.images.len()), left);
        let survey = scene.survey().await.unwrap();
        assert!(survey.passed_over.iter().any(|r| r.reason.contains(words)), "{survey:#?}");
    }
    assert_eq!(scene.survey().await.unwrap().candidates.len(), 0);
}

#[tokio::test]
async fn a_runtime_that_refuses_or_says_too_much_removes_nothing() {
    let mut scene = Scene::new(2, policy());
    let plan = scene.plan().await;
    scene.with(|s| s.refuses = Some(Status::failed_precondition("in use\u{1b}[2J")));
    let applied = scene.keeper.apply(plan.clone(), &no_news).await;
    assert_eq!(applied.state, ActionState::Done);
    assert!(skipped(&applied).contains("refused RemoveImage: FailedPrecondition: in use[2J"), "{applied:#?}");
    assert!(applied.objects.iter().all(|o| o.outcome == ObjectOutcome::Failed));

    scene.with(|s| s.refuses = Some(Status::unavailable("going down")));
    let applied = scene.keeper.apply(plan.clone(), &no_news).await;
    assert_eq!(applied.state, ActionState::Failed);
    assert!(applied.detail.contains("did not answer RemoveImage"), "{}", applied.detail);
    let outcomes: Vec<ObjectOutcome> = applied.objects.iter().map(|o| o.outcome).collect();
    assert_eq!(outcomes, [ObjectOutcome::Failed, ObjectOutcome::Skipped]);

    scene.with(|s| s.images = (0..MAX_IMAGES as u64 + 1).map(image).collect());
    assert!(scene.survey().await.unwrap_err().contains("over 2000"));
    scene.with(|s| s.images = vec![wire::Image { id: "x".repeat(9 << 20), ..Default::default() }]);
    let said = scene.survey().await.unwrap_err();
    assert!(said.contains("ListImages cannot be used"), "{said}");
    scene.with(|s| {
        s.images = vec![image(0)];
        s.containers = vec![wire::Container { image_ref: "y".repeat(5_000), ..Default::default() }];
    });
    assert!(scene.survey().await.unwrap_err().contains("over 4096 bytes"));
    scene.with(|s| (s.containers.clear(), s.store_at = "not/absolute".to_owned()));
    assert!(scene.survey().await.unwrap_err().contains("does not say where its images lie"));
    assert_eq!(scene.with(|s| s.removed.len()), 0);
}
