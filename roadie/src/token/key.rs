//! `roadie token key`: a private key that only its owner reads, and a public set that the edge reads.

use std::io::{ErrorKind, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use clap::Args;
use relay::admission::key::{Algorithm, KeySet};
use relay::admission::sign::SigningKey;
use serde_json::{Value, json};

/// Make a private key, and put its public half into the set for the edge.
///
/// The private key signs tickets: whoever has it lets in whom they like. The set only verifies. If the set is there
/// already, the new key is added to it, so that tickets of both are good while you change from one to the other.
#[derive(Args, Debug)]
pub struct Raw {
    /// The private key goes here; it must not exist yet
    #[arg(long, value_name = "FILE", default_value = "roadie-key.jwk")]
    out: PathBuf,

    /// The public set, for `roadie-relay --auth`
    #[arg(long, value_name = "FILE", default_value = "roadie-keys.json")]
    public: PathBuf,

    /// EdDSA, ES256, or HS256: with the last the edge holds the same secret as who signs
    #[arg(long, value_name = "ALGORITHM", default_value = "EdDSA")]
    algorithm: String,

    /// The key's name, by which tickets say which key signed them [default: made from the key itself]
    #[arg(long, value_name = "NAME")]
    id: Option<String>,
}

pub(super) fn run(raw: &Raw) -> anyhow::Result<()> {
    let algorithm: Algorithm = raw.algorithm.parse().context("--algorithm")?;
    if raw.id.as_ref().is_some_and(|id| id.is_empty() || id.len() > 128) {
        bail!("--id: a key's name has 1 to 128 characters");
    }
    if raw.out == raw.public {
        bail!("--out and --public are the same file: the private key must not go to the edge");
    }
    let key = SigningKey::generate(algorithm, raw.id.clone())?;
    let secret = algorithm == Algorithm::Hs256;
    // The set first: if it cannot be written, there is no key yet that would have to be removed.
    let set = extended(&raw.public, &key)?;
    if raw.out.exists() {
        bail!("{} is there already, and is not written over: give another --out", raw.out.display());
    }
    replace(&raw.public, &set, if secret { 0o600 } else { 0o644 })?;
    create(&raw.out, &(key.to_json() + "\n"))?;
    crate::say!("private key  {}  (keep it; it signs tickets)", raw.out.display());
    crate::say!("public set   {}  (for the edge: roadie-relay --auth {0})", raw.public.display());
    if secret {
        crate::say!(
            "HS256 has no public half: the set holds the secret itself. Whoever reads it can sign tickets."
        );
    }
    Ok(())
}

/// The set that is there, with one more key.
fn extended(path: &Path, key: &SigningKey) -> anyhow::Result<String> {
    let mut keys = Vec::new();
    if path.exists() {
        let bytes = super::read(path)?;
        KeySet::read(&bytes, true).with_context(|| {
            format!("{} is there, but is no set of public keys: give another --public", path.display())
        })?;
        let value: Value = serde_json::from_slice(&bytes).with_context(|| {
            format!("{} is there, but is no set in JSON: give another --public", path.display())
        })?;
        match value.get("keys").and_then(Value::as_array) {
            Some(list) => keys.extend(list.iter().cloned()),
            None => keys.push(value),
        }
    }
    if keys.iter().any(|other| other["kid"].as_str() == key.id()) {
        bail!(
            "{} has a key of the name {:?} already: give another --id",
            path.display(),
            key.id().unwrap_or_default()
        );
    }
    keys.push(key.public());
    let set = serde_json::to_string_pretty(&json!({ "keys": keys }))? + "\n";
    KeySet::read(set.as_bytes(), true)
        .with_context(|| format!("{} cannot take one more key", path.display()))?;
    Ok(set)
}

/// A file that only its owner reads, from its first byte on.
fn create(path: &Path, text: &str) -> anyhow::Result<()> {
    let file = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
    let mut file = match file {
        Err(error) if error.kind() == ErrorKind::AlreadyExists => {
            bail!("{} is there already, and is not written over: give another --out", path.display())
        }
        file => file.with_context(|| format!("cannot write {}", path.display()))?,
    };
    file.write_all(text.as_bytes())
        .and_then(|()| file.sync_all())
        .with_context(|| format!("cannot write {}", path.display()))
}

/// A file that is whole at any moment, for a relay may be reading it.
fn replace(path: &Path, text: &str, mode: u32) -> anyhow::Result<()> {
    let mut name = path.file_name().with_context(|| format!("{} names no file", path.display()))?.to_owned();
    name.push(".new");
    let fresh = path.with_file_name(name);
    let write = || -> std::io::Result<()> {
        let mut file =
            std::fs::OpenOptions::new().write(true).create(true).truncate(true).mode(mode).open(&fresh)?;
        file.set_permissions(std::fs::Permissions::from_mode(mode))?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        std::fs::rename(&fresh, path)
    };
    write().with_context(|| format!("cannot write {}", path.display()))
}
