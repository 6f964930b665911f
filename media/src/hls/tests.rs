use std::time::Duration;

use super::file::number;
use super::reload::Point;
use super::*;
use crate::cmaf::samples::{AUDIO, SETS, VIDEO, ZERO, tracks};
use crate::{FrameId, TrackConfig};

const FRAME: Duration = Duration::from_micros(33_333);
const PACKET: Duration = Duration::from_millis(20);

/// The first media sequence number of a show that begins at [`ZERO`].
const FIRST: u64 = 1_795_000_000 - 1_577_836_800;

/// Picture `n` of 30 a second, in groups of a second, of 1000 bytes.
fn picture(n: u64) -> Frame {
    let frame = (n % 30) as u32;
    let mut data = if frame == 0 { SETS.to_vec() } else { Vec::new() };
    data.extend([0, 0, 0, 1, if frame == 0 { 0x65 } else { 0x41 }]);
    data.resize(1000, 1 + (n % 250) as u8);
    let id = FrameId { track: VIDEO, group: 100 + n / 30, frame };
    Frame { id, capture_time: ZERO + FRAME * n as u32, keyframe: frame == 0, data: data.into() }
}

/// Sound of 20 ms.
fn packet(n: u64) -> Frame {
    let id = FrameId { track: AUDIO, group: 200 + n / 25, frame: (n % 25) as u32 };
    let data = Bytes::from(vec![0xfc, n as u8, 7]);
    Frame { id, capture_time: ZERO + PACKET * n as u32, keyframe: true, data }
}

/// A show of so many seconds, by capture time, of which `lost` says what does not come.
fn play(seconds: u64, lost: impl Fn(&Frame) -> bool) -> Show {
    let mut show = Show::new("demo", &tracks());
    feed(&mut show, 0..seconds, lost);
    show
}

fn feed(show: &mut Show, seconds: std::ops::Range<u64>, lost: impl Fn(&Frame) -> bool) {
    let pictures = (seconds.start * 30..seconds.end * 30).map(picture);
    let sounds = (seconds.start * 50..seconds.end * 50).map(packet);
    let mut frames: Vec<_> = pictures.chain(sounds).filter(|frame| !lost(frame)).collect();
    frames.sort_by_key(|frame| frame.capture_time);
    for frame in &frames {
        show.frame(frame);
    }
}

fn text(show: &mut Show, track: TrackId, skip: bool) -> String {
    match show.answer(File::Playlist { track }, Reload { point: None, skip }) {
        Answer::Ready(text) => String::from_utf8(text.to_vec()).unwrap(),
        other => panic!("{other:?}"),
    }
}

/// The values of a tag.
fn tags<'a>(playlist: &'a str, tag: &str) -> Vec<&'a str> {
    let start = format!("#{tag}:");
    playlist.lines().filter_map(|line| line.strip_prefix(start.as_str())).collect()
}

fn durations(playlist: &str, tag: &str, name: &str) -> Vec<f64> {
    let value = |text: &str| text.strip_prefix(name)?.split(',').next()?.parse().ok();
    tags(playlist, tag).into_iter().filter_map(value).collect()
}

fn reload(sequence: u64, part: Option<usize>) -> Reload {
    Reload { point: Some(Point { sequence, part }), skip: false }
}

