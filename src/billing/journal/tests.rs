#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use super::writer::files;
use super::*;
use crate::billing::money::Money;
use crate::billing::period::Period;
use crate::meter::usage::Source;
use std::fs;
use std::path::PathBuf;
use std::sync::Mutex;
use tempfile::TempDir;

pub(super) fn held(id: u64) -> Held {
    Held {
        id,
        account: "acme".into(),
        key: "key-1".into(),
        project: "default".into(),
        model: "gpt-4o-mini".into(),
        money: Money::from_micros(500),
        tokens: 0,
        package: (id % 2 == 1).then(|| "pack".into()),
        period: Period {
            day: 20_000,
            month: 24_000,
        },
    }
}

pub(super) fn due(micros: i64) -> Due {
    Due {
        cost: Money::from_micros(micros),
        ..Due::default()
    }
}

pub(super) fn charge(id: u64, micros: i64) -> Charge {
    Charge {
        held: held(id),
        due: due(micros),
        source: Some(Source::Reported),
        at: 1_700_000_000_000,
    }
}

pub(super) fn rules() -> Rules {
    Rules {
        opener: files(),
        segment: SEGMENT,
        thread: false,
    }
}

pub(super) fn start(dir: &Path) -> (Arc<Journal>, Vec<Left>) {
    Journal::open_with(dir, rules()).unwrap()
}

/// The segments as a killed process would leave them: the journal itself lives on.
pub(super) fn killed(dir: &Path) -> TempDir {
    let copy = tempfile::tempdir().unwrap();
    for entry in fs::read_dir(dir).unwrap() {
        let folder = entry.unwrap().path();
        let to = copy.path().join(folder.file_name().unwrap());
        fs::create_dir(&to).unwrap();
        for file in fs::read_dir(folder).unwrap() {
            let file = file.unwrap().path();
            fs::copy(&file, to.join(file.file_name().unwrap())).unwrap();
        }
    }
    copy
}

/// What of the charges tells them apart.
pub(super) fn ids(charges: impl Iterator<Item = (u64, Charge)>) -> Vec<(u64, u64, i64)> {
    charges
        .map(|(seq, charge)| (seq, charge.held.id, charge.due.cost.micros()))
        .collect()
}

