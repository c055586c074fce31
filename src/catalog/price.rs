//! What a model costs: its price × what was used.

use crate::billing::money::Money;
use crate::billing::{Due, MOST, Used};
use crate::meter::usage::Usage;

/// What a model costs, in the configured currency; never negative. Shown in the detailed list.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Price {
    /// Per million input tokens.
    pub input: Money,
    /// Per million output tokens.
    pub output: Money,
    /// Per million input tokens that the provider had cached; as `input` when `None`.
    pub cached_input: Option<Money>,
    /// Per million input tokens put into the provider's cache; as `input` when `None`.
    pub cache_write: Option<Money>,
    /// Per image of any size; `None` when prices go by size.
    pub image: Option<Money>,
    /// Per image by size (`1024x1024`), in the order of the file.
    pub images_by_size: Vec<(String, Money)>,
    /// Per thousand characters of speech.
    pub thousand_characters: Option<Money>,
    /// Per second of audio, video or music.
    pub second: Option<Money>,
}

/// Sums are kept in millionths of a micro-unit, what one token costs at a price of one micro-unit
/// for a million: they are exact until the one rounding at the end.
const PARTS: u128 = 1_000_000;
const PARTS_OF_A_THOUSANDTH: u128 = PARTS / 1000;

impl Price {
    /// The cost of what one request used, rounded up once to a whole micro-unit; never negative, and
    /// never above [`MOST`]. `size` is that of the images.
    pub fn cost(&self, used: &Used, size: Option<&str>) -> Money {
        let Used {
            tokens,
            images,
            characters,
            seconds,
        } = *used;
        let Usage {
            input,
            cached_input,
            cache_write,
            output,
            // A part of the output.
            reasoning: _,
        } = tokens;
        let plain = input
            .saturating_sub(cached_input)
            .saturating_sub(cache_write);
        let sum = [
            (plain, Some(self.input), 1),
            (
                cached_input,
                Some(self.cached_input.unwrap_or(self.input)),
                1,
            ),
            (cache_write, Some(self.cache_write.unwrap_or(self.input)), 1),
            (output, Some(self.output), 1),
            (images, self.of_an_image(size), PARTS),
            (characters, self.thousand_characters, PARTS_OF_A_THOUSANDTH),
            (seconds, self.second, PARTS),
        ]
        .into_iter()
        .map(|(count, price, parts)| {
            let micros = price.map_or(0, |price| price.micros().max(0).unsigned_abs());
            u128::from(count)
                .saturating_mul(u128::from(micros))
                .saturating_mul(parts)
        })
        .fold(0, u128::saturating_add);
        let micros = i64::try_from(sum.div_ceil(PARTS)).unwrap_or(MOST);
        Money::from_micros(micros.min(MOST))
    }

    /// What was used, and its cost.
    pub fn due(&self, used: Used, size: Option<&str>) -> Due {
        Due {
            cost: self.cost(&used, size),
            used,
        }
    }

    /// Whether tokens cost something.
    pub fn counts_tokens(&self) -> bool {
        [
            Some(self.input),
            Some(self.output),
            self.cached_input,
            self.cache_write,
        ]
        .iter()
        .any(|price| costs(*price))
    }

    /// Whether images, characters or seconds cost something.
    pub fn counts_units(&self) -> bool {
        costs(self.of_an_image(None)) || costs(self.thousand_characters) || costs(self.second)
    }

    /// The price of an image. Where it goes by the size, one of a size that is not listed costs as
    /// much as the most expensive one: `auto` may become any of them.
    fn of_an_image(&self, size: Option<&str>) -> Option<Money> {
        let listed = |size: &str| self.images_by_size.iter().find(|(name, _)| name == size);
        let most = || self.images_by_size.iter().map(|(_, price)| *price).max();
        let by_size = match size.and_then(listed) {
            Some((_, price)) => Some(*price),
            None => most(),
        };
        by_size.or(self.image)
    }
}

fn costs(price: Option<Money>) -> bool {
    price.is_some_and(|price| price > Money::ZERO)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod tests;
