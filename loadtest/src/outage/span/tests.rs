use super::super::sampler::sample_of;
use super::*;

const PLAN: Allowance = Allowance {
    rate: 6_000,
    burst: 600,
};

struct Time(Instant);

impl Time {
    fn at(&self, ms: u64) -> Instant {
        self.0 + Duration::from_millis(ms)
    }

    /// From 1 s on, for 4 s, and 6 s of health.
    fn span(&self, fault: Fault) -> Span {
        Span {
            fault,
            begun: self.at(1_000),
            stands: self.at(1_002),
            ended: self.at(5_000),
            until: self.at(11_000),
        }
    }

    fn spell(&self, noticed: u64, back: u64) -> Option<Spell> {
        Some(Spell {
            noticed: self.at(noticed),
            back: Some(self.at(back)),
        })
    }

    fn record(&self, sent: u64, answered: u64, status: Status) -> Record {
        Record {
            who: Who::Above,
            due: self.at(sent),
            sent: self.at(sent),
            answered: self.at(answered),
            status,
        }
    }
}

#[test]
fn a_spell_lasts_from_the_first_look_to_the_last() {
    let time = Time(Instant::now());
    let samples: Vec<Sample> = [
        (900, true),
        (1_020, false),
        (1_040, true),
        (1_060, false),
        (5_200, true),
        (5_220, false),
        (5_240, false),
    ]
    .map(|(ms, away)| sample_of(time.at(ms), away))
    .into();
    let span = time.span(Fault::Stopped);
    assert_eq!(span.spell(&samples), time.spell(1_040, 5_220));
    assert_eq!(span.spell(&samples[..2]), None);
    let lost = span.spell(&samples[..3]);
    assert!(lost.is_some_and(|spell| spell.back.is_none()));
}

#[test]
fn what_forgets_allows_a_burst_and_what_keeps_allows_what_was_not_told() {
    let time = Time(Instant::now());
    let extra = |fault, spells: &[Option<Spell>]| time.span(fault).extra(spells, PLAN);
    let together = [time.spell(1_040, 5_500), time.spell(1_040, 5_500)];
    let apart = [time.spell(1_040, 5_500), time.spell(1_040, 6_000)];
    // Both nodes' requests on top of each.
    assert_eq!(extra(Fault::Killed, &together), 600 + 2);
    assert_eq!(extra(Fault::Killed, &apart), 600 + 50 + 2);
    assert_eq!(extra(Fault::Stopped, &together), 450 + 2);
    assert_eq!(extra(Fault::Stopped, &apart), 500 + 2);
    assert_eq!(extra(Fault::Flushed, &[None, None]), 600 + 2);
    assert_eq!(extra(Fault::Disconnected, &[None, None]), 10 + 2);
    // However long: a bucket holds no more than its burst.
    let long = [time.spell(1_040, 10_900); 2];
    assert_eq!(extra(Fault::Stopped, &long), 600 + 2);
}

#[test]
fn a_window_counts_from_the_last_refusal_before_the_fault() {
    let time = Time(Instant::now());
    let records = [
        time.record(980, 985, Status::Admitted),
        time.record(980, 990, Status::Refused),
        // Sent before that answer, so perhaps decided before.
        time.record(985, 995, Status::Admitted),
        time.record(991, 1_100, Status::Admitted),
        time.record(2_000, 2_001, Status::Refused),
        time.record(3_000, 3_000, Status::Admitted),
        time.record(11_000, 11_001, Status::Admitted),
    ];
    let span = time.span(Fault::Stopped);
    let expected = Admitted {
        count: 2,
        elapsed_ms: 2_020,
    };
    assert_eq!(span.admitted(&records), Some(expected));
    assert_eq!(span.admitted(&records[2..]), None);
    let away = span.admitted_away(&records, &[time.spell(1_040, 5_220)]);
    assert!(away.is_some_and(|away| away.count == 1 && away.elapsed_ms == 1_960));
    assert_eq!(span.admitted_away(&records, &[None]), None);
    let mine = tally(span.records(&records), Who::Above);
    assert_eq!((mine.admitted, mine.refused, mine.other), (1, 1, 0));
    assert_eq!(slowest(records.iter()), Duration::from_millis(109));
}