pub(super) fn segments(dir: &Path) -> Vec<PathBuf> {
    let mut found: Vec<_> = fs::read_dir(dir.join("journal-0"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some())
        .collect();
    found.sort();
    found
}

fn later() -> SystemTime {
    SystemTime::now() + KEPT + Duration::from_secs(1)
}

/// A sink that remembers.
#[derive(Default)]
pub(super) struct Taken(Mutex<Vec<(u64, u64)>>);

impl Sink for Taken {
    fn take(&self, seq: u64, charge: Arc<Charge>) {
        self.0.lock().unwrap().push((seq, charge.held.id));
    }
}

impl Taken {
    pub(super) fn all(&self) -> Vec<(u64, u64)> {
        self.0.lock().unwrap().clone()
    }
}

#[test]
fn what_is_written_is_read_back() {
    let dir = tempfile::tempdir().unwrap();
    let (journal, lefts) = start(&dir.path().join("new"));
    assert!(lefts.is_empty());
    journal.reserve(&held(1), &due(10)).unwrap();
    journal.progress(1, &due(20));
    journal.progress(99, &due(1));
    assert_eq!(journal.open_holds(), 1);
    journal.settle(charge(1, 30));
    assert_eq!(journal.open_holds(), 0);
    let charges: Vec<_> = journal.charges(0).collect();
    // A progress of no open hold is not written.
    assert_eq!(charges, [(3, charge(1, 30))]);
    assert_eq!(journal.charges(3).count(), 0);
    let size = fs::metadata(&segments(&dir.path().join("new"))[0])
        .unwrap()
        .len();
    assert_eq!(journal.bytes(), size);
    assert!(!journal.failing() && journal.pending() == 0);
    let mode = |path: PathBuf| {
        use std::os::unix::fs::PermissionsExt;
        fs::metadata(path).unwrap().permissions().mode() & 0o777
    };
    assert_eq!(mode(dir.path().join("new/journal-0")), 0o700);
    assert_eq!(mode(segments(&dir.path().join("new"))[0].clone()), 0o600);
}

#[test]
fn the_sink_has_charges_in_the_order_of_the_file() {
    let dir = tempfile::tempdir().unwrap();
    let mut rules = rules();
    (rules.segment, rules.thread) = (4096, true);
    let (journal, _) = Journal::open_with(dir.path(), rules).unwrap();
    let taken = Arc::new(Taken::default());
    journal.attach(taken.clone());
    thread::scope(|scope| {
        for thread in 0..8 {
            let journal = &journal;
            scope.spawn(move || {
                for nth in 0..100 {
                    let id = thread * 1000 + nth;
                    journal.reserve(&held(id), &due(1)).unwrap();
                    journal.progress(id, &due(2));
                    journal.settle(charge(id, 3));
                }
            });
        }
    });
    let taken = taken.all();
    assert_eq!(taken.len(), 800);
    assert!(taken.is_sorted_by(|one, next| one.0 < next.0));
    let filed: Vec<_> = journal
        .charges(0)
        .map(|(seq, charge)| (seq, charge.held.id))
        .collect();
    assert_eq!(taken, filed);
    for after in [1, 600, 1200, 2399, 2400, 9999] {
        let want = taken.iter().filter(|(seq, _)| *seq > after).count();
        assert_eq!(journal.charges(after).count(), want, "{after}");
    }
    drop(journal);
    let (_, lefts) = start(dir.path());
    assert_eq!((lefts[0].last(), lefts[0].opened()), (2400, 0));
    assert_eq!(lefts[0].charges(0).count(), 800);
}

#[test]
fn a_killed_process_is_charged_once_for_what_is_known() {
    let dir = tempfile::tempdir().unwrap();
    let (journal, _) = start(dir.path());
    for id in 1..=5 {
        journal
            .reserve(&held(id), &due(if id == 4 { 0 } else { 10 }))
            .unwrap();
    }
    journal.progress(2, &due(20));
    journal.progress(2, &due(25));
    journal.settle(charge(3, 30));
    journal.progress(3, &due(99));
    let dead = killed(dir.path());
    let want = [(8, 3, 30), (9, 1, 10), (10, 2, 25), (11, 4, 0), (12, 5, 10)];
    let (next, lefts) = start(dead.path());
    assert_ne!(next.epoch(), journal.epoch());
    assert_eq!(lefts.len(), 1);
    assert_eq!((lefts[0].epoch(), lefts[0].opened()), (journal.epoch(), 4));
    assert_eq!(lefts[0].last(), 12);
    assert_eq!(ids(lefts[0].charges(0)), want);
    assert_eq!(ids(lefts[0].charges(9)), want[2..]);
    let sources: Vec<_> = lefts[0]
        .charges(0)
        .map(|(_, charge)| charge.source)
        .collect();
    let estimated = Some(Source::Estimated);
    assert_eq!(
        sources,
        [
            Some(Source::Reported),
            estimated,
            estimated,
            None,
            estimated
        ]
    );
    // Killed again, before anything of it was applied. The process that wrote nothing leaves nothing.
    drop((next, lefts));
    for _ in 0..2 {
        let (_, lefts) = start(dead.path());
        assert_eq!(lefts.len(), 1);
        assert_eq!(lefts[0].opened(), 0);
        assert_eq!(ids(lefts[0].charges(0)), want);
    }
}

#[test]
fn segments_go_when_nothing_in_them_is_needed() {
    let dir = tempfile::tempdir().unwrap();
    let mut rules = rules();
    rules.segment = 400;
    let (journal, _) = Journal::open_with(dir.path(), rules).unwrap();
    // A long job: it must not keep what others wrote.
    journal.reserve(&held(1), &due(1)).unwrap();
    for id in 2..30 {
        journal.reserve(&held(id), &due(10)).unwrap();
        journal.progress(1, &due(id as i64));
        journal.settle(charge(id, 20));
    }
    let all = segments(dir.path());
    assert!(all.len() > 10, "{all:?}");
    journal.shared.sweep(later());
    assert_eq!(segments(dir.path()), all, "nothing is applied");
    let (half, last) = (
        journal.charges(0).nth(14).unwrap().0,
        journal.charges(0).last().unwrap().0,
    );
    // From its being applied on it is kept for as long as a store may still lose it.
    journal.applied(half);
    journal.shared.sweep(later());
    assert_eq!(segments(dir.path()), all, "too young");
    journal.shared.sweep(later() + KEPT);
    let rest = segments(dir.path());
    assert!(rest.len() < all.len() && rest.len() > 4, "{rest:?}");
    assert_eq!(
        journal.charges(half).count(),
        13,
        "all that is not applied is there"
    );
    journal.applied(last);
    journal.applied(1);
    journal.shared.sweep(later() + 2 * KEPT);
    assert_eq!(segments(dir.path()), rest, "too young");
    journal.shared.sweep(later() + 3 * KEPT);
    assert!(segments(dir.path()).len() <= 2);
    assert_eq!(journal.open_holds(), 1);
    let dead = killed(dir.path());
    let (_, lefts) = start(dead.path());
    assert_eq!(lefts[0].opened(), 1);
    let (_, found) = lefts[0].charges(0).last().unwrap();
    assert_eq!(
        (found.held, found.due),
        (held(1), due(29)),
        "carried, with its last progress"
    );
    journal.settle(charge(1, 40));
    let dead = killed(dir.path());
    let (_, lefts) = start(dead.path());
    assert_eq!(lefts[0].opened(), 0);
}

#[test]
fn charges_that_cannot_be_read_are_not_taken_for_none() {
    let dir = tempfile::tempdir().unwrap();
    let (journal, _) = start(dir.path());
    journal.reserve(&held(1), &due(10)).unwrap();
    drop(journal);
    let (_, lefts) = start(dir.path());
    for file in segments(dir.path()) {
        fs::remove_file(file).unwrap();
    }
    let mut charges = lefts[0].charges(0);
    assert_eq!(charges.next(), None);
    assert!(charges.error().unwrap().contains("cannot read"));
    // Applied, its files may be gone.
    lefts[0].applied();
    let mut charges = lefts[0].charges(0);
    assert_eq!((charges.next(), charges.error()), (None, None));
}

#[test]
fn processes_take_places_and_adopt_those_of_the_dead() {
    let dir = tempfile::tempdir().unwrap();
    let (one, _) = start(dir.path());
    let (two, lefts) = start(dir.path());
    assert!(lefts.is_empty(), "nothing of the living is touched");
    one.reserve(&held(1), &due(10)).unwrap();
    two.reserve(&held(2), &due(20)).unwrap();
    let epochs = [one.epoch(), two.epoch()];
    assert!(dir.path().join("journal-1").exists());
    drop((one, two));
    let (three, lefts) = start(dir.path());
    let found: Vec<_> = lefts
        .iter()
        .map(|left| (left.epoch(), ids(left.charges(0))))
        .collect();
    assert_eq!(
        found,
        [(epochs[0], vec![(2, 1, 10)]), (epochs[1], vec![(2, 2, 20)])]
    );
    // Held, until the charges are somebody's.
    let (four, none) = start(dir.path());
    assert!(none.is_empty() && dir.path().join("journal-2").exists());
    for left in &lefts {
        left.applied();
        left.applied();
    }
    drop(lefts);
    three.shared.sweep(SystemTime::now());
    assert_eq!(segments(dir.path()).len(), 2, "too young");
    three.shared.sweep(later());
    assert_eq!(segments(dir.path()).len(), 1);
    assert!(
        !dir.path().join("journal-1").exists(),
        "nobody's, and empty"
    );
    drop((three, four));
    let (_, lefts) = start(dir.path());
    assert!(lefts.is_empty());
}

#[test]
fn those_that_die_later_are_adopted_later() {
    let dir = tempfile::tempdir().unwrap();
    let (one, _) = start(dir.path());
    let (two, _) = start(dir.path());
    one.reserve(&held(1), &due(10)).unwrap();
    let known = two.epochs().unwrap();
    assert!(known.contains(&one.epoch()) && known.contains(&two.epoch()));
    let (lefts, failed) = two.adopt();
    assert!(lefts.is_empty() && failed.is_none(), "it lives");
    let epoch = one.epoch();
    drop(one);
    let (lefts, failed) = two.adopt();
    assert_eq!(failed, None);
    let found: Vec<_> = lefts
        .iter()
        .map(|left| (left.epoch(), left.opened(), ids(left.charges(0))))
        .collect();
    assert_eq!(found, [(epoch, 1, vec![(2, 1, 10)])]);
    // Nobody else gets it, nor this one again, while it is not charged, and while its files are kept.
    let (three, none) = start(dir.path());
    assert!(none.is_empty() && two.adopt().0.is_empty());
    lefts[0].applied();
    drop(lefts);
    assert!(two.adopt().0.is_empty() && three.adopt().0.is_empty());
    assert!(three.epochs().unwrap().contains(&epoch));
    two.shared.sweep(later());
    assert!(!three.epochs().unwrap().contains(&epoch));
}

#[test]
fn what_cannot_be_adopted_is_told_and_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let (one, _) = start(dir.path());
    let (two, _) = start(dir.path());
    two.reserve(&held(1), &due(10)).unwrap();
    drop(two);
    let files = fs::read_dir(dir.path().join("journal-1")).unwrap();
    let mut files = files.map(|file| file.unwrap().path());
    let newer = files.find(|file| file.extension().is_some_and(|kind| kind == "log"));
    let newer = newer.unwrap();
    let bytes = fs::read(&newer).unwrap();
    let mut other = bytes.clone();
    other[8..12].copy_from_slice(&2u32.to_le_bytes());
    let mut crc = crc32fast::Hasher::new();
    crc.update(&other[..12]);
    crc.update(&other[16..super::record::HEADER]);
    other[12..16].copy_from_slice(&crc.finalize().to_le_bytes());
    fs::write(&newer, &other).unwrap();
    let (lefts, failed) = one.adopt();
    assert!(lefts.is_empty() && failed.unwrap().contains("format 2"));
    fs::write(&newer, &bytes).unwrap();
    let (lefts, failed) = one.adopt();
    assert_eq!((lefts.len(), failed), (1, None));
}
