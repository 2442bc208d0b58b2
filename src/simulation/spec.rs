//! The settings of a simulation and their text form.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

const MILLISECOND: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3600);

/// The units of durations.
const UNITS: [(&str, Duration); 4] =
    [("ms", MILLISECOND), ("s", SECOND), ("m", MINUTE), ("h", HOUR)];

/// The longest stale read, latency and period of a rate limit.
const STALE_MAX: Duration = HOUR;
const LATENCY_MAX: Duration = MINUTE;
const PERIOD_MAX: Duration = HOUR;
/// The largest number of writes per period.
const WRITES_MAX: u32 = 1_000_000;

/// One setting, in the form `NAME=VALUE`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Setting {
    /// `stale=5s`: reads may return outdated results for up to this long.
    Stale(Duration),
    /// `latency=20ms`: every operation takes this much longer.
    Latency(Duration),
    /// `errors=1%`: this share of the operations fails.
    Errors(Share),
    /// `rate-limit=1/s per key`: more frequent writes to a key are refused.
    RateLimit(RateLimit),
}

/// A share of operations, in parts per million.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Share(u32);

/// A number of writes to a key within a period.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RateLimit {
    /// The number of writes, at least 1.
    pub writes: u32,
    /// The period.
    pub period: Duration,
}

/// All settings of a simulation. The text form lists them, separated by commas.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Spec {
    pub(super) stale: Option<Duration>,
    pub(super) latency: Option<Duration>,
    pub(super) errors: Option<Share>,
    pub(super) rate_limit: Option<RateLimit>,
}

impl Spec {
    /// Combines settings.
    ///
    /// # Errors
    /// Returns a message that names the setting that is given twice.
    pub fn new(settings: impl IntoIterator<Item = Setting>) -> Result<Spec, String> {
        let mut spec = Spec::default();
        for setting in settings {
            let (name, repeated) = match setting {
                Setting::Stale(stale) => ("stale", spec.stale.replace(stale).is_some()),
                Setting::Latency(time) => ("latency", spec.latency.replace(time).is_some()),
                Setting::Errors(share) => ("errors", spec.errors.replace(share).is_some()),
                Setting::RateLimit(limit) => {
                    ("rate-limit", spec.rate_limit.replace(limit).is_some())
                }
            };
            if repeated {
                return Err(format!("{name} must not be repeated"));
            }
        }
        Ok(spec)
    }

    /// Returns whether nothing is simulated.
    pub fn is_empty(&self) -> bool {
        *self == Spec::default()
    }
}

impl FromStr for Spec {
    type Err = String;

    fn from_str(text: &str) -> Result<Spec, String> {
        let settings = text.split(',').map(str::parse).collect::<Result<Vec<Setting>, _>>()?;
        Spec::new(settings)
    }
}

impl fmt::Display for Spec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let settings = [
            self.stale.map(|time| format!("stale={}", ShortDuration(time))),
            self.latency.map(|time| format!("latency={}", ShortDuration(time))),
            self.errors.map(|share| format!("errors={share}")),
            self.rate_limit.map(|limit| format!("rate-limit={limit}")),
        ];
        f.write_str(&settings.into_iter().flatten().collect::<Vec<_>>().join(", "))
    }
}

impl FromStr for Setting {
    type Err = String;

    fn from_str(text: &str) -> Result<Setting, String> {
        let text = text.trim();
        let names = "stale, latency, errors or rate-limit";
        let (name, value) = text.split_once('=').ok_or_else(|| {
            format!("{text:?} must have the form NAME=VALUE, where NAME is {names}")
        })?;
        let value = value.trim();
        match name.trim() {
            "stale" => parse_duration(name, value, STALE_MAX, "5s").map(Setting::Stale),
            "latency" => parse_duration(name, value, LATENCY_MAX, "20ms").map(Setting::Latency),
            "errors" => value.parse().map(Setting::Errors),
            "rate-limit" => value.parse().map(Setting::RateLimit),
            other => Err(format!("unknown setting {other:?}: it must be {names}")),
        }
    }
}

fn parse_duration(
    name: &str,
    text: &str,
    max: Duration,
    example: &str,
) -> Result<Duration, String> {
    let valid = duration(text).filter(|time| !time.is_zero() && *time <= max);
    let max = ShortDuration(max);
    let name = name.trim();
    valid.ok_or_else(|| {
        format!("{name} must be from 1ms to {max}, such as {example}, but is {text:?}")
    })
}

