//! Points in time as the log writes them: RFC 3339, UTC, milliseconds.

use std::time::Duration;

use super::text::decimal;

/// Time since 1970 that prints as `2026-11-22T15:04:05.123Z`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Rfc3339(pub Duration);

impl Rfc3339 {
    /// The text.
    pub fn text(self) -> [u8; 24] {
        let (seconds, millis) = (self.0.as_secs(), self.0.subsec_millis());
        let (days, second) = (seconds / 86_400, seconds % 86_400);
        let (year, month, day) = civil(days);
        let mut text = *b"0000-00-00T00:00:00.000Z";
        decimal(&mut text[..4], year);
        decimal(&mut text[5..7], month);
        decimal(&mut text[8..10], day);
        decimal(&mut text[11..13], second / 3600);
        decimal(&mut text[14..16], second / 60 % 60);
        decimal(&mut text[17..19], second % 60);
        decimal(&mut text[20..23], millis.into());
        text
    }
}

/// Year, month and day of a day since 1970-01-01 in the proleptic Gregorian calendar. Years begin in March here, so that
/// the leap day is a year's last.
fn civil(days: u64) -> (u64, u64, u64) {
    // From 0000-03-01, in eras of 400 years.
    let days = days + 719_468;
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let march_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * march_month + 2) / 5 + 1;
    let month = if march_month < 10 {
        march_month + 3
    } else {
        march_month - 9
    };
    (era * 400 + year_of_era + u64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_the_calendars() {
        for (seconds, text) in [
            (0, "1970-01-01T00:00:00.000Z"),
            (951_782_399, "2000-02-28T23:59:59.000Z"),
            (951_782_400, "2000-02-29T00:00:00.000Z"),
            (4_107_542_400, "2100-03-01T00:00:00.000Z"),
            (1_795_359_845, "2026-11-22T15:04:05.000Z"),
        ] {
            assert_eq!(
                Rfc3339(Duration::from_secs(seconds)).text(),
                *text.as_bytes()
            );
        }
        assert_eq!(
            Rfc3339(Duration::from_millis(1)).text(),
            *b"1970-01-01T00:00:00.001Z"
        );
    }
}