#[test]
fn a_playlist_says_what_there_is() {
    let mut show = play(5, |_| false);
    let video = text(&mut show, VIDEO, false);
    let (first, second, third) = (FIRST, FIRST + 1, FIRST + 2);
    let part = |n| 0.033_333 * f64::from(n);
    let lines: Vec<&str> = video.lines().collect();
    let head = format!(
        "#EXTM3U
#EXT-X-VERSION:9
#EXT-X-TARGETDURATION:4
#EXT-X-SERVER-CONTROL:CAN-BLOCK-RELOAD=YES,CAN-SKIP-UNTIL=24.0,HOLD-BACK=12.0,PART-HOLD-BACK=0.9
#EXT-X-PART-INF:PART-TARGET=0.3
#EXT-X-MEDIA-SEQUENCE:{first}
#EXT-X-MAP:URI=\"track0-init0.mp4\"
#EXT-X-PROGRAM-DATE-TIME:2026-11-18T11:06:40.123Z
#EXT-X-PART:DURATION={:.6},URI=\"track0-{first}.0.m4s\",INDEPENDENT=YES
#EXT-X-PART:DURATION={:.6},URI=\"track0-{first}.1.m4s\"",
        part(9),
        part(9)
    );
    assert_eq!(lines[..10].join("\n"), head);
    // Segments of two groups; the last is under way, and its frames after the last part are not told yet.
    assert_eq!(durations(&video, "EXTINF", ""), [part(60), part(60)]);
    let parts = durations(&video, "EXT-X-PART", "DURATION=");
    assert_eq!(parts, [9, 9, 9, 9, 9, 9, 6, 9, 9, 9, 9, 9, 9, 6, 9, 9, 9].map(part));
    let end = format!(
        "#EXT-X-PRELOAD-HINT:TYPE=PART,URI=\"track0-{third}.3.m4s\"
#EXT-X-RENDITION-REPORT:URI=\"track1.m3u8\",LAST-MSN={third},LAST-PART=3"
    );
    assert_eq!(lines[lines.len() - 2..].join("\n"), end);

    let sound = text(&mut show, AUDIO, false);
    assert_eq!(durations(&sound, "EXTINF", ""), [1.5, 2.0], "sound needs no group to begin a segment with");
    assert!(sound.contains(&format!("track1-{second}.m4s")));
}

#[test]
fn parts_make_up_their_segment() {
    let mut show = play(5, |_| false);
    let track = VIDEO;
    let Answer::Ready(whole) = show.answer(File::Segment { track, sequence: FIRST }, Reload::default())
    else {
        panic!("no segment")
    };
    let mut parts = Vec::new();
    while let Answer::Ready(part) =
        show.answer(File::Part { track, sequence: FIRST, part: parts.len() }, Reload::default())
    {
        parts.push(part);
    }
    assert_eq!(parts.len(), 7);
    assert_eq!(parts.concat(), whole);
    let missing = [
        File::Segment { track, sequence: FIRST - 1 },
        File::Segment { track, sequence: FIRST + 2 },
        File::Part { track, sequence: FIRST, part: 7 },
        File::Part { track, sequence: FIRST + 2, part: 4 },
        File::Init { track, number: 1 },
        File::Playlist { track: TrackId(9) },
    ];
    for file in missing {
        assert_eq!(show.answer(file, Reload::default()), Answer::Missing, "{file}");
    }
    let hinted = File::Part { track, sequence: FIRST + 2, part: 3 };
    assert_eq!(show.answer(hinted, Reload::default()), Answer::Wait);
    let Answer::Ready(init) = show.answer(File::Init { track, number: 0 }, Reload::default()) else {
        panic!("no init segment")
    };
    assert!(init.windows(4).any(|kind| kind == b"avcC"));
}

