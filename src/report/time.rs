//! Times for people.

use std::fmt;
use std::time::Duration;

/// Seconds of each unit, the largest first.
const UNITS: [(u64, &str); 6] = [
    (365 * 86_400, "year"),
    (7 * 86_400, "week"),
    (86_400, "day"),
    (3600, "hour"),
    (60, "minute"),
    (1, "second"),
];

/// A time in whole units of the largest that it has at least two of: "119 minutes", not "1 hour".
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Time(pub Duration);

impl fmt::Display for Time {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = Duration::from_secs;
        // From 1.5 units on, as it is rounded in the next smaller one.
        let reaches = |&pair: &usize| {
            let [(unit, _), (next, _)] = [UNITS[pair], UNITS[pair + 1]];
            self.0.saturating_add(seconds(next) / 2) >= seconds(unit) * 3 / 2
        };
        let at = (0..UNITS.len() - 1).find(reaches).unwrap_or(UNITS.len() - 1);
        let (unit, name) = UNITS[at];
        let count = self.0.div_duration_f64(seconds(unit)).round() as u64;
        match if unit > 1 { count.max(2) } else { count } {
            1 => write!(f, "1 {name}"),
            count => write!(f, "{count} {name}s"),
        }
    }
}

/// So many seconds, which are an estimate.
pub fn about(seconds: f64) -> String {
    match Duration::try_from_secs_f64(seconds) {
        Ok(time) if time.as_secs() > 0 => format!("about {}", Time(time)),
        Ok(_) => "under a second".to_owned(),
        Err(_) => "too long to tell".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units_change_where_two_of_them_are_reached() {
        let of = |seconds| Time(Duration::from_secs_f64(seconds)).to_string();
        assert_eq!([of(0.4), of(1.2), of(89.4)], ["0 seconds", "1 second", "89 seconds"]);
        assert_eq!([of(89.5), of(150.0), of(5369.9)], ["2 minutes", "3 minutes", "89 minutes"]);
        assert_eq!([of(5370.0), of(86_400.0 * 365.0)], ["2 hours", "52 weeks"]);
        assert_eq!(
            [about(0.9), about(1.0), about(-1.0)],
            ["under a second", "about 1 second", "too long to tell"]
        );
    }

    #[cfg(feature = "cli")]
    #[test]
    fn times_are_those_of_the_progress_bar() {
        let mut seconds = 0.01;
        while seconds < 1e10 {
            let time = Duration::from_secs_f64(seconds);
            assert_eq!(Time(time).to_string(), indicatif::HumanDuration(time).to_string());
            seconds *= 1.003;
        }
    }
}
