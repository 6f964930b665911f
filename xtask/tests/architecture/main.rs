//! The rules of `docs/architecture.md`, kept by a test: who may depend on whom, and what stays pure.
//!
//! A failure names the file, the line and the rule. To change a rule, change the tables here and the document.

mod dependencies;
mod purity;
mod source;

use std::path::{Path, PathBuf};

/// The workspace.
fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("xtask is inside the workspace").to_path_buf()
}

/// Fails with all violations at once.
fn none(violations: Vec<String>) {
    assert!(violations.is_empty(), "the architecture is violated:\n  {}\n", violations.join("\n  "));
}
