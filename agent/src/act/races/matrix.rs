//! The matrix: a hostile process in every gap, 1,000 rounds of each trick, two in five on ext4 and three on tmpfs.
//!
//! The executor stops in the gap and waits until another process has done its trick to real files; then it goes on. Each
//! cell counts the rounds that the attacker won, and what became of the object. He won where his trick took effect in the
//! gap; where his open had to wait for the executor's lease, only if he has the file open in the end and it lies at its
//! name. After each batch all canaries are looked at, by inode, digest, owner and mode.

use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap};
use std::fmt::Write as _;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use dogwatch::record::ObjectOutcome;

use super::attacker::Attacker;
use super::cell::{Cell, GAPS, Phase};
use super::common::LoopFs;
use super::field::{Field, Found, alone, apart, is_alone, round_of, rounds};
use super::holds::held;
use super::trick::{Came, Locus, Trick, bind, unbind};
use super::{NOW, Scene};
use crate::act::gaps::{self, Gap};
use crate::act::quarantine::Root;

/// Rounds in one batch: what an action tells of each object fits its record.
const BATCH: usize = 100;
/// In one batch of what is put back: for each, the folders are searched.
const BATCH_BACK: usize = 25;

/// What came of one cell.
#[derive(Debug, Default, Clone)]
struct Tally {
    rounds: usize,
    through: usize,
    /// Had to wait for the executor's lease, and has the object, undeleted.
    has: usize,
    /// Had to wait for it, and has what is deleted.
    late: usize,
    not: BTreeMap<i32, usize>,
    /// Removed; put back, from what a crash left.
    went: usize,
    stayed: usize,
    failed: usize,
}

/// One batch as it goes.
#[derive(Default)]
struct Batch {
    now: Option<usize>,
    undo: Option<usize>,
    held: Option<usize>,
    came: HashMap<usize, Came>,
    /// Of those that opened it: whether it lies at its name, open.
    has: HashMap<usize, bool>,
}

impl Tally {
    fn won(&self) -> usize {
        self.through + self.has
    }
}

struct Rig {
    base: PathBuf,
    attacker: Rc<RefCell<Attacker>>,
    batches: usize,
}

impl Rig {
    fn field(&mut self, cell: Cell, rounds: usize) -> Field {
        self.batches += 1;
        let field = Field::sow(&self.base.join(self.batches.to_string()), rounds, cell.trick.is_to_folder());
        if cell.trick == Trick::DetachRoot {
            bind(&field.places.root(), &field.places.root()).unwrap();
        }
        field
    }

    /// Sets the attacker on the gap of `cell`; `round` tells which one it is, where a path does.
    fn set_on(
        &self,
        cell: Cell,
        field: &Field,
        round: impl Fn(Gap, &Path) -> Option<usize> + 'static,
    ) -> Rc<RefCell<Batch>> {
        let batch = Rc::new(RefCell::new(Batch::default()));
        let (seen, attacker, rounds) = (Rc::clone(&batch), Rc::clone(&self.attacker), field.rounds);
        let hook = move |gap: Gap, path: &Path| {
            let (mut batch, mut attacker) = (seen.borrow_mut(), attacker.borrow_mut());
            let before = batch.now;
            batch.now = round(gap, path).filter(|n| *n < rounds).or(before);
            let Some(n) = batch.now else { return };
            if batch.now != before
                && let Some(last) = batch.undo.take()
            {
                attacker.undo(last);
            }
            if cell.gap == Gap::PuttingBack && gap == Gap::Moved {
                assert_eq!(attacker.strike(n, Trick::Nudge, Locus::Name), Came::Waits);
            }
            if gap != cell.gap || batch.came.contains_key(&n) {
                return;
            }
            let came = if cell.trick == Trick::Hold {
                batch.held = Some(n);
                Came::Through(0)
            } else {
                attacker.strike(n, cell.trick, cell.locus)
            };
            batch.came.insert(n, came);
            batch.undo = cell.trick.is_undone().then_some(n);
        };
        gaps::set_hook(Some(Box::new(hook)));
        batch
    }

    fn call_off(&self, cell: Cell, field: &Field, batch: &RefCell<Batch>) {
        gaps::set_hook(None);
        if let Some(last) = batch.borrow_mut().undo.take() {
            self.attacker.borrow_mut().undo(last);
        }
        if cell.trick == Trick::DetachRoot {
            unbind(&field.places.root()).unwrap();
        }
    }

