//! Times as the API server writes them, read: pure.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// A `metav1.Time`: `2026-11-21T10:00:00Z`.
pub(super) fn parse_timestamp(text: &str) -> Option<SystemTime> {
    let (date, time) = text.strip_suffix('Z')?.split_once('T')?;
    let mut date = date.split('-').map(|part| part.parse::<u64>().ok());
    let (year, month, day) = (date.next()??, date.next()??, date.next()??);
    moment(year, month, day, time)
}

/// A `Date` header's usual form (RFC 9110 §5.6.7): `Sat, 21 Nov 2026 10:00:00 GMT`.
pub(super) fn parse_http_date(text: &str) -> Option<SystemTime> {
    const MONTHS: [&str; 12] =
        ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
    let mut words = text.split_once(", ")?.1.split(' ');
    let day = words.next()?.parse().ok()?;
    let name = words.next()?;
    let month = MONTHS.iter().position(|month| *month == name)? as u64 + 1;
    let year = words.next()?.parse().ok()?;
    moment(year, month, day, words.next()?)
}

/// A moment in UTC; `time` is `10:00:00`, perhaps with a fraction, which is cut off.
fn moment(year: u64, month: u64, day: u64, time: &str) -> Option<SystemTime> {
    let mut time = time.split('.').next()?.split(':').map(|part| part.parse::<u64>().ok());
    let (hour, minute, second) = (time.next()??, time.next()??, time.next()??);
    let is_date = (1970..=9999).contains(&year) && (1..=12).contains(&month) && (1..=31).contains(&day);
    if !is_date || hour > 23 || minute > 59 || second > 60 {
        return None;
    }
    // The way back from `rfc3339`.
    let year = year - u64::from(month <= 2);
    let month_from_march = if month > 2 { month - 3 } else { month + 9 };
    let (era, year_of_era) = (year / 400, year % 400);
    let day_of_year = (153 * month_from_march + 2) / 5 + day - 1;
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    let days = era * 146_097 + day_of_era - 719_468;
    Some(UNIX_EPOCH + Duration::from_secs(((days * 24 + hour) * 60 + minute) * 60 + second))
}

#[cfg(test)]
mod tests {
    use weft_model::time::rfc3339;

    use super::*;

    #[test]
    fn times_are_written_and_read_as_the_server_does() {
        let check = |seconds, expected: &str| {
            let time = UNIX_EPOCH + Duration::from_secs(seconds);
            assert_eq!(rfc3339(time), expected);
            assert_eq!(parse_timestamp(expected), Some(time));
        };
        check(0, "1970-01-01T00:00:00Z");
        check(951_827_696, "2000-02-29T12:34:56Z");
        check(1_772_323_199, "2026-02-28T23:59:59Z");
        check(4_107_542_400, "2100-03-01T00:00:00Z");
        let date = |text| parse_http_date(text).map(rfc3339);
        assert_eq!(date("Sun, 06 Nov 1994 08:49:37 GMT").as_deref(), Some("1994-11-06T08:49:37Z"));
        assert_eq!(date("Tue, 29 Feb 2000 12:34:56 GMT").as_deref(), Some("2000-02-29T12:34:56Z"));
        for text in [
            "",
            "Sunday",
            "Sun, 06 Now 1994 08:49:37 GMT",
            "Sun, 06 Nov 1994 98:49:37 GMT",
            "2026-00-01T00:00:00Z",
        ] {
            assert_eq!((parse_http_date(text), parse_timestamp(text)), (None, None), "{text}");
        }
        assert_eq!(
            parse_timestamp("2026-11-21T10:00:00.123456Z").map(rfc3339).as_deref(),
            Some("2026-11-21T10:00:00Z")
        );
    }
}
