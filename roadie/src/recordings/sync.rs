//! `roadie recordings sync`: the edge's copies of shows that are over become whole.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use clap::Args;
use encoder::record::{Archive, RecordingFile, recordings_in};
use media::Track;
use relay::backfill::supply::Standing;
use relay::clock::Clock;
use relay::control;
use relay::uplink::{EdgeAddress, Plan};
use relay::venue::{self, Venue};

use crate::live::parse_edge;
use crate::recorded::Recorded;
use crate::terminal::{self, Screen};

/// How often the progress is looked at.
const LOOK: Duration = Duration::from_millis(200);

/// There is no live media, so this only says how long the edge waits before it asks for what it lacks.
const DEADLINE: Duration = Duration::from_millis(50);

/// Makes the edge's copies of shows whole, from the recordings here: sends what they lack, and no more. Stop it
/// whenever you like, it goes on where it was. The exit code says whether all of them are whole.
///
/// Example: everything that is on both disks
///
///   roadie recordings sync ~/show /media/stick/show --edge https://edge.example:4443
#[derive(Args, Debug)]
#[command(verbatim_doc_comment)]
pub struct Raw {
    /// Recordings, or folders of recordings; both copies of a show are better than one
    #[arg(value_name = "FILE|DIR", required = true)]
    places: Vec<PathBuf>,

    /// The edge relay; with a name behind, such as https://edge.example:4443/tour/london, only that broadcast
    #[arg(long, value_name = "URL")]
    edge: String,

    /// An edge that made its own certificate: the fingerprint that it printed
    #[arg(long, value_name = "SHA256")]
    edge_fingerprint: Option<String>,

    /// The edge's token for publishing
    #[arg(long, value_name = "TOKEN", env = "ROADIE_TOKEN", hide_env_values = true)]
    token: Option<String>,

    /// Send over this interface or from this address, as in `roadie live`; repeat it for each uplink
    #[arg(long, value_name = "UPLINK")]
    uplink: Vec<String>,

    /// Give up when nothing has moved for so many seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 60)]
    patience: u64,
}

/// Recordings of one broadcast with the same tracks.
struct Show {
    broadcast: String,
    tracks: Vec<Track>,
    files: Vec<RecordingFile>,
}

/// Finds the shows and syncs one after the other.
pub async fn run(raw: Raw) -> anyhow::Result<()> {
    let (edge, only) = edge(&raw.edge, raw.edge_fingerprint.clone())?;
    let uplinks = Plan::parse(&raw.uplink)
        .map_err(|(text, error)| anyhow::Error::new(error).context(format!("--uplink {text}")))?;
    let mut screen = Screen::new();
    let mut shows = shows(&raw.places, &mut screen)?;
    shows.retain(|show| only.as_ref().is_none_or(|only| *only == show.broadcast));
    if shows.is_empty() {
        let name = only.map(|only| format!(" of {only}")).unwrap_or_default();
        bail!("there is no recording{name} here: `roadie recordings list` shows what there is");
    }
    let (count, mut failed) = (shows.len(), Vec::new());
    for Show { broadcast, files, .. } in shows {
        let settings = venue::Settings {
            edge: edge.clone(),
            broadcast: broadcast.clone(),
            token: raw.token.clone(),
            uplinks: uplinks.clone(),
            deadline: DEADLINE,
        };
        let outcome = tokio::select! {
            outcome = sync(settings, files, Duration::from_secs(raw.patience), &mut screen) => outcome,
            () = terminal::stop_signal() => bail!("stopped; the same command goes on where it was"),
        };
        match outcome {
            Ok(standing) => {
                let Standing { recorded, sent, .. } = standing;
                screen.note(&format!(
                    "{broadcast}: the edge's copy is whole: {recorded} groups, {sent} of them sent now"
                ));
            }
            Err(error) => {
                screen.note(&format!("{broadcast}: {error:#}"));
                failed.push(broadcast);
            }
        }
    }
    screen.finish(&[]);
    match failed.as_slice() {
        [] => Ok(()),
        _ => bail!("{} of {count} shows are not whole at the edge: {}", failed.len(), failed.join(", ")),
    }
}

