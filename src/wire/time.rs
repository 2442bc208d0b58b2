//! Converts between the time formats of the API and microseconds since the Unix epoch.

use ::time::OffsetDateTime;
use ::time::format_description::well_known::Rfc3339;

/// The last time that RFC 3339 can express: the end of the year 9999.
pub const MICROS_MAX: u64 = 253_402_300_799_999_999;

/// Formats a time as RFC 3339 in UTC with microseconds. Times after [`MICROS_MAX`] are capped.
pub fn rfc3339(micros: u64) -> String {
    let micros = micros.min(MICROS_MAX);
    let date = timestamp(micros).replace(' ', "T");
    format!("{date}.{:06}Z", micros % 1_000_000)
}

/// Parses an RFC 3339 time with any offset. Returns `None` if it is malformed or if, in UTC, it is
/// before 1970 or after [`MICROS_MAX`].
pub fn parse_rfc3339(text: &str) -> Option<u64> {
    micros(OffsetDateTime::parse(text, &Rfc3339).ok()?)
}

/// Converts a time to microseconds since the Unix epoch. Returns `None` for a time before the epoch
/// or after [`MICROS_MAX`].
fn micros(at: OffsetDateTime) -> Option<u64> {
    // Round down, so that the last nanoseconds of 1969 are not converted to a time in 1970.
    let micros = at.unix_timestamp_nanos().div_euclid(1000);
    u64::try_from(micros).ok().filter(|micros| *micros <= MICROS_MAX)
}

/// Converts an HTTP date to RFC 3339 with microseconds. Returns `None` if it is malformed.
pub fn http_date_to_rfc3339(text: &str) -> Option<String> {
    let at = OffsetDateTime::from(httpdate::parse_http_date(text).ok()?);
    micros(at).map(rfc3339)
}

/// Formats a time as `YYYY-MM-DD HH:MM:SS` in UTC. Times after [`MICROS_MAX`] are capped.
pub fn timestamp(micros: u64) -> String {
    let secs = i64::try_from(micros.min(MICROS_MAX) / 1_000_000).unwrap_or(i64::MAX);
    let at = OffsetDateTime::from_unix_timestamp(secs).unwrap_or(OffsetDateTime::UNIX_EPOCH);
    let (year, month, day) = (at.year(), u8::from(at.month()), at.day());
    let (hour, minute, second) = at.to_hms();
    format!("{year:04}-{month:02}-{day:02} {hour:02}:{minute:02}:{second:02}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timestamps_have_the_recorded_format() {
        assert_eq!(timestamp(1_750_707_675_999_999), "2025-06-23 19:41:15");
        assert_eq!(timestamp(0), "1970-01-01 00:00:00");
        // Earlier versions stored times after the year 9999. They must not be mistaken for expiry
        // times in the past.
        for late in [MICROS_MAX, MICROS_MAX + 1, u64::MAX] {
            assert_eq!(timestamp(late), "9999-12-31 23:59:59");
            assert_eq!(rfc3339(late), "9999-12-31T23:59:59.999999Z");
        }
    }

    #[test]
    fn rfc_3339_times_round_trip() {
        let at = 1_750_707_675_009_999;
        assert_eq!(rfc3339(at), "2025-06-23T19:41:15.009999Z");
        for micros in [0, 1, at, MICROS_MAX] {
            assert_eq!(parse_rfc3339(&rfc3339(micros)), Some(micros));
        }
        assert_eq!(parse_rfc3339("2025-06-23T21:41:15.009999+02:00"), Some(at));
        assert_eq!(parse_rfc3339("2025-06-23T19:41:15Z"), Some(at / 1_000_000 * 1_000_000));
        for wrong in ["", "2025-06-23", "2025-06-23T19:41:15", "1750707675", "1969-12-31T23:59:58Z"]
        {
            assert_eq!(parse_rfc3339(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn rfc_3339_times_outside_1970_to_9999_in_utc_are_rejected() {
        for (text, micros) in [
            ("1970-01-01T00:00:00Z", Some(0)),
            ("1969-12-31T23:00:00-01:00", Some(0)),
            ("1970-01-01T00:30:00+01:00", None),
            ("1969-12-31T23:59:59.9999999Z", None),
            ("9999-12-31T23:59:59.999999Z", Some(MICROS_MAX)),
            ("9999-12-31T23:59:59.999999999Z", Some(MICROS_MAX)),
            ("9999-12-31T22:59:59.999999-01:00", Some(MICROS_MAX)),
            ("9999-12-31T23:00:00-01:00", None),
            ("9999-12-31T23:59:59-01:00", None),
            ("9999-12-31T23:59:59-23:59", None),
        ] {
            assert_eq!(parse_rfc3339(text), micros, "{text}");
        }
    }

    #[test]
    fn http_dates_are_converted_to_rfc_3339() {
        let converted = http_date_to_rfc3339("Mon, 23 Jun 2025 19:41:19 GMT");
        assert_eq!(converted.as_deref(), Some("2025-06-23T19:41:19.000000Z"));
        assert_eq!(http_date_to_rfc3339("soon"), None);
    }
}