/// Parses a whole number with a unit.
fn duration(text: &str) -> Option<Duration> {
    let digits = text.find(|c: char| !c.is_ascii_digit())?;
    let (number, unit) = text.split_at_checked(digits)?;
    let (_, unit) = UNITS.into_iter().find(|(name, _)| *name == unit)?;
    unit.checked_mul(number.parse().ok()?)
}

/// Shows a duration with the largest unit of which it is a multiple.
struct ShortDuration(Duration);

impl fmt::Display for ShortDuration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ms = self.0.as_millis();
        let units = UNITS.iter().rev().map(|(name, unit)| (name, unit.as_millis()));
        let (name, unit) = units
            .filter(|(_, unit)| ms.is_multiple_of(*unit))
            .find(|_| ms > 0)
            .unwrap_or((&"ms", 1));
        write!(f, "{}{name}", ms / unit)
    }
}

impl Share {
    /// The parts in one per cent, and the digits after the decimal point.
    const PER_CENT: u32 = 10_000;
    const DIGITS: usize = 4;

    /// Returns whether the share includes an operation with this uniformly distributed number.
    pub(super) fn includes(self, number: u64) -> bool {
        number % (100 * u64::from(Share::PER_CENT)) < u64::from(self.0)
    }

    fn parse(text: &str) -> Option<Share> {
        let number = text.strip_suffix('%')?;
        let (whole, fraction) = number.split_once('.').unwrap_or((number, "0"));
        let digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
        if !(1..=Share::DIGITS).contains(&fraction.len()) || !digits(whole) || !digits(fraction) {
            return None;
        }
        let whole: u32 = whole.parse().ok()?;
        let fraction: u32 = format!("{fraction:0<width$}", width = Share::DIGITS).parse().ok()?;
        let parts = whole.checked_mul(Share::PER_CENT)?.checked_add(fraction)?;
        (1..=100 * Share::PER_CENT).contains(&parts).then_some(Share(parts))
    }
}

impl FromStr for Share {
    type Err = String;

    fn from_str(text: &str) -> Result<Share, String> {
        Share::parse(text).ok_or_else(|| {
            format!("errors must be from 0.0001% to 100%, such as 1%, but is {text:?}")
        })
    }
}

impl fmt::Display for Share {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (whole, fraction) = (self.0 / Share::PER_CENT, self.0 % Share::PER_CENT);
        let fraction = format!(".{fraction:0width$}", width = Share::DIGITS);
        write!(f, "{whole}{}%", fraction.trim_end_matches('0').trim_end_matches('.'))
    }
}

impl RateLimit {
    fn parse(text: &str) -> Option<RateLimit> {
        // The limit always applies to each key, so that the words may be omitted.
        let rate = text.strip_suffix("per key").map_or(text, str::trim_end);
        let (writes, period) = rate.split_once('/')?;
        let writes = writes.bytes().all(|byte| byte.is_ascii_digit()).then_some(writes)?;
        let period = match period.starts_with(|c: char| c.is_ascii_digit()) {
            true => duration(period)?,
            false => duration(&format!("1{period}"))?,
        };
        let writes = writes.parse().ok().filter(|writes| (1..=WRITES_MAX).contains(writes))?;
        let valid = !period.is_zero() && period <= PERIOD_MAX;
        valid.then_some(RateLimit { writes, period })
    }
}

impl FromStr for RateLimit {
    type Err = String;

    fn from_str(text: &str) -> Result<RateLimit, String> {
        RateLimit::parse(text).ok_or_else(|| {
            format!(
                "rate-limit must be a number of writes, from 1 to {WRITES_MAX}, per period, from \
                 1ms to 1h, such as \"1/s per key\" or 10/5s, but is {text:?}"
            )
        })
    }
}

