//! `roadie recordings list`.

use std::path::PathBuf;

use clap::Args;
use media::{Track, TrackConfig};
use serde_json::{Value, json};

use super::plan;
use super::shows::{self, Copy, Found, Show};
use super::times;

/// Show what was recorded.
///
/// Shows, their copies and parts, how long and how large they are, and whether they are whole as far as their indexes
/// tell (`verify` reads everything).
#[derive(Args, Debug)]
pub struct Raw {
    /// Folders of recordings [default: this one]
    #[arg(value_name = "DIR")]
    places: Vec<PathBuf>,

    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub fn run(raw: &Raw) -> anyhow::Result<()> {
    let places = if raw.places.is_empty() { vec![PathBuf::from(".")] } else { raw.places.clone() };
    let Found { shows, others } = shows::find(&places)?;
    if raw.json {
        let shows: Vec<Value> = shows.iter().map(show_json).collect();
        let others: Vec<String> = others.iter().map(ToString::to_string).collect();
        crate::say!("{}", serde_json::to_string_pretty(&json!({ "shows": shows, "others": others }))?);
        return Ok(());
    }
    if shows.is_empty() {
        let places: Vec<_> = places.iter().map(|place| place.display().to_string()).collect();
        crate::say!("There are no recordings in {}.", places.join(", "));
    }
    for (number, show) in shows.iter().enumerate() {
        let copies = match show.copies.len() {
            1 => "1 copy".to_owned(),
            count => format!("{count} copies"),
        };
        crate::say!(
            "{}  {}  {}  {}  {copies}",
            number + 1,
            show.broadcast,
            times::date(show.zero),
            times::exact(show.length())
        );
        let tracks: Vec<String> = show.tracks().iter().map(track).collect();
        crate::say!("     {}", tracks.join(", "));
        for copy in &show.copies {
            let parts = times::count(copy.parts.len() as u64, "part");
            let bytes = copy.parts.iter().map(|part| part.file.bytes()).sum();
            crate::say!(
                "   {}  {parts}  {}  {}",
                copy.place.display(),
                times::size(bytes),
                state(show, copy).join("; ")
            );
            for part in &copy.parts {
                let name = part.file.path().file_name().unwrap_or_default().to_string_lossy().into_owned();
                let length = part.contents.end.saturating_since(part.file.start().zero);
                crate::say!("     {name}  {}  {}", times::exact(length), times::size(part.file.bytes()));
            }
        }
    }
    for error in &others {
        crate::say!("   {error}");
    }
    Ok(())
}

/// What is known of a copy without reading it.
fn state(show: &Show, copy: &Copy) -> Vec<String> {
    let mut words = Vec::new();
    if copy.parts.iter().any(|part| part.file.is_growing()) {
        words.push("being recorded".to_owned());
    } else if let Some(part) = copy.parts.iter().find(|part| !part.file.is_finished()) {
        let at = part.contents.end.saturating_since(show.zero);
        words.push(format!("cut off at {} (`repair` makes a plain MP4 of it)", times::exact(at)));
    }
    let missing = missing(show, copy);
    if missing > 0 {
        words.push(format!("{} not whole here (`verify` tells which)", times::count(missing, "group")));
    }
    if words.is_empty() {
        words.push("whole".to_owned());
    }
    words
}

/// Groups that this copy has not whole: those that another copy lists, and holes in its own numbers.
fn missing(show: &Show, copy: &Copy) -> u64 {
    let mut count = 0;
    for track in show.tracks() {
        let of = |copy: &Copy| {
            let entries = copy.parts.iter().flat_map(|part| &part.contents.groups);
            let mut groups: Vec<_> = entries
                .filter(|entry| entry.track == track.id)
                .map(|entry| (entry.group, entry.first_capture))
                .collect();
            groups.sort_unstable();
            groups.dedup_by_key(|(group, _)| *group);
            groups
        };
        let own = of(copy);
        let mut all: Vec<_> = show.copies.iter().flat_map(of).collect();
        all.sort_unstable();
        all.dedup_by_key(|(group, _)| *group);
        let holes = plan::holes(&all).into_iter().filter_map(|hole| hole.groups);
        count += (all.len() - own.len()) as u64 + holes.map(|groups| groups.end - groups.start).sum::<u64>();
    }
    count
}

fn track(track: &Track) -> String {
    match &track.config {
        TrackConfig::Video(config) => {
            format!("{} {}x{} at {} fps", track.name, config.width, config.height, config.framerate)
        }
        TrackConfig::Audio(config) => format!("{} {} {} Hz", track.name, config.codec, config.sample_rate),
    }
}

fn show_json(show: &Show) -> Value {
    let copies: Vec<Value> = show
        .copies
        .iter()
        .map(|copy| {
            let parts: Vec<Value> = copy
                .parts
                .iter()
                .map(|part| {
                    json!({
                        "path": part.file.path(),
                        "bytes": part.file.bytes(),
                        "start_us": part.file.start().zero,
                        "seconds": part.contents.end.saturating_since(part.file.start().zero).as_secs_f64(),
                        "finished": part.file.is_finished(),
                        "recording": part.file.is_growing(),
                        "groups": part.contents.groups.len(),
                    })
                })
                .collect();
            json!({ "place": copy.place, "parts": parts, "missing_groups": missing(show, copy) })
        })
        .collect();
    json!({
        "broadcast": show.broadcast,
        "start_us": show.zero,
        "seconds": show.length().as_secs_f64(),
        "tracks": show.tracks(),
        "copies": copies,
    })
}