#[test]
fn a_reload_waits_for_what_it_names() {
    let mut show = play(5, |_| false);
    let list = File::Playlist { track: VIDEO };
    let current = FIRST + 2;
    let mut ask = |sequence, part| match show.answer(list, reload(sequence, part)) {
        Answer::Ready(_) => "ready",
        Answer::Wait => "wait",
        Answer::Missing => "missing",
        Answer::TooFarAhead => "too far",
    };
    assert_eq!(ask(0, None), "ready");
    assert_eq!(ask(current - 1, None), "ready");
    assert_eq!(ask(current, Some(2)), "ready");
    assert_eq!(ask(current, Some(3)), "wait");
    assert_eq!(ask(current, None), "wait");
    assert_eq!(ask(current, Some(13)), "wait");
    assert_eq!(ask(current, Some(14)), "too far");
    assert_eq!(ask(current + 2, Some(0)), "wait");
    assert_eq!(ask(current + 3, None), "too far");
    assert_eq!(ask(u64::MAX, Some(usize::MAX)), "too far");
    // The last part of a finished segment is 6; what is behind it is the first of the next.
    assert_eq!(ask(current - 1, Some(7)), "ready");

    // Exactly the frame that ends the part makes it ready.
    let due = (150..).find(|n| show.frame(&picture(*n)) && *n > 0).unwrap();
    assert_eq!(due, 156, "frames 147 to 155 are the part");
    assert!(matches!(show.answer(list, reload(current, Some(3))), Answer::Ready(_)));
    show.finish();
    assert!(matches!(show.answer(list, reload(current + 2, Some(0))), Answer::Ready(_)));
    assert!(text(&mut show, VIDEO, false).ends_with("#EXT-X-ENDLIST\n"));
}

#[test]
fn the_first_playlist_waits_for_a_whole_segment() {
    let mut show = play(1, |_| false);
    let list = File::Playlist { track: VIDEO };
    assert_eq!(show.answer(list, Reload::default()), Answer::Wait);
    assert_eq!(show.answer(list, reload(FIRST, Some(0))), Answer::Ready(text_of(&mut show)));
    feed(&mut show, 1..3, |_| false);
    assert!(matches!(show.answer(list, Reload::default()), Answer::Ready(_)));
}

fn text_of(show: &mut Show) -> Bytes {
    show.media_playlist(0, false).unwrap().into()
}

/// Groups 103 and 104 are lost on the way: two seconds.
#[test]
fn a_lost_group_is_a_gap_of_its_length() {
    let lost = |frame: &Frame| frame.id.track == VIDEO && matches!(frame.id.group, 103 | 104);
    let mut show = play(9, lost);
    let video = text(&mut show, VIDEO, false);
    let at = video.lines().position(|line| line == "#EXT-X-GAP").unwrap();
    let gap: Vec<&str> = video.lines().skip(at - 1).take(11).collect();
    assert_eq!(gap[0], "#EXT-X-PROGRAM-DATE-TIME:2026-11-18T11:06:43.123Z");
    let sequence = FIRST + 2;
    assert_eq!(gap[2], format!("#EXT-X-PART:DURATION=0.300000,URI=\"track0-{sequence}.0.m4s\",GAP=YES"));
    assert_eq!(gap[8], format!("#EXT-X-PART:DURATION=0.199980,URI=\"track0-{sequence}.6.m4s\",GAP=YES"));
    assert_eq!(gap[9..], ["#EXTINF:1.999980,".into(), format!("track0-{}.m4s", FIRST + 2)], "{video}");
    assert_eq!(video.matches("#EXT-X-GAP").count(), 1);
    assert!(!video.contains("DISCONTINUITY"), "time goes on: {video}");
    let track = VIDEO;
    for gone in [File::Segment { track, sequence }, File::Part { track, sequence, part: 3 }] {
        assert_eq!(show.answer(gone, Reload::default()), Answer::Missing);
    }
    assert!(!text(&mut show, AUDIO, false).contains("GAP"), "the sound was not lost");
    // The dates of all segments say the same as their durations.
    assert_eq!(tags(&video, "EXT-X-PROGRAM-DATE-TIME").len(), 5);
}

