//! The index beside the file: which groups it lists, and which it must not.

use super::*;

#[test]
fn the_index_lists_the_groups_that_are_whole_and_what_they_were() {
    let disk = TestDisk::default();
    let recorder = disk.start();
    for n in 0..25 {
        recorder.write(&picture(n));
    }
    // The first two are whole, and listed while the show goes on.
    until(&recorder, |status| status.frames == 25);
    assert_eq!(groups(&index_of(&disk, 0)), [(0, 10), (1, 10)]);
    let live = recorder.groups();
    assert_eq!(live.from(0).len(), 2);
    recorder.finish();
    let index = index_of(&disk, 0);
    assert_eq!(groups(&index), [(0, 10), (1, 10), (2, 5)]);
    assert_eq!(live.from(2)[0].1, index.groups[2]);
    let mut digest = GroupDigest::new();
    (10..20).for_each(|n| digest.frame(&tracks()[0].config, &picture(n)));
    assert_eq!(index.groups[1].digest, digest.finish(), "what was encoded");
    let file = &disk.files()[0].1;
    let Range { start, end } = index.groups[1].range.clone();
    let (found, _) =
        read(&[&file[..index.groups[0].range.start as usize], &file[start as usize..end as usize]].concat());
    assert_eq!(found, (10..20).map(picture).collect::<Vec<_>>());
}

#[test]
fn a_group_that_this_copy_has_not_whole_is_not_listed() {
    let disk = TestDisk::default();
    // The head, five pictures, a full disk; the next file begins at 2 s.
    disk.change(|inner| inner.acts.extend([Act::Write; 6].into_iter().chain([Act::Full])));
    let recorder = disk.start();
    for n in 0..40 {
        recorder.write(&picture(n));
    }
    recorder.finish();
    assert_eq!(groups(&index_of(&disk, 0)), []);
    assert_eq!(groups(&index_of(&disk, 1)), [(2, 10), (3, 10)]);
}
