//! `roadie token`: keys and tickets, for edges that ask for them (`roadie-relay --auth`).

mod key;
mod show;
mod sign;

use std::path::Path;

use anyhow::{Context, bail};
use clap::{Args, Subcommand};

/// Files of keys and tickets are small: more is another file, given by mistake.
const MAX_FILE: u64 = 64 * 1024;

/// Make the keys and the tickets of an edge that asks for them (`roadie-relay --auth`).
///
/// Once: `roadie token key` makes a private key, which stays with you, and the public set for the edge.
/// For each viewer, or for all: `roadie token sign --key roadie-key.jwk --subscribe tour/london --expires 6h`.
#[derive(Args, Debug)]
#[command(verbatim_doc_comment)]
pub struct Raw {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand, Debug)]
enum Command {
    Key(key::Raw),
    Sign(sign::Raw),
    Show(show::Raw),
}

/// Runs one of them.
pub fn run(raw: Raw) -> anyhow::Result<()> {
    match raw.command {
        Command::Key(raw) => key::run(&raw),
        Command::Sign(raw) => sign::run(&raw),
        Command::Show(raw) => show::run(raw),
    }
}

fn read(path: &Path) -> anyhow::Result<Vec<u8>> {
    use std::io::Read;
    let mut bytes = Vec::new();
    let file = std::fs::File::open(path).with_context(|| format!("cannot read {}", path.display()))?;
    file.take(MAX_FILE + 1)
        .read_to_end(&mut bytes)
        .with_context(|| format!("cannot read {}", path.display()))?;
    if bytes.len() as u64 > MAX_FILE {
        bail!("{} is longer than {} kB: it holds no key and no ticket", path.display(), MAX_FILE / 1024);
    }
    Ok(bytes)
}
