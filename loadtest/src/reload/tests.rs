use super::*;
use crate::steady::tally::Tallies;

#[test]
fn half_of_the_time_the_file_is_written() {
    for seconds in [10, 29, 30, 60, 300] {
        let phases = Phases::new(seconds);
        let with = (0..phases.count).filter(|number| Phases::with(*number));
        let with = with.count() as u32;
        assert_eq!(u64::from(with) * 2, phases.count);
        let time = phases.lasts * with;
        assert!(time.abs_diff(Duration::from_secs(seconds)) < Duration::from_millis(20));
    }
    let order = [0, 1, 2, 3].map(Phases::with);
    assert_eq!(order, [false, true, true, false]);
}
#[test]
fn neighbouring_phases_are_compared_whichever_comes_first() -> Result<()> {
    let mut tallies = Tallies::default();
    let due = Instant::now();
    // The warm-up; without, with, with, without.
    for (phase, ms) in [900, 10, 20, 45, 15].into_iter().enumerate() {
        tallies.begin(phase);
        tallies.end(phase, due, 1, Ok(due + Duration::from_millis(ms)));
    }
    let tallies = tallies.take();
    let ratio = ratio(&tallies);
    assert_eq!(
        (ratio.count(), ratio.spread(1)),
        (2, "2.5 (2.0–3.0)".to_owned())
    );
    let (without, with) = parted(&tallies)?;
    assert_eq!((without.sent, with.sent), (2, 2));
    assert!(without.ms(1.0) < 16.0 && with.ms(1.0) > 44.0);
    Ok(())
}