    fn run(&mut self, cell: Cell, rounds: usize, tally: &mut Tally) {
        let most = match cell.phase {
            // Of one mount, only the first detaching is a race won.
            Phase::Survey | Phase::Restore if cell.trick == Trick::DetachRoot => 1,
            // From then on the root is astray, and nothing else of the batch comes to its gap.
            Phase::Removal if matches!(cell.trick, Trick::BindOverRoot | Trick::DetachRoot) => 1,
            Phase::Restore => BATCH_BACK,
            _ => BATCH,
        };
        let mut left = rounds;
        while left > 0 {
            let size = left.min(most);
            left -= size;
            match cell.phase {
                Phase::Survey => self.survey(cell, size, tally),
                Phase::Removal => self.removal(cell, size, tally),
                Phase::Restore => self.restore(cell, size, tally),
            }
            tally.rounds += size;
        }
    }

    fn survey(&mut self, cell: Cell, size: usize, tally: &mut Tally) {
        let field = self.field(cell, size);
        let cleaner = field.cleaner();
        let device = cleaner.roots[0].as_ref().unwrap().facts.device;
        let places = field.places.clone();
        self.attacker.borrow_mut().aim(&field.places, size, &|n| places.name(n));
        let batch = self.set_on(cell, &field, |gap, path| {
            matches!(gap, Gap::FolderListed | Gap::SurveySeen).then(|| round_of(path)).flatten()
        });
        let found = cleaner.survey(device, NOW).unwrap();
        self.call_off(cell, &field, &batch);
        assert_eq!(found.partial, None, "{cell:?}");
        tally.went += found.candidates.len();
        tally.stayed += size - found.candidates.len();
        let outcomes = vec![ObjectOutcome::Skipped; size];
        check(cell, field, &batch.borrow(), &outcomes, &[], tally);
    }

    fn removal(&mut self, cell: Cell, size: usize, tally: &mut Tally) {
        let field = self.field(cell, size);
        let mut cleaner = field.cleaner();
        let objects = field.planned(&cleaner);
        let places = field.places.clone();
        self.attacker.borrow_mut().aim(&field.places, size, &|n| places.name(n));
        let batch =
            self.set_on(cell, &field, |gap, path| (gap == Gap::Begin).then(|| round_of(path)).flatten());
        let mut outcomes = Vec::new();
        let mut told = Vec::new();
        // Each in an action of its own: objects of one action are looked at together before the first of them goes.
        for (n, object) in objects.iter().enumerate() {
            if cell.trick == Trick::DetachRoot {
                // The last round's root hangs nowhere any more.
                if let Some(last) = batch.borrow_mut().undo.take() {
                    self.attacker.borrow_mut().undo(last);
                }
                cleaner.roots[0] = Some(Root::open(&Scene::policy(&places.root()).roots[0]).unwrap());
            }
            let action = Scene::planned_of(object.clone());
            let news = || Ok(batch.borrow_mut().held.take().map(|n| held(&places.name(n))));
            let applied = cleaner.apply(action, &|| NOW, &news);
            outcomes.extend(applied.objects.iter().map(|o| o.outcome));
            told.extend(applied.refused.into_iter().map(|r| r.reason));
            let mut batch = batch.borrow_mut();
            let opened = matches!(cell.trick, Trick::OpenToRead | Trick::OpenToWrite);
            if opened || batch.came.get(&n) == Some(&Came::Waits) {
                batch.has.insert(n, self.attacker.borrow_mut().has(n));
            }
        }
        self.call_off(cell, &field, &batch);
        for outcome in &outcomes {
            match outcome {
                ObjectOutcome::Removed => tally.went += 1,
                ObjectOutcome::Failed => tally.failed += 1,
                _ => tally.stayed += 1,
            }
        }
        check(cell, field, &batch.borrow(), &outcomes, &told, tally);
    }

    fn restore(&mut self, cell: Cell, size: usize, tally: &mut Tally) {
        let field = self.field(cell, size);
        let cleaner = field.cleaner();
        let entries = field.leave_over();
        self.attacker.borrow_mut().aim(&field.places, size, &|n| entries[n].clone());
        let names: HashMap<_, _> =
            entries.iter().map(|e| e.file_name().unwrap().to_owned()).zip(0..).collect();
        let batch = self.set_on(cell, &field, move |_, path| names.get(path.as_os_str()).copied());
        let leftovers = cleaner.restore_leftovers();
        self.call_off(cell, &field, &batch);
        let stay: Vec<_> = leftovers.iter().filter(|l| !l.restored).collect();
        tally.went += leftovers.len() - stay.len();
        tally.stayed += stay.len();
        let told: Vec<_> = stay.iter().map(|l| l.quarantined.clone()).collect();
        let outcomes = vec![ObjectOutcome::Skipped; size];
        check(cell, field, &batch.borrow(), &outcomes, &told, tally);
    }
}

