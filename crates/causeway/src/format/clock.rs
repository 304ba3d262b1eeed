//! A moment in the parts that people read, in UTC.

use std::time::{Duration, SystemTime};

const SECONDS_PER_DAY: u64 = 86_400;

/// A moment taken apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Clock {
    since_epoch: Duration,
    year: u64,
    month: u64,
    day: u64,
}

impl Clock {
    /// The parts of `time`; a time before 1970 counts as the first moment of it.
    pub(super) fn at(time: SystemTime) -> Self {
        let since_epoch = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let (year, month, day) = date(since_epoch.as_secs() / SECONDS_PER_DAY);
        Self { since_epoch, year, month, day }
    }

    /// `2026-11-23T03:02:11+0000`
    pub(super) fn iso(&self) -> String {
        format!("{}T{}+0000", self.date(), self.time())
    }

    /// `2026-11-23T03:02:11.123456Z`
    pub(super) fn iso_with_microseconds(&self) -> String {
        format!("{}T{}.{:06}Z", self.date(), self.time(), self.since_epoch.subsec_micros())
    }

    /// Seconds since 1970 with nanoseconds: `1470818943.786368637`
    pub(super) fn unix(&self) -> String {
        format!("{}.{:09}", self.since_epoch.as_secs(), self.since_epoch.subsec_nanos())
    }

    /// What `strftime` makes of `%letter`, and nanoseconds for `N`. `None`: not offered.
    pub(super) fn strftime(&self, letter: char) -> Option<String> {
        Some(match letter {
            'Y' => format!("{:04}", self.year),
            'm' => format!("{:02}", self.month),
            'd' => format!("{:02}", self.day),
            'H' => format!("{:02}", self.hour()),
            'M' => format!("{:02}", self.minute()),
            'S' => format!("{:02}", self.second()),
            'F' => self.date(),
            'T' => self.time(),
            's' => self.since_epoch.as_secs().to_string(),
            'N' => format!("{:09}", self.since_epoch.subsec_nanos()),
            'z' => "+0000".to_owned(),
            'Z' => "UTC".to_owned(),
            _ => return None,
        })
    }

    fn date(&self) -> String {
        format!("{:04}-{:02}-{:02}", self.year, self.month, self.day)
    }

    fn time(&self) -> String {
        format!("{:02}:{:02}:{:02}", self.hour(), self.minute(), self.second())
    }

    fn hour(&self) -> u64 {
        self.since_epoch.as_secs() % SECONDS_PER_DAY / 3_600
    }

    fn minute(&self) -> u64 {
        self.since_epoch.as_secs() % 3_600 / 60
    }

    fn second(&self) -> u64 {
        self.since_epoch.as_secs() % 60
    }
}

/// Year, month and day of the day that is `days` after 1970-01-01, in the Gregorian calendar.
///
/// Counted in years that begin in March, so that the leap day is the last of its year (H. Hinnant,
/// "chrono-compatible low-level date algorithms").
fn date(days: u64) -> (u64, u64, u64) {
    let shifted = days + 719_468;
    let era = shifted / 146_097;
    let day_of_era = shifted % 146_097;
    let year_of_era =
        (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let march_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * march_month + 2) / 5 + 1;
    let month = if march_month < 10 { march_month + 3 } else { march_month - 9 };
    let year = era * 400 + year_of_era + u64::from(month <= 2);
    (year, month, day)
}
