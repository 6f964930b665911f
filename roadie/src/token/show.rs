//! `roadie token show`: what a ticket says, and whether it is good.

use std::io::{IsTerminal, Read};
use std::path::PathBuf;

use anyhow::{Context, bail};
use clap::Args;
use media::Time;
use relay::admission::claims::{Claims, Validity};
use relay::admission::key::{KeySet, peek};
use relay::admission::wall;

use crate::recordings::times;

/// Print what a ticket says, and whether it is valid.
///
/// Without --keys nobody asks who signed it. The exit status is 1 where the ticket would not be let in now.
#[derive(Args, Debug)]
pub struct Raw {
    /// The ticket itself, or a file with it; without it standard input is read
    #[arg(value_name = "TICKET")]
    ticket: Option<String>,

    /// The public set of the edge: was the ticket signed with one of these keys?
    #[arg(long, value_name = "FILE")]
    keys: Option<PathBuf>,
}

pub(super) fn run(raw: Raw) -> anyhow::Result<()> {
    let ticket = fetch(raw.ticket)?;
    let (algorithm, key, payload) = peek(&ticket)?;
    let claims = match Claims::read(&payload) {
        Ok(claims) => claims,
        Err(error) => bail!("no relay of ours takes this ticket: {error}"),
    };
    let now = wall();
    crate::say!(
        "signed     {algorithm}, key {}",
        key.as_deref().map_or("not named".into(), |key| format!("{key:?}"))
    );
    for (what, paths) in [("watch", &claims.grant.subscribe), ("bring", &claims.grant.publish)] {
        let paths: Vec<&str> = paths.iter().map(|path| path.as_str()).collect();
        crate::say!("may {what}  {}", if paths.is_empty() { "nothing".into() } else { paths.join(", ") });
    }
    let sessions = claims.sessions.map_or("any number".into(), |number| number.to_string());
    crate::say!("sessions   {sessions} at once");
    if let Some(id) = &claims.id {
        crate::say!("name       {id:?}");
    }
    if let Some(issued) = claims.issued {
        crate::say!("made       {}", times::date(issued));
    }
    if let Some(from) = claims.not_before {
        crate::say!("good from  {}", times::date(from));
    }
    crate::say!("good until {} ({})", times::date(claims.expires), left(claims.expires, now));

    let validity = match claims.validity(now) {
        Validity::Now => None,
        Validity::NotYet => Some("it is not valid yet"),
        Validity::Expired => Some("it has expired"),
    };
    match &raw.keys {
        None => crate::say!("signature  not looked at: give the edge's public set with --keys FILE"),
        Some(path) => {
            let set = KeySet::read(&super::read(path)?, true)
                .with_context(|| format!("the keys {} cannot be used", path.display()))?;
            if set.verify(&ticket).is_err() {
                bail!("the ticket was not signed with one of the keys in {}", path.display());
            }
            crate::say!("signature  good");
        }
    }
    match validity {
        None => Ok(()),
        Some(words) => bail!("the ticket would not be let in: {words}"),
    }
}

/// The ticket of the argument: itself, or what is in the file of that name; or of standard input.
fn fetch(argument: Option<String>) -> anyhow::Result<String> {
    let text = match argument.filter(|text| text != "-") {
        Some(text) if text.split('.').count() == 3 && !std::path::Path::new(&text).exists() => text,
        Some(path) => String::from_utf8(super::read(path.as_ref())?).context("there is no ticket in it")?,
        None => {
            if std::io::stdin().is_terminal() {
                bail!("which ticket? Give it, or a file with it, or pipe it in");
            }
            let mut text = String::new();
            std::io::stdin()
                .lock()
                .take(super::MAX_FILE)
                .read_to_string(&mut text)
                .context("standard input")?;
            text
        }
    };
    Ok(text.trim().to_owned())
}

fn left(expires: Time, now: Time) -> String {
    let span = |seconds: u64| match seconds {
        0..=119 => format!("{seconds} s"),
        120..=7_199 => format!("{} min", seconds / 60),
        7_200..=172_799 => format!("{} h", seconds / 3_600),
        _ => format!("{} days", seconds / 86_400),
    };
    match expires > now {
        true => format!("{} left", span(expires.saturating_since(now).as_secs())),
        false => format!("{} ago", span(now.saturating_since(expires).as_secs())),
    }
}
