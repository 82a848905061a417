//! Schedules of known peaks: which floor of replicas is in force at a moment, and when that changes next. The moment is an
//! argument; time zones are those compiled into this build, so that every replica and every test reads the same ones.
//!
//! A peak begins when the clock of its zone shows what `cron` says and lasts for an elapsed time: two hours are two hours
//! even where a clock is changed meanwhile. A beginning that falls into the hour that spring skips comes right after it;
//! one in the hour that autumn repeats comes once, in the first pass. (Fields with `*` or a step name every such minute
//! there is, so they skip the former and repeat in the latter.)

use croner::{
    Cron,
    parser::{CronParser, Seconds, Year},
};
use jiff::{
    Timestamp, Zoned,
    tz::{TimeZone, TimeZoneDatabase},
};
use sluice_crds::api_route::scaling::ScalingSchedule;

/// The zone of a schedule that names none.
const DEFAULT_ZONE: &str = "UTC";
/// Two leap days apart at the most: a `cron` that names no time in so many years names none.
const NEVER: Timestamp = Timestamp::constant(1_767_225_600, 0);

/// A schedule, read.
#[derive(Debug, Clone, PartialEq)]
pub struct Schedule {
    /// Its name.
    pub name: String,
    /// Fewest pods while it lasts.
    pub min_replicas: i32,
    begins: Cron,
    zone: TimeZone,
    lasts_s: i64,
}

/// Why a schedule cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ScheduleError {
    /// Not five fields of cron, or a value out of range.
    #[error(
        "cron {cron:?} cannot be read ({why}); write minute, hour, day of month, month, day of week, such as \"55 23 * * FRI\""
    )]
    Cron {
        /// The text.
        cron: String,
        /// What is wrong with it.
        why: String,
    },
    /// A day that does not exist, such as 30 February.
    #[error("cron {0:?} names a time that never comes")]
    Never(String),
    /// A zone that the database does not have.
    #[error(
        "time zone {0:?} is not in the IANA database of this build; write one such as Europe/Berlin"
    )]
    Zone(String),
}

/// What holds at a moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Floor {
    /// The highest floor of the schedules that are on; none where none is.
    pub min_replicas: Option<i32>,
    /// When to ask again, in seconds since 1970: nothing changes before. None: nothing ever changes.
    pub until_s: Option<i64>,
}

impl Schedule {
    /// Reads a schedule of the resource.
    pub fn read(schedule: &ScalingSchedule) -> Result<Self, ScheduleError> {
        let ScalingSchedule {
            name,
            cron,
            time_zone,
            duration,
            min_replicas,
        } = schedule;
        let zone = time_zone.as_deref().unwrap_or(DEFAULT_ZONE);
        let read = Self {
            name: name.to_string(),
            min_replicas: *min_replicas,
            begins: read_cron(cron)?,
            zone: TimeZoneDatabase::bundled()
                .get(zone)
                .map_err(|_| ScheduleError::Zone(zone.to_owned()))?,
            lasts_s: i64::try_from(duration.get().as_secs()).unwrap_or(i64::MAX),
        };
        match read.next_after(NEVER) {
            Some(_) => Ok(read),
            None => Err(ScheduleError::Never(cron.to_string())),
        }
    }

    /// The last beginning up to and with `now`, where it is not over yet: when it ends.
    fn ends(&self, now: Timestamp) -> Option<i64> {
        let begun = self.begins.find_previous_occurrence(&self.at(now), true);
        let end = begun
            .ok()?
            .timestamp()
            .as_second()
            .saturating_add(self.lasts_s);
        (end > now.as_second()).then_some(end)
    }

    fn next_after(&self, now: Timestamp) -> Option<i64> {
        let next = self.begins.find_next_occurrence(&self.at(now), false);
        Some(next.ok()?.timestamp().as_second())
    }

    fn at(&self, moment: Timestamp) -> Zoned {
        moment.to_zoned(self.zone.clone())
    }
}

fn read_cron(text: &str) -> Result<Cron, ScheduleError> {
    let unreadable = |why: String| ScheduleError::Cron {
        cron: text.to_owned(),
        why,
    };
    // `@hourly` and the like would be read as well; the resource has fields only.
    if text.split(' ').count() != 5 || text.contains('@') {
        return Err(unreadable("it has not five fields".into()));
    }
    let parser = CronParser::builder()
        .seconds(Seconds::Disallowed)
        .year(Year::Disallowed)
        .build();
    parser
        .parse(text)
        .map_err(|error| unreadable(error.to_string()))
}

