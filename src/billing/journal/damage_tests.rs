//! Bytes that are not as they were written.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use super::record::{HEADER, Head, Record, TooLong, VERSION, decode, head, header, next};
use super::tests::{charge, due, held, ids, killed, rules, start};
use super::*;
use proptest::prelude::*;
use std::fs;
use std::path::PathBuf;
use tempfile::TempDir;

/// Charges of ids 1 and 3; hold 2 is open, at 25, and was written first but for 1's.
fn written() -> (TempDir, PathBuf, Vec<usize>) {
    let dir = tempfile::tempdir().unwrap();
    let (journal, _) = start(dir.path());
    let mut ends = vec![HEADER];
    let mut end = || ends.push(journal.bytes() as usize);
    journal.reserve(&held(1), &due(10)).unwrap();
    end();
    journal.reserve(&held(2), &due(10)).unwrap();
    end();
    journal.settle(charge(1, 20));
    end();
    journal.progress(2, &due(25));
    end();
    journal.reserve(&held(3), &due(10)).unwrap();
    end();
    journal.settle(charge(3, 30));
    end();
    let dead = killed(dir.path());
    let file = fs::read_dir(dead.path().join("journal-0")).unwrap();
    let file = file
        .map(|entry| entry.unwrap().path())
        .find(|path| path.extension().is_some());
    (dead, file.unwrap(), ends)
}

fn opened(dir: &Path) -> (usize, Vec<(u64, u64, i64)>) {
    let (_, lefts) = start(dir);
    let Some(left) = lefts.first() else {
        return (0, Vec::new());
    };
    (left.opened(), ids(left.charges(0)))
}

#[test]
fn a_torn_tail_is_cut_off_wherever_it_is_torn() {
    let (dir, file, ends) = written();
    let whole = fs::read(&file).unwrap();
    assert_eq!(whole.len(), *ends.last().unwrap());
    let (before, after) = (ends[5], ends[6]);
    for length in before..=after {
        fs::write(&file, &whole[..length]).unwrap();
        let want = match length == after {
            true => (1, vec![(3, 1, 20), (6, 3, 30), (7, 2, 25)]),
            false => (2, vec![(3, 1, 20), (6, 2, 25), (7, 3, 10)]),
        };
        assert_eq!(opened(dir.path()), want, "{length}");
        assert_eq!(opened(dir.path()), (0, want.1), "{length}");
    }
}

#[test]
fn a_file_may_end_anywhere() {
    let (dir, file, ends) = written();
    let whole = fs::read(&file).unwrap();
    for length in 0..=whole.len() {
        fs::write(&file, &whole[..length]).unwrap();
        let holds = [1, 2, 5].iter().filter(|nth| ends[**nth] <= length).count();
        assert_eq!(opened(dir.path()).1.len(), holds, "{length}");
        // One without a record is gone.
        assert_eq!(file.exists(), length > HEADER, "{length}");
    }
}

#[test]
fn damage_in_the_middle_loses_no_more_than_itself() {
    let (dir, file, ends) = written();
    let whole = fs::read(&file).unwrap();
    for at in ends[1]..ends[2] {
        let mut bytes = whole.clone();
        bytes[at] ^= 0x40;
        fs::write(&file, &bytes).unwrap();
        // The reserve record of 2 is lost, and with it what its progress belongs to.
        let want = vec![(3, 1, 20), (6, 3, 30)];
        assert_eq!(opened(dir.path()), (0, want), "{at}");
    }
    // A settle record is lost: the hold is charged by its estimate, behind what is whole.
    let mut bytes = whole;
    bytes[ends[2]] ^= 1;
    fs::write(&file, &bytes).unwrap();
    let want = vec![(6, 3, 30), (7, 1, 10), (8, 2, 25)];
    assert_eq!(opened(dir.path()), (2, want.clone()));
    assert_eq!(opened(dir.path()), (0, want));
}

#[test]
fn another_version_is_refused_and_nothing_is_lost() {
    let (dir, file, _) = written();
    let whole = fs::read(&file).unwrap();
    let mut other = whole.clone();
    other[8] = 2;
    let mut crc = crc32fast::Hasher::new();
    crc.update(&other[..12]);
    crc.update(&other[16..HEADER]);
    other[12..16].copy_from_slice(&crc.finalize().to_le_bytes());
    fs::write(&file, &other).unwrap();
    let error = Journal::open_with(dir.path(), rules()).expect_err("another version");
    assert!(
        error.contains("format 2") && error.lines().count() == 1,
        "{error}"
    );
    assert_eq!(fs::read(&file).unwrap(), other);
    // A whole record that nobody knows is of another version too.
    let epoch = u64::from_le_bytes(whole[16..HEADER].try_into().unwrap());
    let entry = Entry::Progress {
        id: 2,
        due: &due(1),
    };
    let mut bytes = Vec::new();
    let _ = Unsealed::new(epoch, &entry, &mut bytes).unwrap();
    bytes.push(0);
    let mut crc = crc32fast::Hasher::new();
    crc.update(&epoch.to_le_bytes());
    crc.update(&bytes[record::HEAD..]);
    let length = (bytes.len() - record::HEAD) as u32;
    bytes[4..8].copy_from_slice(&length.to_le_bytes());
    bytes[8] = 7;
    crc.update(&bytes[4..16]);
    let crc = crc.finalize();
    bytes[..4].copy_from_slice(&crc.to_le_bytes());
    fs::write(&file, [whole.as_slice(), &bytes].concat()).unwrap();
    let error = Journal::open_with(dir.path(), rules()).expect_err("an unknown record");
    assert!(
        error.contains(&format!("offset {}", whole.len())),
        "{error}"
    );
}

