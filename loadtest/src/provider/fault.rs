//! How the provider fails: with some probability, in one of a few ways.

use std::fmt;
use std::str::FromStr;

use crate::rng::Random;

/// A fault and how often it happens: `reset`, `status=503@0.1`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Fault {
    kind: Kind,
    /// Of one.
    probability: f64,
}

/// The ways to fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// An answer with this status and a small error: `status=503`.
    Status(u16),
    /// The connection is reset instead of an answer: `reset`.
    Reset,
    /// Nothing comes until the other side has enough: `silence`.
    Silence,
    /// The connection is closed after so many bytes of the answer, its head included: `cut=100`.
    Cut(u64),
    /// Bytes that are no HTTP, and the end: `garbage`.
    Garbage,
}

impl Fault {
    /// Whether this time it happens, and how.
    pub fn draw(&self, random: &mut Random) -> Option<Kind> {
        (random.unit() < self.probability).then_some(self.kind)
    }
}

impl FromStr for Fault {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || {
            format!(
                "{text:?} is not status=503, reset, silence, cut=100 or garbage, with @0.1 behind it for one in ten"
            )
        };
        let (kind, probability) = match text.split_once('@') {
            Some((kind, share)) => (kind, share.parse().map_err(|_| wrong())?),
            None => (text, 1.0),
        };
        let kind = match kind.split_once('=') {
            None if kind == "reset" => Kind::Reset,
            None if kind == "silence" => Kind::Silence,
            None if kind == "garbage" => Kind::Garbage,
            Some(("cut", bytes)) => Kind::Cut(bytes.parse().map_err(|_| wrong())?),
            Some(("status", status)) => match status.parse() {
                Ok(status @ 400..=599) => Kind::Status(status),
                _ => {
                    return Err(format!(
                        "{text}: a status that is an error, from 400 to 599"
                    ));
                }
            },
            _ => return Err(wrong()),
        };
        match (0.0..=1.0).contains(&probability) {
            true => Ok(Fault { kind, probability }),
            false => Err(format!("{text}: a probability is from 0 to 1")),
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.kind {
            Kind::Status(status) => write!(f, "status={status}")?,
            Kind::Reset => write!(f, "reset")?,
            Kind::Silence => write!(f, "silence")?,
            Kind::Cut(bytes) => write!(f, "cut={bytes}")?,
            Kind::Garbage => write!(f, "garbage")?,
        }
        write!(f, "@{}", self.probability)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_shown_is_read_again() -> Result<(), String> {
        for text in [
            "status=503@0.1",
            "reset@1",
            "silence@0.5",
            "cut=100@0",
            "garbage@0.25",
        ] {
            assert_eq!(text.parse::<Fault>()?.to_string(), text);
        }
        assert_eq!("reset".parse::<Fault>()?.to_string(), "reset@1");
        Ok(())
    }

    #[test]
    fn what_is_no_fault_is_refused() {
        for text in [
            "",
            "none",
            "reset=1",
            "cut",
            "cut=",
            "cut=-1",
            "status",
            "status=200",
            "status=304",
            "status=600",
            "reset@",
            "reset@1.1",
            "reset@-0.1",
            "reset@NaN",
        ] {
            assert!(text.parse::<Fault>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_fault_happens_as_often_as_it_says() -> Result<(), String> {
        let mut random = Random::new(7);
        let mut count = |text: &str| -> Result<usize, String> {
            let fault: Fault = text.parse()?;
            Ok((0..10_000)
                .filter(|_| fault.draw(&mut random).is_some())
                .count())
        };
        assert_eq!((count("reset@0")?, count("reset")?), (0, 10_000));
        assert!((950..1050).contains(&count("reset@0.1")?));
        Ok(())
    }
}
