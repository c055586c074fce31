//! Which upstream of a model takes a request: the lowest tier that has one; inside it the better of two, drawn by weight.
//!
//! "The power of two choices" (Mitzenmacher, 2001) keeps load even with hardly any knowledge. Weights come first here:
//! the second draw is taken only if it is better by far, so that weights are shares as long as upstreams do about as well.

use std::time::Duration;

/// Whether an upstream can be had.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fit {
    /// It can.
    Ready,
    /// Only if there is no other, of any tier.
    LastResort,
    /// It cannot.
    No,
}

/// What the choice needs to know of one upstream.
#[derive(Clone, Copy, Debug)]
pub struct Candidate {
    /// Lower ones first.
    pub tier: u32,
    /// Share inside its tier, lessened by slow start.
    pub weight: u64,
    /// Whether it can be had.
    pub fit: Fit,
    /// Requests of this node that are there now.
    pub in_flight: u32,
    /// How long its answers took to begin, lately; nothing where that is not known.
    pub latency: Duration,
}

/// So many requests more or less at an upstream are chance.
const SLACK: f64 = 4.0;
/// The second draw must be better by this factor in load and latency together.
const FAR: f64 = 2.0;
/// Below this, differences of latency are not worth a thought.
const QUICK: Duration = Duration::from_millis(10);

/// Chooses by a uniformly random number; `None` when nothing can be had. An upstream of weight 0 is
/// chosen only when its tier has no other.
pub fn choose(candidates: &[Candidate], random: u64) -> Option<usize> {
    let best = |candidate: &Candidate| (candidate.fit, candidate.tier);
    let (fit, tier) = candidates.iter().map(best).min()?;
    if fit == Fit::No {
        return None;
    }
    let among = |candidate: &Candidate| candidate.fit == fit && candidate.tier == tier;
    let draws = Draws { candidates, among };
    let first = draws.draw(random, None)?;
    // The other half of the same number.
    let second = draws.draw(random.rotate_left(32), Some(first));
    match second {
        Some(second) if draws.cost(second) * FAR < draws.cost(first) => Some(second),
        _ => Some(first),
    }
}

struct Draws<'a, F> {
    candidates: &'a [Candidate],
    among: F,
}