#[test]
fn an_absurd_name_is_refused_before_anything_is_sent() {
    let dir = tempfile::tempdir().unwrap();
    let (journal, _) = start(dir.path());
    let mut long = held(1);
    long.model = "m".repeat(record::LONGEST / 2).into();
    assert_eq!(journal.reserve(&long, &due(1)), Err(Full));
    assert!(!journal.failing());
    long.model = "m".repeat(record::LONGEST).into();
    let entry = Entry::Reserve {
        held: &long,
        due: &due(1),
    };
    let unsealed = Unsealed::new(1, &entry, &mut Vec::new()).map(|_| ());
    assert_eq!(unsealed, Err(TooLong));
}

/// If this fails, the format is another one: count [`VERSION`] up, then bless these bytes.
#[test]
fn the_format_is_as_it_was() {
    let mut bytes = Vec::new();
    let mut found = vec![hex(&header(0x0102_0304_0506_0708))];
    let (held, due, charge) = (held(1), due(10), charge(2, 20));
    let entries = [
        Entry::Reserve {
            held: &held,
            due: &due,
        },
        Entry::Progress { id: 300, due: &due },
        Entry::Settle { charge: &charge },
    ];
    for (nth, entry) in entries.iter().enumerate() {
        let mut frame = Unsealed::new(7, entry, &mut bytes).unwrap();
        let sealed = frame.seal(nth as u64 + 1).to_vec();
        found.push(hex(&sealed));
        let read = next(&sealed, 0, 7, 0).unwrap();
        let record = decode(read.payload).unwrap();
        assert_eq!((read.end, read.seq), (sealed.len(), nth as u64 + 1));
        match nth {
            0 => assert_eq!(
                record,
                Record::Reserve {
                    held: held.clone(),
                    due
                }
            ),
            1 => assert_eq!(record, Record::Progress { id: 300, due }),
            _ => assert_eq!(
                record,
                Record::Settle {
                    charge: charge.clone()
                }
            ),
        }
        assert_eq!(read.payload[0] == record::SETTLE, nth == 2);
        // Another epoch's is none of ours, nor one that was read before.
        assert_eq!(next(&sealed, 0, 8, 0), None);
        assert_eq!(next(&sealed, 0, 7, 3), None);
    }
    assert_eq!(VERSION, 1);
    assert_eq!(found, GOLDEN);
}

const GOLDEN: [&str; 4] = [
    "746f6c6c6a726e6c01000000a2324a500807060504030201",
    "c27b627539000000010000000000000000010461636d65056b65792d310764656661756c740b6770742d346f2d6d696e69e8070001047061636bc0b80280f702140000000000000000",
    "796b4c190c000000020000000000000001ac02140000000000000000",
    "0abff0e73c000000030000000000000002020461636d65056b65792d310764656661756c740b6770742d346f2d6d696e69e8070000c0b80280f702280000000000000000010080d095ffbc31",
];

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[test]
fn zeros_are_no_record() {
    assert_eq!(next(&[0; 1 << 20], 0, 0, 0), None);
    assert_eq!(head(&[0; HEADER], 0), Head::Damaged);
    assert_eq!(head(&header(1), 2), Head::Damaged);
    assert_eq!(head(&header(1)[..HEADER - 1], 1), Head::Short);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn no_bytes_are_too_strange(
        strokes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..12),
        keep in any::<prop::sample::Index>(),
        tail in prop::collection::vec(any::<u8>(), 0..200),
    ) {
        let (dir, file, _) = written();
        let mut bytes = fs::read(&file).unwrap();
        for (at, byte) in strokes {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        bytes.truncate(keep.index(bytes.len() + 1));
        bytes.extend(tail);
        fs::write(&file, &bytes).unwrap();
        // A second start finds what the first one made of it.
        let (_, charges) = opened(dir.path());
        prop_assert_eq!(opened(dir.path()), (0, charges.clone()));
        let mut ids: Vec<_> = charges.iter().map(|charge| charge.1).collect();
        ids.sort_unstable();
        ids.dedup();
        prop_assert_eq!(ids.len(), charges.len(), "charged twice");
    }

    #[test]
    fn no_record_is_too_strange(payload in prop::collection::vec(any::<u8>(), 0..300)) {
        let _ = decode(&payload);
    }
}
