//! The text of a media playlist.

use std::fmt::Write as _;

use super::rendition::Rendition;
use super::segment::{Media, Segment};
use super::{File, HOLD_BACK, PART, SKIP_UNTIL, Show, TARGET};
use crate::cmaf::date_time;
use crate::{Time, TrackId};

/// Parts are listed of segments that end less than so many [`TARGET`]s ago (draft, section 6.2.2).
const TARGETS_WITH_PARTS: u32 = 3;

impl Show {
    /// The playlist of a rendition, as a delta update where `skip` and there is something to skip.
    pub(super) fn media_playlist(&self, index: usize, skip: bool) -> Option<String> {
        let rendition = self.renditions.get(index)?;
        let track = rendition.track().id;
        let segments: Vec<&Segment> = rendition.list().collect();
        let end = segments.last().map_or(0, |last| last.date + last.micros());
        let ends_before = |segment: &Segment, micros: u128| {
            u128::from(segment.date + segment.micros()) + micros < u128::from(end)
        };
        let skipped = match skip {
            true => segments.iter().take_while(|s| ends_before(s, SKIP_UNTIL.as_micros())).count(),
            false => 0,
        };
        let mut out = String::with_capacity(256 + 200 * segments.len());
        self.put_head(segments.first().copied(), rendition, &mut out);
        if skipped > 0 {
            let _ = writeln!(out, "#EXT-X-SKIP:SKIPPED-SEGMENTS={skipped}");
        }
        let mut before = skipped.checked_sub(1).and_then(|last| segments.get(last)).copied();
        for segment in segments.iter().skip(skipped) {
            let with_parts = !ends_before(segment, (TARGETS_WITH_PARTS * TARGET).as_micros());
            put_segment(track, segment, before, with_parts, &mut out);
            before = Some(segment);
        }
        if self.ended {
            out.push_str("#EXT-X-ENDLIST\n");
            return Some(out);
        }
        let (sequence, part) = rendition.next_part();
        let hint = File::Part { track, sequence, part };
        let _ = writeln!(out, "#EXT-X-PRELOAD-HINT:TYPE=PART,URI=\"{hint}\"");
        for other in self.renditions.iter().filter(|other| other.track().id != track) {
            let Some((sequence, part)) = other.last_part() else { continue };
            let file = File::Playlist { track: other.track().id };
            let _ = write!(out, "#EXT-X-RENDITION-REPORT:URI=\"{file}\",LAST-MSN={sequence}");
            if let Some(part) = part {
                let _ = write!(out, ",LAST-PART={part}");
            }
            out.push('\n');
        }
        Some(out)
    }

    fn put_head(&self, first: Option<&Segment>, rendition: &Rendition, out: &mut String) {
        let _ = write!(
            out,
            "#EXTM3U\n#EXT-X-VERSION:9\n#EXT-X-TARGETDURATION:{}\n\
             #EXT-X-SERVER-CONTROL:CAN-BLOCK-RELOAD=YES,CAN-SKIP-UNTIL={:.1},HOLD-BACK={:.1},PART-HOLD-BACK={:.1}\n\
             #EXT-X-PART-INF:PART-TARGET={:.1}\n#EXT-X-MEDIA-SEQUENCE:{}\n",
            TARGET.as_secs(),
            SKIP_UNTIL.as_secs_f64(),
            (3 * TARGET).as_secs_f64(),
            HOLD_BACK.as_secs_f64(),
            PART.as_secs_f64(),
            first.map_or(rendition.next_part().0, |first| first.sequence),
        );
        let epoch = first.map_or(0, |first| first.epoch);
        if epoch > 0 {
            let _ = writeln!(out, "#EXT-X-DISCONTINUITY-SEQUENCE:{epoch}");
        }
    }
}

fn put_segment(
    track: TrackId,
    segment: &Segment,
    before: Option<&Segment>,
    with_parts: bool,
    out: &mut String,
) {
    // A rendition that paused may have missed more than one.
    let discontinuities = before.map_or(0, |before| segment.epoch.saturating_sub(before.epoch));
    for _ in 0..discontinuities {
        out.push_str("#EXT-X-DISCONTINUITY\n");
    }
    if before.is_none_or(|before| before.init != segment.init) {
        let _ = writeln!(out, "#EXT-X-MAP:URI=\"{}\"", File::Init { track, number: segment.init });
    }
    let _ = writeln!(out, "#EXT-X-PROGRAM-DATE-TIME:{}", date_time(Time::from_micros(segment.date)));
    let gap = segment.media == Media::Gap;
    if gap {
        out.push_str("#EXT-X-GAP\n");
    }
    let sequence = segment.sequence;
    if with_parts {
        for (number, part) in segment.parts.iter().enumerate() {
            let file = File::Part { track, sequence, part: number };
            let kind = match part.independent {
                _ if gap => ",GAP=YES",
                true => ",INDEPENDENT=YES",
                false => "",
            };
            let _ =
                writeln!(out, "#EXT-X-PART:DURATION={:.6},URI=\"{file}\"{kind}", part.micros as f64 / 1e6);
        }
    }
    if segment.media != Media::Open {
        let file = File::Segment { track, sequence };
        let _ = writeln!(out, "#EXTINF:{:.6},\n{file}", segment.micros() as f64 / 1e6);
    }
}