/// The highest floor at a moment, in seconds since 1970, and when to ask again.
pub fn floor<'s>(schedules: impl IntoIterator<Item = &'s Schedule>, now_s: i64) -> Floor {
    let Ok(now) = Timestamp::from_second(now_s) else {
        return Floor::default();
    };
    let mut floor = Floor::default();
    for schedule in schedules {
        let ends = schedule.ends(now);
        if ends.is_some() {
            floor.min_replicas = floor.min_replicas.max(Some(schedule.min_replicas));
        }
        for change in ends.into_iter().chain(schedule.next_after(now)) {
            floor.until_s = Some(floor.until_s.map_or(change, |until| until.min(change)));
        }
    }
    floor
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn schedule(cron: &str, zone: &str, duration: &str, min_replicas: i32) -> Schedule {
        let resource = json!({"name": "peak", "cron": cron, "timeZone": zone, "duration": duration, "minReplicas": min_replicas});
        Schedule::read(&serde_json::from_value(resource).expect("a schedule")).expect("readable")
    }

    fn error(cron: &str, zone: &str) -> String {
        let resource = json!({"name": "peak", "cron": cron, "timeZone": zone, "duration": "1h", "minReplicas": 1});
        Schedule::read(&serde_json::from_value(resource).expect("a schedule"))
            .expect_err("refused")
            .to_string()
    }

    fn s(time: &str) -> i64 {
        let time: Timestamp = time.parse().expect("a time");
        time.as_second()
    }

    fn at(schedules: &[Schedule], time: &str) -> (Option<i32>, String) {
        let Floor {
            min_replicas,
            until_s,
        } = floor(schedules, s(time));
        let until = until_s.map(|until| Timestamp::from_second(until).expect("a time").to_string());
        (min_replicas, until.unwrap_or_default())
    }

    #[test]
    fn a_sale_that_starts_at_midnight() {
        // 23:55 to 02:00 in Berlin, on Fridays: 22:55 to 01:00 UTC in November.
        let sale = [schedule("55 23 * 11 FRI", "Europe/Berlin", "2h5m", 20)];
        let says = |time| at(&sale, time);
        let end = "2026-11-28T01:00:00Z".to_owned();
        assert_eq!(
            says("2026-11-27T22:54:59Z"),
            (None, "2026-11-27T22:55:00Z".into())
        );
        assert_eq!(says("2026-11-27T22:55:00Z"), (Some(20), end.clone()));
        assert_eq!(says("2026-11-28T00:59:59Z"), (Some(20), end));
        // The next Friday of a November is a year away.
        assert_eq!(
            says("2026-11-28T01:00:00Z"),
            (None, "2027-11-05T22:55:00Z".into())
        );
    }

    #[test]
    fn the_highest_of_those_that_are_on_counts() {
        let both = [
            schedule("0 8 * * *", "UTC", "10h", 4),
            schedule("0 12 * * *", "UTC", "1h", 9),
        ];
        assert_eq!(
            at(&both, "2026-01-05T09:00:00Z"),
            (Some(4), "2026-01-05T12:00:00Z".into())
        );
        assert_eq!(
            at(&both, "2026-01-05T12:30:00Z"),
            (Some(9), "2026-01-05T13:00:00Z".into())
        );
        assert_eq!(
            at(&both, "2026-01-05T13:00:00Z"),
            (Some(4), "2026-01-05T18:00:00Z".into())
        );
        assert_eq!(
            at(&both, "2026-01-05T18:00:00Z"),
            (None, "2026-01-06T08:00:00Z".into())
        );
        assert_eq!(
            floor([], 0),
            Floor::default(),
            "no schedule: nothing ever changes"
        );
    }

    #[test]
    fn a_skipped_beginning_comes_after_the_gap_and_a_repeated_one_once() {
        // Berlin, 29 March 2026: 02:00 becomes 03:00 at 01:00 UTC. 25 October: 03:00 becomes 02:00 at 01:00 UTC.
        let night = [schedule("30 2 * * *", "Europe/Berlin", "20m", 5)];
        assert_eq!(
            at(&night, "2026-03-29T00:59:59Z"),
            (None, "2026-03-29T01:00:00Z".into())
        );
        assert_eq!(at(&night, "2026-03-29T01:00:00Z").0, Some(5));
        assert_eq!(at(&night, "2026-03-29T01:20:00Z").0, None);
        assert_eq!(
            at(&night, "2026-10-25T00:30:00Z").0,
            Some(5),
            "the first 02:30"
        );
        assert_eq!(at(&night, "2026-10-25T01:30:00Z").0, None, "not the second");
        // Elapsed time, whatever the clock shows: 22:00 and six hours, over each change.
        let evening = [schedule("0 22 * * *", "Europe/Berlin", "6h", 5)];
        assert_eq!(
            at(&evening, "2026-03-28T21:00:00Z"),
            (Some(5), "2026-03-29T03:00:00Z".into())
        );
        assert_eq!(
            at(&evening, "2026-10-24T20:00:00Z"),
            (Some(5), "2026-10-25T02:00:00Z".into())
        );
    }

    #[test]
    fn what_cannot_be_read_says_why() {
        insta::assert_snapshot!(
            [
                error("61 * * * *", "UTC"),
                error("0 0 30 2 *", "UTC"),
                error("0 0 0 * * *", "UTC"),
                error("@daily", "UTC"),
                error("0 0 * * *", "Europe/Atlantis"),
            ]
            .join("\n")
        );
        schedule("0 0 29 2 *", "UTC", "1h", 1);
    }

    /// Whether a plain reading of the five fields holds at a moment; the fields are lists of numbers, or `*`.
    fn shows(
        zone: &TimeZone,
        minute: &[i8],
        hour: &[i8],
        weekday: Option<i8>,
        moment_s: i64,
    ) -> bool {
        let local = Timestamp::from_second(moment_s)
            .expect("a time")
            .to_zoned(zone.clone());
        minute.contains(&local.minute())
            && hour.contains(&local.hour())
            && weekday.is_none_or(|day| local.weekday().to_sunday_zero_offset() == day)
    }

    proptest! {
        /// Against a walk over every minute of the days around both changes of the clock. Hours that a change skips or
        /// repeats are looked at by the test above; this one stays outside them.
        #[test]
        fn the_floor_is_what_a_walk_over_every_minute_finds(
            zone in prop::sample::select(vec!["Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "Asia/Kolkata", "UTC"]),
            minute in 0..60_i8, hour in 4..24_i8, weekday in prop::option::of(0..7_i8), lasts in 1..2_880_i64,
            month in prop::sample::select(vec!["2026-03-07", "2026-03-28", "2026-04-04", "2026-10-03", "2026-10-24", "2026-10-31"]),
            offset in 0..2_880_i64,
        ) {
            let day = weekday.map_or("*".to_owned(), |day| day.to_string());
            let one = schedule(&format!("{minute} {hour} * * {day}"), zone, &format!("{lasts}m"), 3);
            let now_s = s(&format!("{month}T00:00:00Z")) + offset * 60;
            let begins = |moment_s| shows(&one.zone, &[minute], &[hour], weekday, moment_s);
            let last = (0..lasts).map(|ago| now_s - ago * 60).find(|moment_s| begins(*moment_s));
            let found = floor([&one], now_s);
            prop_assert_eq!(found.min_replicas, last.map(|_| 3));
            // What it says about the future holds: nothing changes up to the minute before.
            let until_s = found.until_s.expect("it comes again");
            prop_assert!(until_s > now_s);
            prop_assert_eq!(floor([&one], until_s - 1).min_replicas, found.min_replicas);
            prop_assert!(begins(until_s) || last.is_some_and(|last| last + lasts * 60 == until_s));
        }

        #[test]
        fn no_text_makes_it_fail(cron in "[0-9A-Za-z*/,@# -]{0,40}", zone in "[A-Za-z/_+-]{0,20}", now_s in any::<i64>()) {
            let resource = json!({"name": "peak", "cron": cron, "timeZone": zone, "duration": "1h", "minReplicas": 1});
            if let Ok(read) = Schedule::read(&serde_json::from_value(resource).expect("a schedule")) {
                floor([&read], now_s);
            }
        }
    }
}