/// Until the edge's copy is whole.
async fn sync(
    settings: venue::Settings,
    files: Vec<RecordingFile>,
    patience: Duration,
    screen: &mut Screen,
) -> anyhow::Result<Standing> {
    let broadcast = settings.broadcast.clone();
    let archive = tokio::task::spawn_blocking(move || Archive::of_files(files)).await??;
    let clock = Clock::start();
    let started = clock.now();
    let venue = Venue::sync(settings, clock, Arc::new(Recorded(archive)))?;
    let mut ticks = tokio::time::interval(LOOK);
    let (mut seen, mut moved) = (Standing::default(), Instant::now());
    let outcome = loop {
        ticks.tick().await;
        for notice in venue.take_notices() {
            screen.note(&notice);
        }
        let status = venue.status();
        let standing = status.backfill.unwrap_or_default();
        if standing.whole {
            break Ok(standing);
        }
        if standing.done {
            let Standing { gone, .. } = standing;
            break Err(anyhow::anyhow!(
                "{gone} groups are damaged in every copy here: `roadie recordings verify` says where. All others are at \
                 the edge"
            ));
        }
        let why = status.uplinks.iter().find_map(|uplink| uplink.reason.clone());
        let on_air = why.as_ref().is_some_and(|why| why.contains(control::ON_AIR));
        if !status.uplinks.is_empty() && status.uplinks.iter().all(|uplink| uplink.refused) && !on_air {
            break Err(anyhow::anyhow!("the edge refuses it: {}", why.unwrap_or_default()));
        }
        if status.uplinks.iter().any(|uplink| uplink.connected) && !standing.on {
            break Err(anyhow::anyhow!("the edge does not keep this show; its log says why"));
        }
        if standing != seen {
            (seen, moved) = (standing, Instant::now());
        }
        if moved.elapsed() >= patience {
            let reason = match standing.stuck {
                true => "the edge's disk takes nothing".into(),
                false => why.unwrap_or_else(|| "nothing gets through".into()),
            };
            break Err(anyhow::anyhow!("nothing has moved for {} s: {reason}", patience.as_secs()));
        }
        let elapsed = clock.now().saturating_since(started);
        screen.draw(&[line(&broadcast, &standing, why.as_deref())], elapsed);
    };
    venue.stop().await;
    outcome
}

fn line(broadcast: &str, standing: &Standing, why: Option<&str>) -> String {
    let Standing { recorded, kept, owed, sent_bytes, stuck, .. } = *standing;
    let trouble = match (stuck, why) {
        (true, _) => ", the edge's disk takes nothing now".into(),
        (false, Some(why)) => format!(", {why}"),
        (false, None) => String::new(),
    };
    let megabytes = sent_bytes as f64 / 1e6;
    format!(
        "{broadcast}: {kept} of {recorded} groups are at the edge, {owed} to go, {megabytes:.1} MB sent{trouble}"
    )
}

/// The edge, and the broadcast, if one is named.
fn edge(text: &str, fingerprint: Option<String>) -> anyhow::Result<(EdgeAddress, Option<String>)> {
    match url::Url::parse(text) {
        Ok(mut url) if url.path().trim_matches('/').is_empty() => {
            // Any name: there is one in each recording.
            url.set_path("show");
            Ok((parse_edge(url.as_str(), fingerprint)?.0, None))
        }
        _ => parse_edge(text, fingerprint).map(|(edge, name)| (edge, Some(name))),
    }
}

fn shows(places: &[PathBuf], screen: &mut Screen) -> anyhow::Result<Vec<Show>> {
    let mut shows: Vec<Show> = Vec::new();
    for place in places {
        let (folder, paths) = match place.is_dir() {
            true => (true, recordings_in(place)?),
            false => (false, vec![place.clone()]),
        };
        for path in paths {
            let file = match RecordingFile::open(&path) {
                Ok(file) => file,
                Err(error) if folder => {
                    screen.note(&format!("passed over: {error}"));
                    continue;
                }
                Err(error) => return Err(error).context("this cannot be synced"),
            };
            let (broadcast, tracks) = (file.start().broadcast.clone(), file.start().tracks.clone());
            match shows.iter_mut().find(|show| show.broadcast == broadcast && show.tracks == tracks) {
                Some(show) => show.files.push(file),
                None => shows.push(Show { broadcast, tracks, files: vec![file] }),
            }
        }
    }
    Ok(shows)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_edge_with_and_without_a_name() {
        let (address, name) = edge("https://edge.example:4443", None).unwrap();
        assert_eq!((address.host.as_str(), address.port, name), ("edge.example", 4443, None));
        let (address, name) = edge("https://edge.example/tour/london", None).unwrap();
        assert_eq!((address.port, name.as_deref()), (4443, Some("tour/london")));
        for bad in ["edge", "http://edge", "https://", "https://edge/a b"] {
            assert!(edge(bad, None).is_err(), "{bad}");
        }
    }

    #[test]
    fn the_progress_is_one_line() {
        let standing =
            Standing { recorded: 90, kept: 70, owed: 20, sent_bytes: 1_250_000, ..Standing::default() };
        assert_eq!(
            line("demo", &standing, None),
            "demo: 70 of 90 groups are at the edge, 20 to go, 1.2 MB sent"
        );
        let stuck = Standing { stuck: true, ..standing };
        assert!(line("demo", &stuck, Some("x")).ends_with("the edge's disk takes nothing now"));
    }
}