/// Sound comes back right before a slot ends, the picture behind it: what follows the two gaps is in both at once.
#[test]
fn behind_a_gap_the_first_segments_overlap() {
    let lost = |frame: &Frame| match frame.id.track {
        VIDEO => matches!(frame.id.group, 103..108),
        _ => (180..365).contains(&((frame.id.group - 200) * 25 + u64::from(frame.id.frame))),
    };
    let mut show = play(13, lost);
    let mut behind = |track| {
        let playlist = text(&mut show, track, false);
        let extinf = durations(&playlist, "EXTINF", "");
        let gap =
            playlist.lines().filter(|line| line.starts_with("#EXT-X-GAP") || line.starts_with("#EXTINF"));
        let gaps: Vec<bool> = gap.map(|line| line == "#EXT-X-GAP").collect();
        let at = gaps.iter().rposition(|gap| *gap).unwrap() - (gaps.iter().filter(|gap| **gap).count() - 1);
        let from: f64 = extinf[..=at].iter().sum();
        (from, from + extinf[at + 1])
    };
    let ((sound_from, sound_to), (video_from, video_to)) = (behind(AUDIO), behind(VIDEO));
    assert!(sound_from < video_from, "sound {sound_from}, picture {video_from}");
    let both = sound_to.min(video_to) - video_from;
    assert!(both >= 1.0, "sound to {sound_to}, picture from {video_from} to {video_to}");
}

/// The last frames of a group: the picture stands still, which is no gap.
#[test]
fn some_lost_frames_are_a_longer_part() {
    let lost = |frame: &Frame| frame.id.track == VIDEO && frame.id.group == 103 && frame.id.frame > 17;
    let mut show = play(6, lost);
    let video = text(&mut show, VIDEO, false);
    assert!(!video.contains("GAP"), "{video}");
    let longest = durations(&video, "EXT-X-PART", "DURATION=").into_iter().fold(0.0, f64::max);
    assert_eq!(longest, 0.499_995, "three pictures, and twelve that did not come");
    let total: f64 = durations(&video, "EXTINF", "").iter().sum();
    assert!((total - 120.0 * 0.033_333).abs() < 1e-6, "{total}");
}

/// A longer outage than the ring: only its end is listed.
#[test]
fn an_outage_of_a_year_costs_no_memory() {
    let mut show = play(5, |_| false);
    let year = Duration::from_secs(365 * 86_400);
    for n in 150..300 {
        let frame = picture(n);
        show.frame(&Frame { capture_time: frame.capture_time + year, ..frame });
    }
    let video = text(&mut show, VIDEO, false);
    assert!(video.matches("#EXT-X-GAP").count() <= 19, "{video}");
    assert_eq!(tags(&video, "EXT-X-MEDIA-SEQUENCE").len(), 1);
    let sequence = number(tags(&video, "EXT-X-MEDIA-SEQUENCE")[0]).unwrap();
    assert!(sequence > FIRST + 7_000_000, "{sequence}");
    // What is beyond the calendar is no time at all.
    assert!(!show.frame(&Frame { capture_time: Time::from_micros(u64::MAX), ..picture(300) }));
}

fn changed(frame: Frame) -> Frame {
    let mut data = frame.data.to_vec();
    if let Some(level) = data.iter().position(|&byte| byte == 0x1f).filter(|_| frame.keyframe) {
        data[level] = 0x20;
    }
    Frame { data: data.into(), ..frame }
}

#[test]
fn a_new_shape_is_a_discontinuity_in_all_renditions() {
    let mut show = play(5, |_| false);
    for second in 5..9 {
        for n in second * 30..(second + 1) * 30 {
            show.frame(&changed(picture(n)));
        }
        for n in second * 50..(second + 1) * 50 {
            show.frame(&packet(n));
        }
    }
    let video = text(&mut show, VIDEO, false);
    let change = "#EXT-X-DISCONTINUITY\n#EXT-X-MAP:URI=\"track0-init1.mp4\"\n\
                  #EXT-X-PROGRAM-DATE-TIME:2026-11-18T11:06:45.123Z\n";
    assert!(video.contains(change), "{video}");
    assert_eq!((video.matches("DISCONTINUITY").count(), video.matches("EXT-X-MAP").count()), (1, 2));
    let sound = text(&mut show, AUDIO, false);
    let change = "#EXT-X-DISCONTINUITY\n#EXT-X-PROGRAM-DATE-TIME:2026-11-18T11:06:45.123Z\n";
    assert!(sound.contains(change), "{sound}");
    assert_eq!((sound.matches("DISCONTINUITY").count(), sound.matches("EXT-X-MAP").count()), (1, 1));
    assert!(matches!(
        show.answer(File::Init { track: VIDEO, number: 1 }, Reload::default()),
        Answer::Ready(_)
    ));

    // When the change has left the list, its count stays.
    feed(&mut show, 9..90, |_| false);
    let video = text(&mut show, VIDEO, false);
    assert_eq!(tags(&video, "EXT-X-DISCONTINUITY-SEQUENCE"), ["2"], "it changed back at second 9");
    assert_eq!(video.matches("#EXT-X-DISCONTINUITY\n").count(), 0);
    assert_eq!(show.answer(File::Init { track: VIDEO, number: 0 }, Reload::default()), Answer::Missing);
}

