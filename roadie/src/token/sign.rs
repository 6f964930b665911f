//! `roadie token sign`: a ticket.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, bail};
use clap::Args;
use media::Time;
use relay::admission::claims::{Claims, Grant, pattern};
use relay::admission::jws::MAX_TICKET;
use relay::admission::sign::SigningKey;
use relay::admission::wall;
use relay::control;

/// A ticket for longer is a mistake in the unit, or a key that ought to be changed in between.
const LONGEST: Duration = Duration::from_secs(366 * 24 * 3600);

/// Sign a ticket, and print it.
///
/// A viewer opens the show's page with it: https://edge.example/tour/london?jwt=TICKET. Who brings the show gives it
/// to `roadie live --token TICKET`. A PATH is one show (tour/london), all below a name and the name itself (tour/**),
/// or all (**).
#[derive(Args, Debug)]
pub struct Raw {
    /// The private key, as `roadie token key` made it
    #[arg(long, value_name = "FILE", default_value = "roadie-key.jwk")]
    key: PathBuf,

    /// Shows that may be watched; repeat it for further ones
    #[arg(long, value_name = "PATH")]
    subscribe: Vec<String>,

    /// Shows that may be brought; repeat it for further ones
    #[arg(long, value_name = "PATH")]
    publish: Vec<String>,

    /// How long it is good, such as 2h, 90m, 7d or 1d12h. Sessions end with it
    #[arg(long, value_name = "TIME")]
    expires: String,

    /// It is good in so long only, such as 30m
    #[arg(long, value_name = "TIME")]
    not_before: Option<String>,

    /// So many sessions may be open with it at once at one edge [default: any number]
    #[arg(long, value_name = "N")]
    sessions: Option<u32>,

    /// The ticket's name: tickets of one name share their --sessions
    #[arg(long, value_name = "NAME")]
    id: Option<String>,
}

pub(super) fn run(raw: &Raw) -> anyhow::Result<()> {
    crate::say!("{}", ticket(raw)?);
    Ok(())
}

fn ticket(raw: &Raw) -> anyhow::Result<String> {
    let read = |path: &String| -> anyhow::Result<_> {
        let pattern = pattern(path)?;
        // A ticket for a name that no show can have would open nothing, and nobody would know why.
        let any = |part| if str::contains(part, '*') { "any" } else { part };
        let example: Vec<_> = path.trim_matches('/').split('/').map(any).collect();
        control::check_name(&example.join("/")).map_err(anyhow::Error::msg)?;
        Ok(pattern)
    };
    let patterns = |paths: &[String], flag: &'static str| -> anyhow::Result<_> {
        paths.iter().map(|path| read(path).context(flag)).collect()
    };
    let grant = Grant {
        publish: patterns(&raw.publish, "--publish")?,
        subscribe: patterns(&raw.subscribe, "--subscribe")?,
    };
    if grant.is_empty() {
        bail!("what is the ticket for? Give --subscribe PATH, --publish PATH, or both");
    }
    if raw.sessions == Some(0) {
        bail!("--sessions 0 would let nobody in");
    }
    let life = duration(&raw.expires).context("--expires")?;
    let wait = raw.not_before.as_deref().map(duration).transpose().context("--not-before")?;
    if life.is_zero() || life > LONGEST {
        bail!("--expires {}: a ticket is good for one second to 366 days", raw.expires);
    }
    if wait.is_some_and(|wait| wait >= life) {
        bail!("the ticket would expire (--expires {}) before it is good (--not-before)", raw.expires);
    }
    let bytes = super::read(&raw.key)?;
    let key =
        SigningKey::read(&bytes).with_context(|| format!("the key {} cannot be used", raw.key.display()))?;
    let now = wall();
    let claims = Claims {
        grant,
        expires: seconds_from(now, life.as_secs()),
        not_before: wait.map(|wait| seconds_from(now, wait.as_secs())),
        issued: Some(seconds_from(now, 0)),
        id: raw.id.clone(),
        sessions: raw.sessions,
    };
    let ticket =
        key.sign(&claims).with_context(|| format!("the key {} does not sign this", raw.key.display()))?;
    if ticket.len() > MAX_TICKET {
        bail!(
            "the ticket has {} bytes, and no relay reads more than {MAX_TICKET}: give it fewer paths",
            ticket.len()
        );
    }
    Ok(ticket)
}

/// So many seconds after `now`; whole ones, as a ticket has them.
fn seconds_from(now: Time, seconds: u64) -> Time {
    Time::from_micros((now.as_micros() / 1_000_000 + seconds) * 1_000_000)
}

/// `2h`, `90m`, `1d12h`: numbers with their units, the larger ones first.
fn duration(text: &str) -> anyhow::Result<Duration> {
    let words = || format!("{text:?} is no length of time: write it as 2h, 90m, 7d or 1d12h");
    let (mut total, mut rest, mut last) = (0u64, text, u64::MAX);
    while !rest.is_empty() {
        let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        let (number, tail) = rest.split_at_checked(digits).with_context(words)?;
        let mut chars = tail.chars();
        let unit = match chars.next() {
            Some('d') => 86_400,
            Some('h') => 3_600,
            Some('m') => 60,
            Some('s') => 1,
            _ => bail!(words()),
        };
        if unit >= last {
            bail!(words());
        }
        let number: u64 = number.parse().with_context(words)?;
        total = number.checked_mul(unit).and_then(|part| total.checked_add(part)).with_context(words)?;
        (rest, last) = (chars.as_str(), unit);
    }
    if text.is_empty() { bail!(words()) } else { Ok(Duration::from_secs(total)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_of_time() {
        for (text, seconds) in [("2h", 7_200), ("90m", 5_400), ("1d12h", 129_600), ("45s", 45), ("0s", 0)] {
            assert_eq!(duration(text).unwrap().as_secs(), seconds, "{text}");
        }
        for bad in ["", "2", "h", "2 h", "-2h", "2h2h", "2m1h", "1.5h", "2w", "ü", "99999999999999999d", "1é"]
        {
            assert!(duration(bad).is_err(), "{bad}");
        }
    }
}
