//! Any number of pictures in one file, and what a change of one costs the others.

use super::*;

/// A second picture, half as large: its own keyframes, other parameter sets.
const SMALL: TrackId = TrackId(2);

fn three_tracks() -> Vec<Track> {
    let mut tracks = tracks();
    let mut small = tracks[0].clone();
    (small.id, small.name) = (SMALL, "video/360p".into());
    tracks.push(small);
    tracks
}

fn small(n: u32) -> Frame {
    let frame = picture(n);
    let mut data = frame.data.to_vec();
    if let Some(level) = data.iter().position(|&byte| byte == 0x1f) {
        data[level] = 0x1e;
    }
    Frame { id: FrameId { track: SMALL, ..frame.id }, data: data.into(), ..frame }
}

#[test]
fn any_number_of_renditions_from_the_first_picture_on() {
    let disk = TestDisk::default();
    let recorder = Recorder::start_on(disk.clone(), Path::new("/disk"), "x", &three_tracks()).unwrap();
    // The small one comes 30 ms later and its keyframe 200 ms later than that of the large one.
    let mut frames = vec![sound(10)];
    for n in 0..15 {
        frames.push(picture(n));
        if n >= 2 {
            let frame = small(n - 2);
            frames.push(Frame { capture_time: frame.capture_time + Duration::from_millis(230), ..frame });
        }
    }
    frames.iter().for_each(|frame| recorder.write(frame));
    let status = recorder.finish();
    assert_eq!((status.state, status.dropped, status.parts.len()), (RecordState::Recording, 0, 1));
    let (mut found, damaged) = read(&disk.files()[0].1);
    assert_eq!((found.len(), damaged), (frames.len(), 0));
    found.sort_by_key(|frame| frame.id);
    frames.sort_by_key(|frame| frame.id);
    assert_eq!(found, frames);
}

#[test]
fn a_rendition_that_never_comes_does_not_hold_up_the_others() {
    let disk = TestDisk::default();
    let recorder = Recorder::start_on(disk.clone(), Path::new("/disk"), "x", &three_tracks()).unwrap();
    for n in 0..30 {
        recorder.write(&picture(n));
    }
    until(&recorder, |status| status.frames == 30);
    assert_eq!(read(&disk.files()[0].1), ((0..30).map(picture).collect(), 0));
    // It comes after all: it needs a new file, and nothing is lost of the other one, whose group goes on in the old one.
    for n in 30..45 {
        if n == 35 {
            recorder.write(&Frame { capture_time: picture(35).capture_time, ..small(30) });
        }
        recorder.write(&picture(n));
    }
    let status = recorder.finish();
    assert_eq!((status.dropped, status.parts.len()), (0, 2));
    let files = disk.files();
    assert_eq!(read(&files[0].1).0, (0..40).map(picture).collect::<Vec<_>>());
    assert_eq!(read(&files[1].1).0[1..], (40..45).map(picture).collect::<Vec<_>>());
    assert_eq!(groups(&index_of(&disk, 0)), [(0, 10), (1, 10), (2, 10), (3, 10)]);
    assert_eq!(groups(&index_of(&disk, 1)), [(4, 5)]);
}

#[test]
fn another_size_of_one_picture_costs_the_others_nothing() {
    let disk = TestDisk::default();
    let recorder = Recorder::start_on(disk.clone(), Path::new("/disk"), "x", &three_tracks()).unwrap();
    let mut frames = Vec::new();
    for n in 0..40 {
        // In the middle of the small one's second group the large one changes, with a keyframe of its own.
        let mut large = picture(n);
        if n >= 15 {
            large.id =
                FrameId { group: 2 + u64::from((n - 15) / GROUP), frame: (n - 15) % GROUP, ..large.id };
            large.keyframe = large.id.frame == 0;
            let mut data = if large.keyframe { SETS.to_vec() } else { Vec::new() };
            data.extend([0, 0, 0, 1, if large.keyframe { 0x65 } else { 0x41 }, n as u8 | 1]);
            if large.keyframe {
                data[7] = 0x20;
            }
            large.data = data.into();
        }
        frames.extend([large, small(n), sound(i64::from(n) * 100 - 5)]);
    }
    frames.iter().for_each(|frame| recorder.write(frame));
    let status = recorder.finish();
    // Only the sound from before the first picture is left out.
    assert_eq!((status.state, status.dropped, status.parts.len()), (RecordState::Recording, 0, 2));
    let mut found: Vec<_> = disk.files().iter().flat_map(|(_, file)| read(file).0).collect();
    assert_eq!(found.len(), frames.len() - 1);
    let key = |frame: &Frame| (frame.id.track, frame.capture_time);
    found.sort_by_key(key);
    frames.remove(2);
    frames.sort_by_key(key);
    assert_eq!(found, frames);
    // Each group is in one file.
    assert_eq!(groups(&index_of(&disk, 0)), [(0, 10), (1, 5)]);
    assert_eq!(groups(&index_of(&disk, 1)), [(2, 10), (3, 10), (4, 5)]);
}