/// What must hold after a batch, whatever came of the trick.
fn check(
    cell: Cell,
    field: Field,
    batch: &Batch,
    outcomes: &[ObjectOutcome],
    told: &[String],
    tally: &mut Tally,
) {
    let found: HashMap<u64, Found> = field.look();
    let Batch { came, has, .. } = batch;
    let batch = format!("{cell:?} {:?}", told.first());
    field.assert_kept(&found, &batch);
    assert_eq!(field.untold(told), Vec::<PathBuf>::new(), "in quarantine and not told: {batch}");
    for (n, outcome) in outcomes.iter().enumerate() {
        let Some(came) = came.get(&n) else { unreachable!("round {n} did not come to its gap: {batch}") };
        match came {
            Came::Through(_) => tally.through += 1,
            Came::Waits if has[&n] => tally.has += 1,
            Came::Waits => tally.late += 1,
            Came::Not(errno) => *tally.not.entry(*errno).or_default() += 1,
        }
        let removed = *outcome == ObjectOutcome::Removed;
        let round = format!("round {n}, {came:?}, {outcome:?}: {batch}");
        assert!(!(removed && cell.must_stay(*came)), "removed in spite of it: {round}");
        if let Some(has) = has.get(&n) {
            assert_ne!(*has, removed, "what he has open is deleted, or it stayed and he has it not: {round}");
        }
        let struck = matches!(came, Came::Through(_));
        let there = found.get(&field.victims[n]);
        if removed {
            let linked = struck && cell.trick == Trick::ExtraLink;
            // Its number may be another's by now, who is none of the plan's.
            let there = there.is_some_and(|f| f.digest.is_some() && f.path != field.places.name(n));
            assert_eq!(there, linked, "{round}");
        } else if !(struck && cell.destroys()) {
            let beyond = cell.beyond().is_some();
            assert!(there.is_some() || beyond, "the object is lost: {round}");
        }
        if cell.beyond().is_some() && !cell.destroys() {
            let seen = told.iter().any(|t| t.contains("root's rights"));
            assert!(*outcome == ObjectOutcome::Failed && seen, "{round}");
        }
        let Came::Through(inode @ 1..) = came else { continue };
        if cell.beyond().is_some() && cell.trick != Trick::LinkToCanary {
            continue;
        }
        let Some(put) = found.get(inode) else { unreachable!("what was put there is gone: {round}") };
        assert_at_its_place(cell, &field, n, put, told, &round);
    }
    field.reap();
}

/// What the attacker put somewhere lies there, or in quarantine and is told.
fn assert_at_its_place(cell: Cell, field: &Field, n: usize, put: &Found, told: &[String], round: &str) {
    let path = put.path.to_string_lossy();
    let in_quarantine = put.path.starts_with(field.places.quarantine());
    let at = match cell.trick {
        trick if trick.is_to_folder() => put.path == field.places.folder(n),
        // Of its names, the walk may have met the other.
        Trick::LinkToCanary | Trick::QuarantinePremade => return,
        // What lay in the object's place was put back to the object's name.
        _ => put.path == field.places.name(n),
    };
    let is_told = in_quarantine && told.iter().any(|t| t.contains(&*path));
    assert!(at || is_told, "what was put there lies at {path}: {round}");
}

fn on(name: &'static str, fifths: usize, make: fn() -> LoopFs) {
    apart(move || {
        let fs = make();
        let mut rig = Rig {
            base: fs.path().to_owned(),
            attacker: Rc::new(RefCell::new(Attacker::start(0))),
            batches: 0,
        };
        let rounds = (rounds() * fifths).div_ceil(5);
        let only = std::env::var("DOGWATCH_RACE_ONLY").unwrap_or_default();
        let (began, mut tallies) = (std::time::Instant::now(), BTreeMap::new());
        for cell in Cell::all().into_iter().filter(|c| c.impossible().is_none()) {
            if format!("{cell:?}").contains(&only) {
                let mut tally = Tally::default();
                rig.run(cell, rounds, &mut tally);
                tallies.insert(cell, tally);
            }
        }
        let text = table(name, &tallies, began.elapsed().as_secs_f64());
        std::io::stdout().write_all(text.as_bytes()).unwrap();
        for (cell, tally) in &tallies {
            assert_eq!(tally.not, BTreeMap::new(), "{cell:?}: the attacker failed");
            assert_eq!(tally.won() + tally.late, tally.rounds, "{cell:?}: {tally:?}");
            assert!(tally.won() > 0 || is_too_late(*cell, tally), "{cell:?}: nothing was won: {tally:?}");
        }
    });
}

