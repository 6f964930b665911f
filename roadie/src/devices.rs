//! `roadie devices`: what this machine can capture from and encode with.

use std::io::Write;

use anyhow::Context;
use clap::Args;
use encoder::devices::{self, Ability, Camera, Device, Devices};

/// List cameras, screens, microphones, streams and encoders that this machine can use.
#[derive(Args, Debug, Default)]
pub struct Raw {
    /// Print JSON, for programs
    #[arg(long)]
    pub json: bool,
}

/// Looks, and prints what there is.
pub async fn run(raw: Raw) -> anyhow::Result<()> {
    // Opening devices may take a while each.
    let found = tokio::task::spawn_blocking(devices::find).await??;
    let text = match raw.json {
        true => serde_json::to_string_pretty(&found).context("cannot write JSON")? + "\n",
        false => text(&found),
    };
    match std::io::stdout().write_all(text.as_bytes()) {
        // Whoever reads it has seen enough, such as `head`.
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
        result => result.context("cannot print"),
    }
}

fn text(found: &Devices) -> String {
    let mut text = String::new();
    let mut section = |title: &str, lines: Vec<String>| {
        text.push_str(title);
        text.push('\n');
        for line in lines {
            text.push_str("  ");
            text.push_str(&line);
            text.push('\n');
        }
    };
    let cameras = found.cameras.iter().flat_map(camera).collect();
    let mut cameras = or(cameras, "none: plug one in, and be in the group `video`");
    cameras.extend(found.pipewire_missing.iter().map(|missing| format!("of PipeWire: none, as {missing}")));
    section("Cameras", cameras);
    let screens = found.screens.iter().map(device).collect();
    section("Screens", or(screens, "none: there is no X11 session on this machine"));
    let microphones = found.microphones.iter().map(device).collect();
    section("Microphones (--audio-input)", or(microphones, "none: there is no sound card that records"));
    section("Streams", found.network.iter().map(ability).collect());
    section("Video encoders (--encoder)", found.encoders.iter().map(ability).collect());
    text
}

fn or(lines: Vec<String>, none: &str) -> Vec<String> {
    if lines.is_empty() { vec![none.to_owned()] } else { lines }
}

fn camera(camera: &Camera) -> Vec<String> {
    let mut lines = vec![format!("{:<28} {}", camera.input, camera.name)];
    lines.extend(camera.problem.iter().map(|problem| format!("  cannot be used: {problem}")));
    let mode = |mode: &devices::Mode| {
        format!("  {}x{} at up to {} fps, {}", mode.width, mode.height, mode.fps.round(), mode.format)
    };
    lines.extend(camera.modes.iter().map(mode));
    lines
}

fn device(device: &Device) -> String {
    format!("{:<28} {}", device.input, device.name)
}

fn ability(ability: &Ability) -> String {
    let missing =
        ability.missing.as_ref().map_or_else(|| "ready".to_owned(), |missing| format!("no: {missing}"));
    format!("{:<28} {:<28} {missing}", ability.input, ability.name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_machine_without_anything_says_so() {
        let told = text(&Devices::default());
        assert_eq!(told.matches("none: ").count(), 3, "{told}");
        let missing = Devices { pipewire_missing: Some("it is missing".into()), ..Devices::default() };
        assert!(text(&missing).contains("of PipeWire: none, as it is missing"));
    }

    #[test]
    fn a_camera_is_told_with_its_modes() {
        let mode = devices::Mode { format: "JPEG".into(), width: 1280, height: 720, fps: 30.0 };
        let camera = Camera {
            input: "camera:/dev/video0".into(),
            name: "Cam".into(),
            modes: vec![mode],
            problem: None,
        };
        let text = text(&Devices { cameras: vec![camera], ..Devices::default() });
        assert!(
            text.contains("camera:/dev/video0") && text.contains("1280x720 at up to 30 fps, JPEG"),
            "{text}"
        );
    }
}
