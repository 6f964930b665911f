//! Disks of their own for a test: files with an ext4 in them, mounted over a loop device. Needs root.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, bail};

/// A mounted disk; unmounted when it goes.
pub struct Mount {
    point: PathBuf,
}

impl Mount {
    /// Makes a file of so many megabytes with an empty ext4 in it.
    pub fn format(image: &Path, megabytes: u64) -> anyhow::Result<()> {
        let file =
            std::fs::File::create(image).with_context(|| format!("cannot make {}", image.display()))?;
        file.set_len(megabytes << 20)?;
        run(Command::new("mkfs.ext4").args(["-q", "-F", "-m", "0"]).arg(image))
    }

    /// Mounts a file.
    pub fn new(image: &Path, point: &Path) -> anyhow::Result<Self> {
        std::fs::create_dir_all(point)?;
        run(Command::new("mount").args(["-o", "loop,errors=remount-ro"]).args([image, point])).with_context(|| {
            "this machine does not let us mount a loop device: it takes root, and a kernel with loop and ext4"
        })?;
        Ok(Self { point: point.to_owned() })
    }

    /// Where it is.
    pub fn point(&self) -> &Path {
        &self.point
    }

    /// Every write to it waits from now on.
    pub fn freeze(&self) -> anyhow::Result<()> {
        run(Command::new("fsfreeze").arg("-f").arg(&self.point))
    }

    /// Writes go on.
    pub fn thaw(&self) -> anyhow::Result<()> {
        run(Command::new("fsfreeze").arg("-u").arg(&self.point))
    }

    /// The file system finds an error in itself and is read-only from now on, as on a disk that fails.
    pub fn break_it(&self) -> anyhow::Result<()> {
        let mounts = std::fs::read_to_string("/proc/mounts")?;
        let point = self.point.display().to_string();
        let device = mounts
            .lines()
            .filter_map(|line| line.split_once(' '))
            .find_map(|(device, rest)| (rest.split(' ').next() == Some(point.as_str())).then_some(device));
        let name = Path::new(device.context("it is not mounted")?).file_name().context("it has no device")?;
        let trigger = Path::new("/sys/fs/ext4").join(name).join("trigger_fs_error");
        std::fs::write(&trigger, "1").with_context(|| format!("cannot write {}", trigger.display()))
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        // A frozen disk cannot be unmounted; one that is not frozen says so, which does not matter.
        let _ =
            Command::new("fsfreeze").arg("-u").arg(&self.point).stderr(std::process::Stdio::null()).status();
        if let Err(error) = run(Command::new("umount").arg("-l").arg(&self.point)) {
            eprintln!("{} stays mounted: {error:#}", self.point.display());
        }
    }
}

fn run(command: &mut Command) -> anyhow::Result<()> {
    let name = command.get_program().to_string_lossy().into_owned();
    let output = command.output().with_context(|| format!("{name} is needed for this measurement"))?;
    if !output.status.success() {
        bail!("{name}: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(())
}