/// The encoder was started again, and its clock steps back.
#[test]
fn another_encoder_is_another_timeline_with_higher_numbers() {
    let mut show = play(5, |_| false);
    show.restart();
    let earlier =
        |frame: Frame| Frame { capture_time: frame.capture_time - Duration::from_secs(40), ..frame };
    assert!(!show.frame(&earlier(picture(1))), "it begins with a keyframe");
    for n in 0..150 {
        show.frame(&earlier(picture(n)));
    }
    let video = text(&mut show, VIDEO, false);
    assert!(video.contains("#EXT-X-DISCONTINUITY\n#EXT-X-MAP:URI=\"track0-init1.mp4\"\n"), "{video}");
    assert_eq!(tags(&video, "EXT-X-MEDIA-SEQUENCE"), [FIRST.to_string()]);
    let last = File::Segment { track: VIDEO, sequence: FIRST + 4 };
    assert!(matches!(show.answer(last, Reload::default()), Answer::Ready(_)));
}

#[test]
fn what_is_listed_and_what_is_kept_is_bounded_in_time() {
    let mut show = play(120, |_| false);
    let video = text(&mut show, VIDEO, false);
    let listed: f64 = durations(&video, "EXTINF", "").iter().sum();
    assert!((LISTED.as_secs_f64()..66.0).contains(&listed), "{listed} s");
    let first = number(tags(&video, "EXT-X-MEDIA-SEQUENCE")[0]).unwrap();
    let track = VIDEO;
    let kept = (FIRST..first)
        .filter(|sequence| {
            let file = File::Segment { track, sequence: *sequence };
            matches!(show.answer(file, Reload::default()), Answer::Ready(_))
        })
        .count();
    assert!((5..10).contains(&kept), "{kept} segments that are not listed any more");
    // Parts are for those close to live.
    assert!(video.matches("#EXT-X-PART:").count() < 60, "{video}");
    assert_eq!(video.matches("#EXT-X-PROGRAM-DATE-TIME").count(), video.matches("#EXTINF").count() + 1);
}

#[test]
fn what_is_kept_is_bounded_in_bytes() {
    let mut show = Show::new("demo", &tracks());
    for n in 0..1500 {
        let mut frame = picture(n);
        let mut data = frame.data.to_vec();
        data.resize(100_000, 1);
        frame.data = data.into();
        show.frame(&frame);
        assert!(show.bytes() <= KEPT_BYTES);
    }
    assert!(show.bytes() > KEPT_BYTES * 3 / 4);
    // A clock that stands still, and frames of 200 kB, without end and without a new group.
    for n in 0..1500u32 {
        let id = FrameId { track: VIDEO, group: 900, frame: n };
        let data = vec![1; 200_000].into();
        show.frame(&Frame { id, capture_time: ZERO, keyframe: false, data });
        assert!(show.bytes() <= KEPT_BYTES);
    }
    assert!(matches!(show.answer(File::Playlist { track: VIDEO }, Reload::default()), Answer::Ready(_)));
}

