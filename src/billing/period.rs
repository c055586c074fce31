//! Days and months of caps and usage, as they begin where the operator says.

use crate::clock::DAY;

/// Where days begin.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Calendar {
    /// Milliseconds east of UTC.
    pub offset: i64,
}

/// The day and the month of a charge.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Period {
    /// Days since 1970-01-01.
    pub day: i32,
    /// Months since year 0: `year * 12 + month - 1`.
    pub month: i32,
}

impl Period {
    /// A day and its month.
    pub fn of(day: i32) -> Period {
        let (year, month) = year_and_month(i64::from(day));
        Period {
            day,
            month: i32::try_from(year * 12 + month - 1).unwrap_or(i32::MAX),
        }
    }
}

impl Calendar {
    /// The period of a moment, in milliseconds since 1970.
    pub fn period(self, wall: u64) -> Period {
        let day = (wall as i64).saturating_add(self.offset).div_euclid(DAY);
        Period::of(i32::try_from(day).unwrap_or(i32::MAX))
    }

    /// When the day after this moment begins, in milliseconds since 1970.
    pub fn next_day(self, wall: u64) -> u64 {
        let local = (wall as i64).saturating_add(self.offset);
        let next = (local.div_euclid(DAY) + 1) * DAY - self.offset;
        next.max(0).unsigned_abs()
    }

    /// When the month after this moment begins, in milliseconds since 1970.
    pub fn next_month(self, wall: u64) -> u64 {
        let day = (wall as i64).saturating_add(self.offset).div_euclid(DAY);
        let (year, month) = year_and_month(day);
        // A month has at most 31 days: one of the next 31 is in another.
        let next = (day + 1..=day + 31).find(|day| year_and_month(*day) != (year, month));
        let next = next.unwrap_or(day + 31) * DAY - self.offset;
        next.max(0).unsigned_abs()
    }
}

/// Days since 1970 → year and month: Howard Hinnant's `civil_from_days`
/// (<https://howardhinnant.github.io/date_algorithms.html>), as `billing.lua` has it too.
fn year_and_month(day: i64) -> (i64, i64) {
    let shifted = day + 719_468;
    let era = shifted.div_euclid(146_097);
    let of_era = shifted.rem_euclid(146_097);
    let year_of_era = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let from_march = (5 * of_year + 2) / 153;
    let month = if from_march < 10 {
        from_march + 3
    } else {
        from_march - 9
    };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    (year, month)
}

/// The day's date, `2026-11-20`.
pub fn date(day: i32) -> String {
    let epoch = jiff::civil::date(1970, 1, 1);
    match epoch.checked_add(jiff::Span::new().days(day)) {
        Ok(date) => date.to_string(),
        // Beyond the calendar's end there are no charges.
        Err(_) => day.to_string(),
    }
}

/// A date → its day; `None` if it is none.
pub fn day(date: &str) -> Option<i32> {
    let date: jiff::civil::Date = date.parse().ok()?;
    let since = date.since(jiff::civil::date(1970, 1, 1)).ok()?;
    Some(since.get_days())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn months_are_the_calendars() {
        let mut date = jiff::civil::date(1970, 1, 1);
        for day in 0..60_000 {
            let expected = (i64::from(date.year()), i64::from(date.month()));
            assert_eq!(year_and_month(day), expected, "{date}");
            date = date.tomorrow().unwrap();
        }
    }

    #[test]
    fn days_begin_where_the_operator_says() {
        // 2026-11-30 20:00 UTC.
        let wall = 1_796_068_800_000;
        let utc = Calendar { offset: 0 };
        let china = Calendar {
            offset: 8 * 3_600_000,
        };
        assert_eq!(date(utc.period(wall).day), "2026-11-30");
        assert_eq!(date(china.period(wall).day), "2026-12-01");
        assert_eq!(china.period(wall).month, utc.period(wall).month + 1);
        assert_eq!(utc.next_day(wall), wall + 4 * 3_600_000);
        assert_eq!(utc.next_month(wall), wall + 4 * 3_600_000);
        assert_eq!(china.next_day(wall), wall + 20 * 3_600_000);
        assert_eq!(china.next_month(wall) - wall, (20 + 30 * 24) * 3_600_000);
        assert_eq!(day("2026-12-01"), Some(china.period(wall).day));
        assert_eq!(day("tomorrow"), None);
    }
}
