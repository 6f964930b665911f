//! Directories to record into: made and tried out before the show.

use std::fs::{self, OpenOptions};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use super::RecordError;

/// Checks all directories of a show before it starts: each is created where it is missing, tried
/// out, and compared with the others by its real path. Returns what is wrong, in order; empty is good.
pub fn check_dirs(dirs: &[PathBuf]) -> Vec<RecordError> {
    let mut good: Vec<(PathBuf, &PathBuf)> = Vec::new();
    let mut errors = Vec::new();
    for dir in dirs {
        match prepare(dir) {
            Err(error) => errors.push(error),
            Ok(real) => match good.iter().find(|(known, _)| *known == real) {
                Some((_, first)) => {
                    errors.push(RecordError::Duplicate { path: dir.clone(), first: first.to_path_buf() });
                }
                None => good.push((real, dir)),
            },
        }
    }
    errors
}

/// Creates the directory where it is missing, creates and removes a file in it, returns its real path.
pub fn prepare(dir: &Path) -> Result<PathBuf, RecordError> {
    let path = || dir.to_owned();
    if fs::metadata(dir).is_ok_and(|found| !found.is_dir()) {
        return Err(RecordError::NotADirectory { path: path() });
    }
    fs::create_dir_all(dir).map_err(|source| match source.kind() {
        ErrorKind::NotADirectory | ErrorKind::AlreadyExists => RecordError::NotADirectory { path: path() },
        _ => RecordError::Create { path: path(), source },
    })?;
    // The process id keeps two Roadies apart; a file left by a crash is simply used again.
    let probe = dir.join(format!(".roadie-write-test-{}", std::process::id()));
    let tried = OpenOptions::new().create(true).append(true).open(&probe).and_then(|_| fs::canonicalize(dir));
    match fs::remove_file(&probe) {
        Ok(()) => {}
        // Another check of the same directory in this process was faster.
        Err(error) if error.kind() == ErrorKind::NotFound => {}
        Err(error) => tracing::warn!(path = %probe.display(), %error, "a test file stays behind"),
    }
    tried.map_err(|source| RecordError::NotWritable { path: path(), source })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_directory_is_made_and_left_empty() {
        let base = tempfile::tempdir().unwrap();
        let dir = base.path().join("a/b");
        assert!(check_dirs(std::slice::from_ref(&dir)).is_empty());
        assert_eq!(fs::read_dir(&dir).unwrap().count(), 0);
    }

    #[test]
    fn every_problem_is_named() {
        let base = tempfile::tempdir().unwrap();
        let (good, file, link) =
            (base.path().join("good"), base.path().join("file"), base.path().join("link"));
        fs::write(&file, "x").unwrap();
        fs::create_dir(&good).unwrap();
        std::os::unix::fs::symlink(&good, &link).unwrap();
        let dirs = [
            good.clone(),
            file.clone(),
            file.join("below"),
            link.clone(),
            base.path().join("./good/"),
            "/proc".into(), // not even root creates files here
            "/proc/roadie".into(),
        ];
        let errors = check_dirs(&dirs);
        assert!(matches!(&errors[0], RecordError::NotADirectory { path } if *path == file), "{errors:?}");
        assert!(matches!(&errors[1], RecordError::NotADirectory { .. }), "{errors:?}");
        assert!(
            matches!(&errors[2], RecordError::Duplicate { path, first } if *path == link && *first == good),
            "{errors:?}"
        );
        assert!(matches!(&errors[3], RecordError::Duplicate { .. }), "{errors:?}");
        assert!(matches!(&errors[4], RecordError::NotWritable { .. }), "{errors:?}");
        assert!(matches!(&errors[5], RecordError::Create { .. }), "{errors:?}");
        assert_eq!(errors.len(), 6);
    }
}