impl<F: Fn(&Candidate) -> bool> Draws<'_, F> {
    fn each(&self, but: Option<usize>) -> impl Iterator<Item = (usize, &Candidate)> {
        let numbered = self.candidates.iter().enumerate();
        numbered.filter(move |(at, candidate)| Some(*at) != but && (self.among)(candidate))
    }

    /// One of them by weight.
    fn draw(&self, random: u64, but: Option<usize>) -> Option<usize> {
        let total: u64 = self.each(but).map(|(_, candidate)| candidate.weight).sum();
        if total == 0 {
            let count = self.each(but).count() as u64;
            let nth = usize::try_from(random.checked_rem(count)?).ok()?;
            // Of two with a weight and without, the one without is never the better one.
            let alone = but.is_none_or(|first| self.weight(first) == 0);
            return self.each(but).nth(nth).map(|(at, _)| at).filter(|_| alone);
        }
        let mut left = random % total;
        for (at, candidate) in self.each(but) {
            if left < candidate.weight {
                return Some(at);
            }
            left -= candidate.weight;
        }
        None
    }

    fn weight(&self, at: usize) -> u64 {
        self.candidates
            .get(at)
            .map_or(0, |candidate| candidate.weight)
    }

    /// How bad it is: how far its requests are above its share of all, times its latency. By Little's law a slow
    /// upstream gathers requests even before its latency is known.
    fn cost(&self, at: usize) -> f64 {
        let Some(candidate) = self.candidates.get(at) else {
            return f64::INFINITY;
        };
        let total: u64 = self.each(None).map(|(_, one)| one.weight).sum();
        let in_flight: f64 = self
            .each(None)
            .map(|(_, one)| f64::from(one.in_flight))
            .sum();
        let count = self.each(None).count() as f64;
        let share = match total {
            0 => 1.0 / count,
            _ => candidate.weight as f64 / total as f64,
        };
        let busy = (f64::from(candidate.in_flight) + SLACK) / (in_flight * share + SLACK);
        // Where one is not known, none counts.
        let known = self.each(None).all(|(_, one)| !one.latency.is_zero());
        let slow = match known {
            true => candidate.latency.max(QUICK).as_secs_f64(),
            false => 1.0,
        };
        busy * slow
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn candidate(weight: u64, tier: u32, fit: Fit) -> Candidate {
        Candidate {
            tier,
            weight,
            fit,
            in_flight: 0,
            latency: Duration::ZERO,
        }
    }

    fn ready(weight: u64) -> Candidate {
        candidate(weight, 0, Fit::Ready)
    }

    fn shares(candidates: &[Candidate]) -> Vec<u32> {
        let mut counts = vec![0; candidates.len()];
        let mut random = 1u64;
        for _ in 0..10_000 {
            random = random
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            counts[choose(candidates, random ^ (random >> 29)).unwrap()] += 1;
        }
        counts
    }

    fn nearly(found: &[u32], wanted: &[u32]) {
        let near = found.iter().zip(wanted).all(|(a, b)| a.abs_diff(*b) < 300);
        assert!(
            near && found.len() == wanted.len(),
            "{found:?}, not {wanted:?}"
        );
    }

    #[test]
    fn weights_are_shares() {
        nearly(&shares(&[ready(9), ready(1)]), &[9000, 1000]);
        assert_eq!(shares(&[ready(0), ready(2)]), [0, 10_000]);
        nearly(&shares(&[ready(0), ready(0)]), &[5000, 5000]);
    }

    #[test]
    fn weights_stay_shares_while_all_do_about_as_well() {
        let mut two = [ready(9), ready(1)];
        two[0].in_flight = 9;
        two[1].in_flight = 2;
        two[0].latency = Duration::from_millis(300);
        two[1].latency = Duration::from_millis(400);
        nearly(&shares(&two), &[9000, 1000]);
        // A difference that nobody notices.
        two[0].latency = Duration::from_millis(9);
        two[1].latency = Duration::from_millis(1);
        nearly(&shares(&two), &[9000, 1000]);
    }

    #[test]
    fn one_that_is_far_worse_is_left_for_the_other() {
        let mut three = [ready(1), ready(1), ready(1)];
        three[0].in_flight = 60;
        three[1].in_flight = 4;
        three[2].in_flight = 4;
        nearly(&shares(&three), &[0, 5000, 5000]);
        let mut two = [ready(1), ready(1)];
        two[0].latency = Duration::from_millis(900);
        two[1].latency = Duration::from_millis(200);
        assert_eq!(shares(&two), [0, 10_000]);
        // Of one nothing is known yet.
        two[1].latency = Duration::ZERO;
        nearly(&shares(&two), &[5000, 5000]);
    }

    #[test]
    fn one_without_weight_is_never_the_better_one() {
        let mut two = [ready(0), ready(1)];
        two[1].in_flight = 1000;
        assert_eq!(shares(&two), [0, 10_000]);
    }

    #[test]
    fn a_higher_tier_waits_until_the_lower_one_is_gone() {
        let mut tiers = [candidate(1, 1, Fit::Ready), candidate(1, 0, Fit::Ready)];
        assert_eq!(shares(&tiers), [0, 10_000]);
        tiers[1].fit = Fit::No;
        assert_eq!(shares(&tiers), [10_000, 0]);
        tiers[0].fit = Fit::No;
        assert_eq!(choose(&tiers, 7), None);
        assert_eq!(choose(&[], 7), None);
    }

    #[test]
    fn the_last_resort_waits_for_every_tier() {
        let mut tiers = [
            candidate(1, 1, Fit::Ready),
            candidate(1, 0, Fit::LastResort),
        ];
        assert_eq!(shares(&tiers), [10_000, 0]);
        tiers[0].fit = Fit::No;
        assert_eq!(shares(&tiers), [0, 10_000]);
    }
}
