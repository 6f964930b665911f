//! Delivery directives: what the query of a request for a media playlist asks (draft, section 6.2.5).

use super::file::number;

/// How a media playlist is wanted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Reload {
    /// Not before it has this. `None`: as it is.
    pub point: Option<Point>,
    /// Without its oldest segments, which the client knows (`_HLS_skip`).
    pub skip: bool,
}

/// Where a playlist has to reach.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Point {
    /// A media sequence number (`_HLS_msn`).
    pub sequence: u64,
    /// A part of that segment (`_HLS_part`); `None`: all of it.
    pub part: Option<usize>,
}

/// A query that cannot be heeded.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ReloadError {
    /// Not a number.
    #[error("{0} is to be a decimal number")]
    NotANumber(&'static str),
    /// Twice the same.
    #[error("{0} is given twice")]
    Twice(&'static str),
    /// A part of what?
    #[error("_HLS_part goes with _HLS_msn")]
    PartWithoutSegment,
    /// Another word.
    #[error("_HLS_skip is YES or v2")]
    Skip,
}

impl Reload {
    /// Reads the query of a request, without the question mark. What is not of HLS is passed over.
    pub fn parse(query: &str) -> Result<Self, ReloadError> {
        let (mut sequence, mut part, mut skip) = (None, None, None);
        for (key, value) in query.split('&').filter_map(|pair| pair.split_once('=')) {
            let (name, place) = match key {
                "_HLS_msn" => ("_HLS_msn", &mut sequence),
                "_HLS_part" => ("_HLS_part", &mut part),
                "_HLS_skip" => {
                    if !matches!(value, "YES" | "v2") {
                        return Err(ReloadError::Skip);
                    }
                    if skip.replace(true).is_some() {
                        return Err(ReloadError::Twice("_HLS_skip"));
                    }
                    continue;
                }
                _ => continue,
            };
            let value = number(value).ok_or(ReloadError::NotANumber(name))?;
            if place.replace(value).is_some() {
                return Err(ReloadError::Twice(name));
            }
        }
        if part.is_some() && sequence.is_none() {
            return Err(ReloadError::PartWithoutSegment);
        }
        // What does not fit is too far ahead all the same.
        let part = part.map(|part| usize::try_from(part).unwrap_or(usize::MAX));
        let point = sequence.map(|sequence| Point { sequence, part });
        Ok(Self { point, skip: skip.is_some() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queries() {
        let point = |sequence, part| Some(Point { sequence, part });
        for (query, wanted) in [
            ("", Ok(Reload::default())),
            ("token=abc&_HLS_push=0", Ok(Reload::default())),
            ("_HLS_msn=12", Ok(Reload { point: point(12, None), skip: false })),
            ("_HLS_part=3&x&_HLS_msn=12&_HLS_skip=YES", Ok(Reload { point: point(12, Some(3)), skip: true })),
            ("_HLS_skip=v2", Ok(Reload { point: None, skip: true })),
            ("_HLS_skip=NO", Err(ReloadError::Skip)),
            ("_HLS_part=3", Err(ReloadError::PartWithoutSegment)),
            ("_HLS_msn=", Err(ReloadError::NotANumber("_HLS_msn"))),
            ("_HLS_msn=-1", Err(ReloadError::NotANumber("_HLS_msn"))),
            ("_HLS_msn=1e3", Err(ReloadError::NotANumber("_HLS_msn"))),
            ("_HLS_msn=1&_HLS_part=%31", Err(ReloadError::NotANumber("_HLS_part"))),
            ("_HLS_msn=99999999999999999999", Err(ReloadError::NotANumber("_HLS_msn"))),
            ("_HLS_msn=1&_HLS_msn=1", Err(ReloadError::Twice("_HLS_msn"))),
        ] {
            assert_eq!(Reload::parse(query), wanted, "{query}");
        }
    }
}