#[test]
fn a_group_that_does_not_end_is_cut() {
    let mut show = Show::new("demo", &tracks());
    for n in 0..450 {
        let frame = Frame { keyframe: n == 0, ..picture(n) };
        show.frame(&frame);
    }
    let video = text(&mut show, VIDEO, false);
    let segments = durations(&video, "EXTINF", "");
    assert_eq!(segments.len(), 3);
    assert!(segments.iter().all(|length| length.round() <= 4.0), "{segments:?}");
    assert_eq!(video.matches("INDEPENDENT=YES").count(), 1, "only with its keyframe");
}

#[test]
fn a_delta_update_leaves_out_what_is_old() {
    let mut show = play(50, |_| false);
    let (whole, delta) = (text(&mut show, VIDEO, false), text(&mut show, VIDEO, true));
    let skipped: usize =
        tags(&delta, "EXT-X-SKIP")[0].strip_prefix("SKIPPED-SEGMENTS=").unwrap().parse().unwrap();
    assert_eq!(skipped + delta.matches("#EXTINF").count(), whole.matches("#EXTINF").count());
    assert!((11..14).contains(&skipped), "{skipped}");
    assert!(!delta.contains("EXT-X-MAP"), "it is that of the last one left out");
    assert_eq!(delta.lines().last(), whole.lines().last());
    let mut short = play(10, |_| false);
    assert_eq!(text(&mut short, VIDEO, true), text(&mut short, VIDEO, false));
}

#[test]
fn the_multivariant_playlist_names_the_renditions() {
    let mut all = tracks();
    let mut small = all[0].clone();
    (small.id, small.name) = (TrackId(2), "video/360p".into());
    let TrackConfig::Video(config) = &mut small.config else { panic!("it is a picture") };
    (config.width, config.height, config.bitrate) = (640, 360, 600_000);
    all.push(small);
    let master = |tracks: &[Track]| {
        let mut show = Show::new("demo", tracks);
        assert_eq!(show.unservable(), None);
        match show.answer(File::Master, Reload::default()) {
            Answer::Ready(text) => String::from_utf8(text.to_vec()).unwrap(),
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(
        master(&all),
        "#EXTM3U
#EXT-X-VERSION:9
#EXT-X-MEDIA:TYPE=AUDIO,GROUP-ID=\"sound\",NAME=\"audio\",DEFAULT=YES,AUTOSELECT=YES,CHANNELS=\"2\",URI=\"track1.m3u8\"
#EXT-X-STREAM-INF:BANDWIDTH=3374800,AVERAGE-BANDWIDTH=2596000,CODECS=\"avc1.42c01f,opus\",RESOLUTION=1280x720,FRAME-RATE=30.000,AUDIO=\"sound\"
track0.m3u8
#EXT-X-STREAM-INF:BANDWIDTH=904800,AVERAGE-BANDWIDTH=696000,CODECS=\"avc1.42c01f,opus\",RESOLUTION=640x360,FRAME-RATE=30.000,AUDIO=\"sound\"
track2.m3u8
"
    );
    assert_eq!(
        master(&all[1..2]),
        "#EXTM3U\n#EXT-X-VERSION:9\n#EXT-X-STREAM-INF:BANDWIDTH=124800,AVERAGE-BANDWIDTH=96000,CODECS=\"opus\"\n\
         track1.m3u8\n"
    );
}

#[test]
fn vp8_is_not_for_hls() {
    let mut all = tracks();
    let TrackConfig::Video(config) = &mut all[0].config else { panic!("pictures come first") };
    config.codec = "vp8".into();
    let mut show = Show::new("demo", &all);
    assert_eq!(show.unservable(), Some(Unservable::Codec("vp8".into())));
    assert!(!show.frame(&packet(0)), "sound alone is not the show");
    assert_eq!(Show::new("demo", &[]).unservable(), Some(Unservable::Empty));
}
