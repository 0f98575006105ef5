//! The picture on ratatui's test terminal, the keys, and the reckoning.

use dogwatch::record::{Cgroup, Cpu, Memory, Pod, Sample};
use ratatui::Terminal;
use ratatui::backend::TestBackend;

use super::board::{Board, MAX_POINTS, pods};
use super::draw;
use super::rows::{self, Choice, Row};
use super::ui::{Flow, Press, Ui};
use crate::args::{Selectors, TopView};
use crate::output::text::is_dangerous;
use crate::view::{Mount, Node, Observed};

const S: i64 = 1_000_000_000;
const T0: i64 = 1_795_227_000 * S;

fn sample(n: u64) -> Sample {
    let pod = |name: &str| Some(Pod { namespace: "shop".into(), name: name.into(), ..Pod::default() });
    Sample {
        memory: Some(Memory {
            total_bytes: 100,
            available_bytes: 90_u64.saturating_sub(n),
            ..Memory::default()
        }),
        cpu: Some(Cpu { user_us: n * 250_000, idle_us: n * 750_000, load1: 0.5, ..Cpu::default() }),
        cgroups: vec![
            Cgroup {
                pod: pod("api-\u{1b}[2J漢字"),
                working_set_bytes: Some((100 + n) << 20),
                cpu_us_total: Some(n * 500_000),
                ..Cgroup::default()
            },
            Cgroup { pod: pod("web-0"), working_set_bytes: Some(1 << 30), ..Cgroup::default() },
        ],
        ..Sample::default()
    }
}

fn observed(name: &str, n: u64) -> Observed {
    let mount = |path: &str, used: u64, soon| Mount {
        path: path.into(),
        fs: "ext4".into(),
        total_bytes: 100,
        used_bytes: used,
        available_bytes: 100 - used,
        inodes_total: None,
        inodes_free: None,
        read_only: false,
        seconds_to_full: soon,
    };
    Observed {
        node: Node {
            name: name.into(),
            state: Some("connected".into()),
            last_seen: None,
            agent_version: None,
            mounts: vec![mount("/", 95, None), mount("/data", 50, Some(600.0))],
            mode: None,
            unable: vec![],
            records_total: None,
            sampled_at: None,
            memory_total_bytes: None,
            memory_available_bytes: None,
            load1: Some(0.5),
        },
        sample: Some((T0 + n as i64 * S, sample(n))),
        unread: None,
    }
}

fn board() -> Board {
    let mut board = Board::new(900 * S);
    for n in 0..20 {
        board.look(vec![observed("node-1", n), observed("node-\u{202e}2", n)], T0 + n as i64 * S);
    }
    board
}

fn ui(view: TopView) -> Ui {
    Ui::new(view, None, Choice { which: Selectors::default(), containers: false })
}

fn drawn(ui: &mut Ui, board: &Board, columns: u16, height: u16, ascii: bool) -> String {
    let mut terminal = Terminal::new(TestBackend::new(columns, height)).unwrap();
    terminal
        .draw(|frame| {
            let lines = draw::picture(ui, board, columns.into(), height.into());
            draw::show(frame, &lines, true, ascii);
        })
        .unwrap();
    terminal.backend().to_string()
}

#[test]
fn every_view_is_drawn_at_every_size() {
    let board = board();
    for view in TopView::ALL {
        for (columns, height) in [(1, 1), (3, 2), (20, 5), (40, 12), (80, 12), (120, 30), (200, 50)] {
            let mut ui = ui(view);
            let shown = drawn(&mut ui, &board, columns, height, false);
            assert!(!shown.chars().any(|c| c != '\n' && is_dangerous(c)), "{shown}");
            if height == 12 {
                insta::assert_snapshot!(format!("{}-{columns}", view.as_str()), shown);
            }
            assert!(drawn(&mut ui, &board, columns, height, true).is_ascii());
        }
    }
    let mut one = ui(TopView::Nodes);
    one.node = Some("node-1".into());
    insta::assert_snapshot!("node", drawn(&mut one, &board, 80, 24, false));
    one.help = true;
    insta::assert_snapshot!("help", drawn(&mut one, &board, 80, 16, false));
}

#[test]
fn what_is_full_is_said_before_what_will_be() {
    let mut board = board();
    let mut full = observed("node-3", 0);
    (full.node.mounts[1].used_bytes, full.node.mounts[1].available_bytes) = (100, 0);
    full.node.mounts[1].seconds_to_full = Some(0.0);
    board.look(vec![observed("node-1", 20), full], T0 + 20 * S);
    insta::assert_snapshot!("full-80", drawn(&mut ui(TopView::Mounts), &board, 80, 12, false));
}

