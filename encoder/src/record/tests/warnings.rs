//! What the creator is told before anything is lost.

use super::*;

#[test]
fn a_nearly_full_disk_ends_the_copy_in_time_and_goes_on_later() {
    let disk = TestDisk::default();
    let space = |free| Some(Space { free, total: 64_000_000_000 });
    disk.change(|inner| inner.space = space(1_000_000_000));
    let recorder = disk.start();
    for n in 0..15 {
        recorder.write(&picture(n));
    }
    let status = until(&recorder, |status| status.frames == 15);
    assert_eq!((status.state, status.free_bytes), (RecordState::Recording, Some(1_000_000_000)));
    disk.change(|inner| inner.space = space(150_000_000));
    until(&recorder, |status| status.free_bytes == Some(150_000_000));
    recorder.write(&picture(15));
    let status = until(&recorder, failed);
    assert!(
        matches!(&status.state, RecordState::Failed { reason } if reason.contains("150 MB left")),
        "{status:?}"
    );
    assert!(status.warning.is_some_and(|warning| warning.contains("nearly full")));
    // It was ended properly, as a plain MP4 file; the group that went on is not whole.
    let file = disk.files()[0].1.clone();
    assert_eq!(read(&file), ((0..15).map(picture).collect(), 0));
    assert!(file.windows(8).any(|bytes| bytes == b"\0\0\0\x01mdat"));
    assert_eq!(groups(&index_of(&disk, 0)), [(0, 10)]);

    disk.change(|inner| inner.space = space(350_000_000));
    until(&recorder, |status| status.free_bytes == Some(350_000_000));
    recorder.write(&picture(30));
    until(&recorder, |status| status.dropped == 2);
    assert!(failed(&recorder.status()), "a little space is soon gone again");
    disk.change(|inner| inner.space = space(900_000_000));
    until(&recorder, |status| status.free_bytes == Some(900_000_000));
    recorder.write(&picture(50));
    let status = recorder.finish();
    assert_eq!((status.state, status.parts.len()), (RecordState::Recording, 2));
}

#[test]
fn a_disk_that_does_not_answer_is_told_before_anything_is_lost() {
    let disk = TestDisk::default();
    let recorder = disk.start();
    recorder.write(&picture(0));
    until(&recorder, |status| status.frames == 1);
    disk.change(|inner| inner.blocked = true);
    (1..10).for_each(|n| recorder.write(&picture(n)));
    let status = until(&recorder, |status| status.warning.is_some());
    assert!(status.warning.is_some_and(|warning| warning.contains("has not answered")));
    assert_eq!((status.state, status.dropped), (RecordState::Recording, 0));
    disk.change(|inner| inner.blocked = false);
    until(&recorder, |status| status.warning.is_none() && status.frames == 10);
    let status = recorder.finish();
    assert_eq!((status.state, status.dropped), (RecordState::Recording, 0));
}

#[test]
fn a_disk_slower_than_the_show_is_told_as_such() {
    let disk = TestDisk::default();
    disk.change(|inner| inner.blocked = true);
    let recorder = disk.start();
    for n in 0..6 {
        let mut frame = picture(n);
        let mut data = frame.data.to_vec();
        data.resize(1 << 20, 1);
        frame.data = data.into();
        recorder.write(&frame);
    }
    let warning = recorder.status().warning.unwrap();
    assert!(warning.contains("slower than the show"), "{warning}");
    disk.change(|inner| inner.blocked = false);
    assert_eq!(recorder.finish().dropped, 0);
}