impl fmt::Display for RateLimit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let period = ShortDuration(self.period).to_string();
        let period = period.strip_prefix('1').filter(|unit| !unit.starts_with(char::is_numeric));
        match period {
            Some(unit) => write!(f, "{}/{unit} per key", self.writes),
            None => write!(f, "{}/{} per key", self.writes, ShortDuration(self.period)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_are_parsed_and_shown_in_a_canonical_form() {
        for (text, shown) in [
            ("stale=5s", "stale=5s"),
            ("stale=60s", "stale=1m"),
            ("stale=1h", "stale=1h"),
            ("latency=1500ms", "latency=1500ms"),
            (" latency = 2000ms ", "latency=2s"),
            ("errors=1%", "errors=1%"),
            ("errors=0.5%", "errors=0.5%"),
            ("errors=0.0001%", "errors=0.0001%"),
            ("errors=100%", "errors=100%"),
            ("errors=100.0000%", "errors=100%"),
            ("rate-limit=1/s per key", "rate-limit=1/s per key"),
            ("rate-limit=1/s", "rate-limit=1/s per key"),
            ("rate-limit=1/1s", "rate-limit=1/s per key"),
            ("rate-limit=10/5s  per key", "rate-limit=10/5s per key"),
            ("rate-limit=1000/h", "rate-limit=1000/h per key"),
            ("rate-limit=1/15s", "rate-limit=1/15s per key"),
            (
                "rate-limit=1/s per key,errors=1%,latency=20ms,stale=5s",
                "stale=5s, latency=20ms, errors=1%, rate-limit=1/s per key",
            ),
        ] {
            let spec: Spec = text.parse().unwrap_or_else(|e| panic!("{text}: {e}"));
            assert_eq!(spec.to_string(), shown, "{text}");
            assert_eq!(shown.parse(), Ok(spec), "{shown}");
        }
        assert!(Spec::default().is_empty() && Spec::default().to_string().is_empty());
    }

    #[test]
    fn an_invalid_setting_is_named_in_the_message() {
        let huge = format!("stale={}s", "9".repeat(30));
        for (text, part) in [
            ("", "NAME=VALUE"),
            ("stale", "\"stale\" must have the form NAME=VALUE"),
            ("stale=5s,", "NAME=VALUE"),
            ("delay=5s", "unknown setting \"delay\": it must be stale, latency"),
            ("Stale=5s", "unknown setting \"Stale\""),
            ("stale=", "stale must be from 1ms to 1h, such as 5s, but is \"\""),
            ("stale=5", "stale must be"),
            ("stale=s", "stale must be"),
            ("stale=0s", "stale must be"),
            ("stale=-1s", "stale must be"),
            ("stale=1.5s", "stale must be"),
            ("stale=61m", "stale must be"),
            ("stale=5 s", "stale must be"),
            ("stale=5d", "stale must be"),
            (&huge, "stale must be"),
            ("latency=61s", "latency must be from 1ms to 1m, such as 20ms, but is \"61s\""),
            ("latency=20", "latency must be"),
            ("errors=1", "errors must be from 0.0001% to 100%, such as 1%, but is \"1\""),
            ("errors=0%", "errors must be"),
            ("errors=%", "errors must be"),
            ("errors=.5%", "errors must be"),
            ("errors=1.%", "errors must be"),
            ("errors=101%", "errors must be"),
            ("errors=100.0001%", "errors must be"),
            ("errors=0.00001%", "errors must be"),
            ("errors=1e1%", "errors must be"),
            ("errors=+1%", "errors must be"),
            ("errors=99999999999%", "errors must be"),
            ("rate-limit=1", "rate-limit must be"),
            ("rate-limit=0/s", "rate-limit must be"),
            ("rate-limit=+1/s", "rate-limit must be"),
            ("rate-limit=1000001/s", "rate-limit must be"),
            ("rate-limit=1/0s", "rate-limit must be"),
            ("rate-limit=1/2h", "rate-limit must be"),
            ("rate-limit=1/s per store", "rate-limit must be"),
            ("rate-limit=/s", "rate-limit must be"),
            ("rate-limit=1/", "rate-limit must be"),
            ("rate-limit=1/é", "rate-limit must be"),
            ("stale=1s,errors=1%,stale=2s", "stale must not be repeated"),
        ] {
            let error = text.parse::<Spec>().unwrap_err();
            assert!(error.contains(part), "{text}: {error}");
        }
    }

    #[test]
    fn a_share_includes_its_fraction_of_all_numbers() {
        let share: Share = "0.5%".parse().unwrap();
        let included = (0..1_000_000).filter(|number| share.includes(*number)).count();
        assert_eq!(included, 5000);
    }
}
