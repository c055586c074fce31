//! How long the provider takes: a fixed time, an even spread, or the long tail that models have.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use crate::rng::Random;

/// Nothing takes longer.
pub const LONGEST: Duration = Duration::from_secs(600);

/// The 99th percentile of the normal distribution, in standard deviations.
const NORMAL_P99: f64 = 2.326_347_874_040_841;

/// A distribution of times. The runtime's timers round up to a millisecond.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Latency {
    /// Always the same: `20ms`.
    Fixed(Duration),
    /// All between two times alike: `10ms..50ms`.
    Uniform(Duration, Duration),
    /// Log-normal, by its median and its 99th percentile: `p50=20ms,p99=200ms`.
    LogNormal {
        /// Half of all take no longer.
        median: Duration,
        /// One in a hundred takes longer.
        p99: Duration,
    },
}

impl Latency {
    /// The next time.
    pub fn draw(&self, random: &mut Random) -> Duration {
        match *self {
            Latency::Fixed(time) => time,
            Latency::Uniform(least, most) => least + (most - least).mul_f64(random.unit()),
            Latency::LogNormal { median, p99 } => {
                let deviation = (p99.as_secs_f64() / median.as_secs_f64()).ln() / NORMAL_P99;
                let seconds = median.as_secs_f64() * (deviation * normal(random)).exp();
                Duration::from_secs_f64(seconds.min(LONGEST.as_secs_f64()))
            }
        }
    }
}

/// A draw of the normal distribution: Box and Muller's way.
fn normal(random: &mut Random) -> f64 {
    // Never the logarithm of nothing.
    let radius = (-2.0 * (1.0 - random.unit()).ln()).sqrt();
    radius * (std::f64::consts::TAU * random.unit()).cos()
}

impl FromStr for Latency {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Some((least, most)) = text.split_once("..") {
            let (least, most) = (duration(least)?, duration(most)?);
            return match least <= most {
                true => Ok(Latency::Uniform(least, most)),
                false => Err(format!("{text}: from the longer to the shorter")),
            };
        }
        if let Some(rest) = text.strip_prefix("p50=") {
            let (median, p99) = rest
                .split_once(",p99=")
                .ok_or_else(|| format!("{text}: no ,p99= behind p50="))?;
            let (median, p99) = (duration(median)?, duration(p99)?);
            return match Duration::ZERO < median && median <= p99 {
                true => Ok(Latency::LogNormal { median, p99 }),
                false => Err(format!(
                    "{text}: the median is zero or above the 99th percentile"
                )),
            };
        }
        duration(text).map(Latency::Fixed).map_err(|error| {
            format!("{error}; a latency is 20ms, 10ms..50ms or p50=20ms,p99=200ms")
        })
    }
}

impl fmt::Display for Latency {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let micros = |time: &Duration| time.as_micros();
        match self {
            Latency::Fixed(time) => write!(f, "{}us", micros(time)),
            Latency::Uniform(least, most) => write!(f, "{}us..{}us", micros(least), micros(most)),
            Latency::LogNormal { median, p99 } => {
                write!(f, "p50={}us,p99={}us", micros(median), micros(p99))
            }
        }
    }
}

/// A whole number of `us`, `ms` or `s`.
fn duration(text: &str) -> Result<Duration, String> {
    let end = text
        .find(|letter: char| !letter.is_ascii_digit())
        .unwrap_or(text.len());
    let (number, unit) = text.split_at(end);
    let wrong = || format!("{text:?} is not a time such as 250us, 20ms or 3s");
    let number: u64 = number.parse().map_err(|_| wrong())?;
    let time = match unit {
        "us" => Duration::from_micros(number),
        "ms" => Duration::from_millis(number),
        "s" => Duration::from_secs(number),
        _ => return Err(wrong()),
    };
    match time <= LONGEST {
        true => Ok(time),
        false => Err(format!("{text} is longer than {LONGEST:?}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Times at some quantiles, in milliseconds.
    fn quantiles(text: &str, at: &[f64]) -> Result<Vec<f64>, String> {
        let latency: Latency = text.parse()?;
        let mut random = Random::new(7);
        let mut times: Vec<Duration> = (0..100_000).map(|_| latency.draw(&mut random)).collect();
        times.sort();
        let of = |quantile: &f64| times[(quantile * (times.len() - 1) as f64) as usize];
        Ok(at.iter().map(|at| of(at).as_secs_f64() * 1000.0).collect())
    }

    fn near(found: &[f64], expected: &[f64]) {
        for (found, expected) in found.iter().zip(expected) {
            let off = (found / expected - 1.0).abs();
            assert!(off < 0.03, "{found} instead of {expected}");
        }
    }

    #[test]
    fn distributions_have_their_quantiles() -> Result<(), String> {
        near(&quantiles("20ms", &[0.0, 0.5, 1.0])?, &[20.0, 20.0, 20.0]);
        near(
            &quantiles("10ms..50ms", &[0.0, 0.25, 0.5, 0.75, 1.0])?,
            &[10.0, 20.0, 30.0, 40.0, 50.0],
        );
        // The first percentile mirrors the 99th about the median.
        near(
            &quantiles("p50=20ms,p99=200ms", &[0.01, 0.5, 0.99])?,
            &[2.0, 20.0, 200.0],
        );
        near(&quantiles("p50=5ms,p99=5ms", &[0.0, 1.0])?, &[5.0, 5.0]);
        Ok(())
    }

    #[test]
    fn no_draw_is_beyond_the_longest() -> Result<(), String> {
        let longest = quantiles("p50=1us,p99=600s", &[1.0])?;
        assert!(longest[0] <= LONGEST.as_secs_f64() * 1000.0);
        Ok(())
    }

    #[test]
    fn what_is_shown_is_read_again() -> Result<(), String> {
        for text in ["250us", "10000us..50000us", "p50=20000us,p99=3000000us"] {
            assert_eq!(text.parse::<Latency>()?.to_string(), text);
        }
        assert_eq!("3s".parse(), Ok(Latency::Fixed(Duration::from_secs(3))));
        Ok(())
    }

    #[test]
    fn what_is_no_latency_is_refused() {
        for text in [
            "",
            "20",
            "ms",
            "-1ms",
            "1.5s",
            "601s",
            "20 ms",
            "50ms..10ms",
            "..",
            "10ms..",
            "p50=20ms",
            "p50=0ms,p99=1ms",
            "p50=20ms,p99=10ms",
            "p99=20ms",
        ] {
            assert!(text.parse::<Latency>().is_err(), "{text}");
        }
    }
}
