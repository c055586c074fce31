//! What a request asks the scripted provider for. It stands in the prompt: there it passes whatever a gateway
//! does to headers and models.

use super::money::Tokens;
use crate::rng::Random;

/// Before and behind a wish.
const OPEN: &[u8] = b"[wish ";
const CLOSE: u8 = b']';

/// No wish is longer.
const LONGEST: usize = 96;

/// One request's wish.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Wish {
    /// The request's number: no two are alike.
    pub number: u64,
    /// What is to come.
    pub kind: Kind,
    /// Milliseconds: before an answer in one piece, between the events of a stream.
    pub wait_ms: u64,
}

/// What an answer is to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// One JSON text.
    Whole,
    /// So many events with a piece of text each.
    Stream(u64),
    /// One picture.
    Picture,
}

impl Wish {
    /// As it stands in the prompt.
    pub fn mark(self) -> String {
        let Wish {
            number,
            kind,
            wait_ms,
        } = self;
        let (kind, events) = match kind {
            Kind::Whole => ("whole", 0),
            Kind::Stream(events) => ("stream", events),
            Kind::Picture => ("picture", 0),
        };
        format!("[wish {number} {kind} {events} {wait_ms}]")
    }

    /// Finds the one in a body.
    pub fn find(body: &[u8]) -> Option<Wish> {
        let at = body.windows(OPEN.len()).position(|part| part == OPEN)? + OPEN.len();
        let rest = body.get(at..)?;
        let end = rest.iter().take(LONGEST).position(|byte| *byte == CLOSE)?;
        let mut words = std::str::from_utf8(rest.get(..end)?).ok()?.split(' ');
        let number = words.next()?.parse().ok()?;
        let kind = words.next()?;
        let events = words.next()?.parse().ok()?;
        let wait_ms = words.next()?.parse().ok()?;
        let kind = match kind {
            "whole" => Kind::Whole,
            "stream" => Kind::Stream(events),
            "picture" => Kind::Picture,
            _ => return None,
        };
        words.next().is_none().then_some(Wish {
            number,
            kind,
            wait_ms,
        })
    }

    /// What the provider reports for it in the end. Neither the prompt's length nor the count of events tells it,
    /// so that a gateway that guesses is found out.
    pub fn tokens(self) -> Tokens {
        let mut random = Random::new(self.number);
        let input = random.between(30, 200);
        let cached = match random.draw() % 3 {
            0 => random.between(1, input),
            _ => 0,
        };
        let output = match self.kind {
            Kind::Whole => random.between(1, 400),
            Kind::Stream(events) => events + random.between(1, 50),
            Kind::Picture => return Tokens::default(),
        };
        Tokens {
            input,
            cached,
            output,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wish_is_found_in_a_body() {
        for kind in [Kind::Whole, Kind::Stream(40), Kind::Picture] {
            let wish = Wish {
                number: 123,
                kind,
                wait_ms: 15,
            };
            let body = format!(
                r#"{{"messages":[{{"content":"Say {} now."}}]}}"#,
                wish.mark()
            );
            assert_eq!(Wish::find(body.as_bytes()), Some(wish));
        }
        for wrong in [
            "",
            "[wish ]",
            "[wish 1 whole 0 5",
            "[wish 1 song 0 5]",
            "[wish 1 whole 0 5 6]",
        ] {
            assert_eq!(Wish::find(wrong.as_bytes()), None, "{wrong}");
        }
    }

    #[test]
    fn what_is_reported_depends_on_the_wish_alone() {
        let of = |number| {
            let kind = Kind::Stream(20);
            let wait_ms = 1;
            Wish {
                number,
                kind,
                wait_ms,
            }
            .tokens()
        };
        assert_eq!(of(5), of(5));
        for number in 0..500 {
            let Tokens {
                input,
                cached,
                output,
            } = of(number);
            assert!(cached <= input && output > 20, "{number}");
        }
        assert!((0..500).any(|number| of(number).cached > 0));
    }
}