/// Whether each round of `cell` has shown that nobody can win there.
fn is_too_late(cell: Cell, tally: &Tally) -> bool {
    cell.too_late().is_some() && tally.late == tally.rounds
}

/// Gap by trick: how many rounds were won, and what became of the objects; then what cannot be.
fn table(name: &str, tallies: &BTreeMap<Cell, Tally>, seconds: f64) -> String {
    let mut text = String::new();
    let sum = |f: fn(&Tally) -> usize| tallies.values().map(f).sum::<usize>();
    let shut: Vec<_> = tallies.iter().filter(|(cell, t)| is_too_late(**cell, t)).collect();
    let _ = writeln!(
        text,
        "\nraces on {name}: {} cells, {} rounds, the attacker won {} ({} of them after his open had waited for the executor's \
         lease), 0 in no cell; {} cells besides in which the kernel lets nobody win; {seconds:.0} s",
        tallies.len() - shut.len(),
        sum(|t| t.rounds - t.late),
        sum(Tally::won),
        sum(|t| t.has),
        shut.len(),
    );
    for (phase, gap) in GAPS {
        let words = match phase {
            Phase::Survey => "listed/passed over",
            Phase::Removal => "removed/left/failed",
            Phase::Restore => "back/in quarantine",
        };
        let here = || tallies.iter().filter(|(c, _)| (c.phase, c.gap) == (phase, gap));
        let _ = writeln!(text, "{phase:?} at {gap:?} (trick: won of rounds, {words})");
        for (cell, t) in here().filter(|(cell, t)| !is_too_late(**cell, t)) {
            let place = if cell.locus == Locus::Entry { " in quarantine" } else { "" };
            let failed = if phase == Phase::Removal { format!("/{}", t.failed) } else { String::new() };
            let waited =
                if t.has > 0 { format!("  {} after waiting for the lease", t.has) } else { String::new() };
            let seen = if cell.destroys() { "not seen" } else { "told" };
            let beyond =
                cell.beyond().map(|why| format!("  not prevented, {seen}: {why}")).unwrap_or_default();
            let _ = writeln!(
                text,
                "  {:?}{place}: {} of {}, {}/{}{failed}{waited}{beyond}",
                cell.trick,
                t.won(),
                t.rounds,
                t.went,
                t.stayed
            );
        }
        let mut late: BTreeMap<(&str, usize), Vec<String>> = BTreeMap::new();
        for (cell, t) in here().filter(|(cell, t)| is_too_late(**cell, t)) {
            let why = cell.too_late().unwrap_or_default();
            late.entry((why, t.rounds)).or_default().push(format!("{:?}", cell.trick));
        }
        for ((why, rounds), tricks) in late {
            let _ = writeln!(
                text,
                "  impossible by the kernel, shown by {rounds} rounds of each, for {why}: {}",
                tricks.join(", ")
            );
        }
        let cells = Cell::all();
        let here = cells.iter().filter(|c| (c.phase, c.gap) == (phase, gap));
        let mut reasons: BTreeMap<&str, Vec<String>> = BTreeMap::new();
        for cell in here {
            if let Some(why) = cell.impossible() {
                let place = if cell.locus == Locus::Entry { " in quarantine" } else { "" };
                reasons.entry(why).or_default().push(format!("{:?}{place}", cell.trick));
            }
        }
        for (why, tricks) in reasons {
            let _ = writeln!(text, "  cannot be, for {why}: {}", tricks.join(", "));
        }
    }
    text
}

#[test]
fn in_every_gap_every_trick_wins_and_nothing_else_goes_on_ext4() {
    alone("act::races::matrix::on_ext4");
}

#[test]
fn in_every_gap_every_trick_wins_and_nothing_else_goes_on_tmpfs() {
    alone("act::races::matrix::on_tmpfs");
}

/// Not a test by itself.
#[test]
#[ignore = "started by another test"]
fn on_ext4() {
    if is_alone() {
        on("ext4", 2, || LoopFs::ext4(64));
    }
}

/// Not a test by itself.
#[test]
#[ignore = "started by another test"]
fn on_tmpfs() {
    if is_alone() {
        on("tmpfs", 3, || LoopFs::tmpfs(64));
    }
}