#[test]
fn keys_do_what_the_help_says() {
    let board = board();
    let mut ui = ui(TopView::Nodes);
    drawn(&mut ui, &board, 80, 12, false);
    for (key, holds) in [
        (Press::Down, (|u: &Ui| u.selected == 1) as fn(&Ui) -> bool),
        (Press::Up, |u| u.selected == 0),
        (Press::Char('s'), |u| u.sort() == 1),
        (Press::Char('S'), |u| u.sort() == 0),
        (Press::Char('S'), |u| u.sort() == rows::sorts(TopView::Nodes).len() - 1),
        (Press::Char('r'), |u| u.reverse),
        (Press::Char('?'), |u| u.help),
        (Press::Char('x'), |u| !u.help),
        (Press::Char(' '), |u| u.paused),
        (Press::Enter, |u| u.node.as_deref() == Some("node-1")),
        (Press::Back, |u| u.node.is_none()),
        (Press::Left, |u| u.view == TopView::Disks),
        (Press::Right, |u| u.view == TopView::Nodes),
        (Press::Char('3'), |u| u.view == TopView::Pods),
        (Press::Char('c'), |u| u.choice.containers),
        (Press::End, |u| u.selected > 0),
    ] {
        assert_eq!(ui.press(key), Flow::Draw);
        assert!(holds(&ui), "{key:?}: {ui:?}");
    }
    drawn(&mut ui, &board, 80, 12, false);
    assert_eq!(ui.selected, 0, "no further than the last row: none has a container");
    assert_eq!((ui.press(Press::Char('q')), ui.press(Press::Quit)), (Flow::Quit, Flow::Quit));
    ui.help = true;
    assert_eq!(ui.press(Press::Char('q')), Flow::Quit);
}

#[test]
fn what_fills_soonest_comes_first_and_what_is_fullest_next() {
    let mut found = rows::rows(&board(), TopView::Mounts, &ui(TopView::Mounts).choice);
    rows::sort(&mut found, 0, false);
    let paths: Vec<_> =
        found.iter().map(|r| crate::output::Listed::name(r).unwrap_or_default().to_owned()).collect();
    assert_eq!(paths, ["/data", "/data", "/", "/"]);
}

#[test]
fn rates_and_growth_come_of_counters() {
    let board = board();
    let w = &board.nodes["node-1"];
    assert!((w.cpu().unwrap() - 0.25).abs() < 1e-9);
    let found = rows::rows(&board, TopView::Pods, &ui(TopView::Pods).choice);
    let Row::Pod(api) = &found[0] else { panic!("{found:?}") };
    assert_eq!((api.growth_bytes, api.growth_seconds), (Some(19 << 20), Some(19.0)));
    assert!((api.cpu_cores.unwrap() - 0.5).abs() < 1e-9);
    let Row::Pod(web) = &found[1] else { panic!("{found:?}") };
    assert_eq!((web.cpu_cores, web.growth_bytes), (None, Some(0)), "no counter, no figure");
}

#[test]
fn a_counter_that_began_again_gives_no_rate() {
    let mut board = Board::new(900 * S);
    board.look(vec![observed("node-1", 50)], T0);
    let mut after = observed("node-1", 1);
    after.sample = Some((T0 + 60 * S, sample(1)));
    board.look(vec![after], T0 + 60 * S);
    assert_eq!(board.nodes["node-1"].cpu(), None);
    let found = rows::rows(&board, TopView::Pods, &ui(TopView::Pods).choice);
    let Row::Pod(api) = &found[0] else { panic!("{found:?}") };
    assert_eq!(api.cpu_cores, None);
}

#[test]
fn history_is_bounded_and_in_order() {
    let mut board = Board::new(i64::MAX);
    board.look(vec![observed("node-1", 1_000)], T0);
    let past: Vec<_> = (0..1_000).rev().map(|n| (T0 + n as i64 * S, sample(n % 50))).collect();
    board.remember("node-1", &past);
    let points = &board.nodes["node-1"].points;
    assert_eq!(points.len(), MAX_POINTS);
    assert!(points.iter().zip(points.iter().skip(1)).all(|(a, b)| a.at < b.at));
    board.look(vec![], T0);
    assert!(board.nodes.is_empty(), "a node that is gone is dropped");
}

#[test]
fn one_pod_has_groups_in_several_controllers() {
    let pod = |container: &str| {
        Some(Pod { namespace: "n".into(), name: "p".into(), container: container.into(), ..Pod::default() })
    };
    let all = pods(&[
        Cgroup { pod: pod("a"), cpu_us_total: Some(1), ..Cgroup::default() },
        Cgroup {
            pod: pod("a"),
            working_set_bytes: Some(10),
            memory_limit_bytes: Some(20),
            cpu_limit_cores: Some(0.5),
            ..Cgroup::default()
        },
        Cgroup {
            pod: pod("b"),
            cpu_us_total: Some(2),
            working_set_bytes: Some(5),
            memory_limit_bytes: Some(30),
            ..Cgroup::default()
        },
        Cgroup { pod: None, cpu_us_total: Some(99), ..Cgroup::default() },
    ]);
    let whole = &all[&("n".to_owned(), "p".to_owned(), String::new())];
    assert_eq!((whole.totals.cpu_us, whole.totals.working_set), (Some(3), Some(15)));
    assert_eq!((whole.memory_limit, whole.cpu_limit), (Some(50), None), "one container has no CPU limit");
    assert_eq!(all.len(), 3);
}
