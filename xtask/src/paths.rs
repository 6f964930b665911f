//! Where things are.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::process::{Failure, Result};

/// The places that all commands share.
pub struct Paths {
    /// The workspace.
    pub root: PathBuf,
    /// Cargo's target folder, wherever the user put it.
    pub target: PathBuf,
}

impl Paths {
    /// From this program's own place: cargo puts it into `<target>/<profile>/`.
    pub fn find() -> Result<Self> {
        let manifest = Path::new(env!("CARGO_MANIFEST_DIR"));
        let root = manifest.parent().unwrap_or(manifest).to_path_buf();
        let own = std::env::current_exe().map_err(Failure::doing("cannot find this program's own place"))?;
        let target = own.parent().and_then(Path::parent).unwrap_or(&root).to_path_buf();
        Ok(Self { root, target })
    }

    /// What the set-up fetches and remembers.
    pub fn setup(&self) -> PathBuf {
        self.target.join("setup")
    }

    /// The folder that the relay serves.
    pub fn player(&self) -> PathBuf {
        self.target.join("player")
    }

    /// Cargo, in the workspace and with the same target folder.
    pub fn cargo(&self) -> Command {
        let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
        command.current_dir(&self.root).env("CARGO_TARGET_DIR", &self.target);
        command
    }

    /// Cargo for wasm32: without the variables that would silently replace the flags in `.cargo/config.toml`.
    pub fn cargo_for_wasm(&self) -> Command {
        let mut command = self.cargo();
        command.env_remove("RUSTFLAGS").env_remove("CARGO_ENCODED_RUSTFLAGS");
        command
    }
}

/// The only target of the player.
pub const WASM: &str = "wasm32-unknown-unknown";
