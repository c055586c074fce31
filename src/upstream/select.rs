//! Which upstream of a model takes a request: the lowest tier that has one, by weight inside it.

/// What the choice needs to know of one upstream.
#[derive(Clone, Copy, Debug)]
pub struct Candidate {
    /// Share inside its tier.
    pub weight: u32,
    /// Lower ones first.
    pub tier: u32,
    /// It speaks the protocol and was not tried yet for this request.
    pub usable: bool,
}

/// Chooses by a uniformly random number; `None` when nothing is usable. An upstream of weight 0 is
/// chosen only when its tier has no other.
pub fn choose(candidates: &[Candidate], random: u64) -> Option<usize> {
    let usable = || {
        candidates
            .iter()
            .enumerate()
            .filter(|(_, candidate)| candidate.usable)
    };
    let tier = usable().map(|(_, candidate)| candidate.tier).min()?;
    let in_tier = || usable().filter(|(_, candidate)| candidate.tier == tier);
    let total: u64 = in_tier().map(|(_, c)| u64::from(c.weight)).sum();
    if total == 0 {
        let count = in_tier().count() as u64;
        let nth = usize::try_from(random % count).unwrap_or(0);
        return in_tier().nth(nth).map(|(at, _)| at);
    }
    let mut left = random % total;
    for (at, candidate) in in_tier() {
        let weight = u64::from(candidate.weight);
        if left < weight {
            return Some(at);
        }
        left -= weight;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn candidate(weight: u32, tier: u32, usable: bool) -> Candidate {
        Candidate {
            weight,
            tier,
            usable,
        }
    }

    fn shares(candidates: &[Candidate]) -> Vec<u32> {
        let mut counts = vec![0; candidates.len()];
        for random in 0..1000 {
            counts[choose(candidates, random).unwrap()] += 1;
        }
        counts
    }

    #[test]
    fn weights_are_shares() {
        let two = [candidate(9, 0, true), candidate(1, 0, true)];
        assert_eq!(shares(&two), [900, 100]);
        let idle = [candidate(0, 0, true), candidate(2, 0, true)];
        assert_eq!(shares(&idle), [0, 1000]);
        let zero = [candidate(0, 0, true), candidate(0, 0, true)];
        assert_eq!(shares(&zero), [500, 500]);
    }

    #[test]
    fn a_higher_tier_waits_until_the_lower_one_is_gone() {
        let mut tiers = [candidate(1, 1, true), candidate(1, 0, true)];
        assert_eq!(shares(&tiers), [0, 1000]);
        tiers[1].usable = false;
        assert_eq!(shares(&tiers), [1000, 0]);
        tiers[0].usable = false;
        assert_eq!(choose(&tiers, 7), None);
        assert_eq!(choose(&[], 7), None);
    }
}
