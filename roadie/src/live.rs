//! `roadie live`: puts a show on the air.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, bail};
use clap::Args;
use encoder::{Input, Microphone};
use relay::uplink::{EdgeAddress, Plan};
use relay::{control, settings, venue};
use serde::Deserialize;

use crate::video_flags::{parse_bitrate, parse_rendition, parse_size};
use crate::{room, show};

/// The UDP port of an edge whose URL names none.
const DEFAULT_PORT: u16 = 4443;

/// Put a show on the air: camera to edge over all your uplinks, recorded on the way.
///
/// Example: two 5G sticks and the venue's Wi-Fi, two copies of the recording:
///
///   roadie live --input camera --edge https://edge.example:4443/tour/london \
///     --uplink usb0=5000MB@2 --uplink usb1@1 --uplink wlan0 --record ~/show --record /media/stick/show
///
/// Or every uplink that there is, as they come and go: --uplink auto
#[derive(Args, Debug, Default, Deserialize)]
#[command(verbatim_doc_comment)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct Raw {
    /// Read settings from this TOML file; the same names as here, without the dashes in front. The
    /// command line wins
    #[arg(long, value_name = "FILE")]
    #[serde(skip)]
    pub config: Option<PathBuf>,

    /// What to show: `camera`, `camera:/dev/video1`, `camera:NAME` (of PipeWire), `screen`,
    /// `file:CLIP.mp4` (looped), `file-once:CLIP.mp4` (its end ends the show), `test` (a moving pattern), or a stream: `srt://HOST:PORT` (we call),
    /// `srt://:PORT` (we are called), `rtsp://HOST/PATH`, `rtmp://HOST/APP/NAME` or `udp://:PORT` (MPEG-TS).
    /// Repeat it for each input that you want to cut to; the first is on air at the start. `roadie devices`
    /// lists what is there
    #[arg(long, value_name = "INPUT")]
    #[serde(deserialize_with = "one_or_more")]
    pub input: Vec<String>,

    /// The sound of cameras and screens: `default`, `none`, `alsa:hw:1,0` or `pulse:NAME` [default: default]
    #[arg(long, value_name = "MICROPHONE")]
    pub audio_input: Option<String>,

    /// The edge relay and the name of the show, such as https://edge.example:4443/tour/london
    #[arg(long, value_name = "URL")]
    pub edge: Option<String>,

    /// An edge that made its own certificate: the fingerprint that it printed
    #[arg(long, value_name = "SHA256")]
    pub edge_fingerprint: Option<String>,

    /// Send over this interface (wlan0) or from this address; repeat it for each uplink. `auto` takes
    /// every interface with a default route, and new ones as they are plugged in. `usb0=5000MB` (or GB)
    /// keeps usb0 for emergencies once so much went over it; `usb0@2` is dearer than `wlan0@1`, which is
    /// dearer than those without a price, and cheaper ones are filled first; `usb0=5GB@2` says both.
    /// Without --uplink the system's default route is used [NAME:via=HOST:PORT sends through an emulator
    /// or a tunnel]
    #[arg(long, value_name = "UPLINK")]
    pub uplink: Vec<String>,

    /// Record into this folder; give it twice, on two disks, and no crash can take the show away
    #[arg(long, value_name = "DIR")]
    pub record: Vec<PathBuf>,

    /// The edge's token for publishing
    #[arg(long, value_name = "TOKEN", env = "ROADIE_TOKEN", hide_env_values = true)]
    pub token: Option<String>,

    /// Video bits per second, such as 2500k or 2.5M; less while the uplinks carry less [default: 2500k]
    #[arg(long, value_name = "RATE")]
    pub bitrate: Option<String>,

    /// Size of the picture, such as 1280x720 or 1080p [default: 720p]
    #[arg(long, value_name = "SIZE")]
    pub size: Option<String>,

    /// Pictures a second [default: 30]
    #[arg(long, value_name = "N")]
    pub fps: Option<u32>,

    /// Send a smaller picture beside the main one, for viewers on bad networks: 360p=600k; repeat it from
    /// large to small
    #[arg(long, value_name = "HEIGHTp=RATE")]
    pub rendition: Vec<String>,

    /// Record a master with so many bits per second beside the show that is sent; it takes a second encoder
    #[arg(long, value_name = "RATE")]
    pub record_bitrate: Option<String>,

    /// How pictures are compressed: h264, vp8 or av1. Phones decode H.264 in hardware; AV1 looks better where the
    /// uplinks carry little, and takes twice the processor [default: h264]
    #[arg(long, value_name = "CODEC")]
    pub codec: Option<String>,

    /// The video encoder: vaapi, nvenc, v4l2, x264 or openh264; vpx for VP8; aom for AV1 [default: the first of them that works
    /// here]
    #[arg(long, value_name = "ENCODER")]
    pub encoder: Option<String>,

    /// Decode and encode every stream anew. Without it, H.264 that fits the show goes out as it comes in
    #[arg(long)]
    pub transcode: bool,

    /// Keep the video at --bitrate whatever the uplinks carry: frames that do not fit are not sent
    #[arg(long)]
    pub fixed_bitrate: bool,

    /// How old a frame may get on its way to the edge, in milliseconds [default: 400]
    #[arg(long, value_name = "MS")]
    pub deadline: Option<u32>,

    /// Show it to the room, too, over the venue's own network: a page over HTTPS at this TCP port, and QUIC at the
    /// UDP port of the same number. The link is printed with a QR code, and works when all uplinks are dead [default
    /// where no value is given: [::]:8443]
    #[arg(long, value_name = "ADDR:PORT", num_args = 0..=1, default_missing_value = room::DEFAULT)]
    pub room: Option<SocketAddr>,

    /// The room's page over HTTP, for browsers on this laptop itself, by WebRTC at the UDP port of the same number
    /// for others, and for HLS [default: [::]:8080]
    #[arg(long, value_name = "ADDR:PORT")]
    pub room_http: Option<SocketAddr>,

    /// The name or address of this laptop in the room's link [default: its address in the venue's network]
    #[arg(long, value_name = "HOST")]
    pub room_name: Option<String>,

    /// Certificate chain for --room-name in PEM form, which spares viewers their browser's warning; needs
    /// --room-key
    #[arg(long, value_name = "FILE")]
    pub room_cert: Option<PathBuf>,

    /// Its private key in PEM form
    #[arg(long, value_name = "FILE")]
    pub room_key: Option<PathBuf>,

    /// The page that the room is shown, as `cargo xtask player` makes it [default: the folder `player` beside this
    /// program]
    #[arg(long, value_name = "DIR")]
    pub player: Option<PathBuf>,

    /// Print lines of JSON for tools in place of the screen: the state once a second, and what happens
    #[arg(long)]
    pub json: bool,

    /// Stop by itself after so many seconds
    #[arg(long, value_name = "SECONDS")]
    pub seconds: Option<u64>,
}

/// Settings of a live show, checked.
pub struct Settings {
    /// The show itself.
    pub show: show::Settings,
    /// It ends by itself after this.
    pub seconds: Option<Duration>,
    /// Lines of JSON in place of the screen.
    pub json: bool,
}

impl Raw {
    /// Adds the settings file and the defaults, and checks everything that can be checked before the
    /// show: a typing error must not be found out on the air.
    pub fn check(self) -> anyhow::Result<Settings> {
        let file = match &self.config {
            Some(path) => settings::read_toml::<Raw>(path)?,
            None => Raw::default(),
        };
        let room = room_of(&self).or(room_of(&file));
        let inputs = pick(self.input, file.input);
        if inputs.is_empty() {
            bail!("what shall be shown? Give --input camera, or file:PATH, or test");
        }
        let inputs = inputs.iter().map(|input| input.parse::<Input>()).collect::<Result<Vec<_>, _>>()?;
        let microphone = self.audio_input.or(file.audio_input);
        let microphone = microphone.map(|text| text.parse::<Microphone>()).transpose()?.unwrap_or_default();
        let edge = self.edge.or(file.edge).context("where to? Give --edge https://HOST:PORT/NAME")?;
        let fingerprint = self.edge_fingerprint.or(file.edge_fingerprint);
        let (edge, broadcast) = parse_edge(&edge, fingerprint)?;
        let uplinks = Plan::parse(&pick(self.uplink, file.uplink))
            .map_err(|(text, error)| anyhow::Error::new(error).context(format!("--uplink {text}")))?;
        let record = pick(self.record, file.record);
        if let Some(error) = encoder::record::check_dirs(&record).into_iter().next() {
            return Err(error.into());
        }
        let mut encoder = encoder::Settings { inputs, microphone, ..encoder::Settings::default() };
        if let Some(bitrate) = self.bitrate.or(file.bitrate) {
            encoder.video.bitrate = parse_bitrate(&bitrate).context("--bitrate")?;
        }
        if let Some(size) = self.size.or(file.size) {
            (encoder.video.width, encoder.video.height) = parse_size(&size).context("--size")?;
        }
        if let Some(fps) = self.fps.or(file.fps) {
            encoder.video.fps = fps;
        }
        for rendition in pick(self.rendition, file.rendition) {
            encoder.renditions.push(parse_rendition(&rendition, &encoder.video)?);
        }
        if let Some(bitrate) = self.record_bitrate.or(file.record_bitrate) {
            encoder.master_bitrate = Some(parse_bitrate(&bitrate).context("--record-bitrate")?);
            if record.is_empty() {
                bail!("--record-bitrate has nothing to record into: give --record DIR");
            }
        }
        if let Some(codec) = self.codec.or(file.codec) {
            encoder.codec = codec.parse().context("--codec")?;
        }
        encoder.encoder = self.encoder.or(file.encoder);
        encoder.transcode = self.transcode || file.transcode;
        encoder.check()?;
        let deadline = self.deadline.or(file.deadline).unwrap_or(400);
        if !(50..=10_000).contains(&deadline) {
            bail!("a deadline of {deadline} ms is not between 50 and 10000");
        }
        let venue = venue::Settings {
            edge,
            broadcast,
            token: self.token.or(file.token),
            uplinks,
            deadline: Duration::from_millis(u64::from(deadline)),
        };
        Ok(Settings {
            show: show::Settings {
                encoder,
                record,
                venue,
                room: room.check()?,
                follow: !(self.fixed_bitrate || file.fixed_bitrate),
            },
            seconds: self.seconds.or(file.seconds).map(Duration::from_secs),
            json: self.json || file.json,
        })
    }
}

fn room_of(raw: &Raw) -> room::Wish {
    room::Wish {
        room: raw.room,
        http: raw.room_http,
        name: raw.room_name.clone(),
        cert: raw.room_cert.clone(),
        key: raw.room_key.clone(),
        player: raw.player.clone(),
    }
}

/// In a settings file, one input may stand without brackets.
fn one_or_more<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Vec<String>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Inputs {
        One(String),
        More(Vec<String>),
    }
    Ok(match Inputs::deserialize(deserializer)? {
        Inputs::One(input) => vec![input],
        Inputs::More(inputs) => inputs,
    })
}

/// The command line's list, or the file's where the command line has none.
fn pick<T>(line: Vec<T>, file: Vec<T>) -> Vec<T> {
    if line.is_empty() { file } else { line }
}

pub(crate) fn parse_edge(text: &str, fingerprint: Option<String>) -> anyhow::Result<(EdgeAddress, String)> {
    let example = "write it as https://HOST:PORT/NAME, such as https://edge.example:4443/tour/london";
    let url = url::Url::parse(text).with_context(|| format!("{text:?} is no URL: {example}"))?;
    if url.scheme() != "https" {
        bail!("{text:?} does not begin with https: {example}");
    }
    let host = url.host_str().with_context(|| format!("{text:?} has no host: {example}"))?.to_owned();
    let name = url.path().trim_matches('/').to_owned();
    if name.is_empty() {
        bail!("{text:?} has no name of the show after the host: {example}");
    }
    control::check_name(&name).map_err(anyhow::Error::msg)?;
    let hex = |text: &String| text.len() == 64 && text.bytes().all(|b| b.is_ascii_hexdigit());
    if let Some(bad) = fingerprint.as_ref().filter(|text| !hex(text)) {
        bail!(
            "{bad:?} is no SHA-256 fingerprint: it has 64 hex digits, and the relay prints it at its start"
        );
    }
    Ok((EdgeAddress { host, port: url.port().unwrap_or(DEFAULT_PORT), fingerprint }, name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn inputs_in_a_settings_file() {
        let inputs = |text: &str| serde_json::from_str::<Raw>(text).map(|raw| raw.input);
        assert_eq!(inputs(r#"{"input": "test"}"#).unwrap(), ["test"]);
        assert_eq!(inputs(r#"{"input": ["camera", "udp://:5000"]}"#).unwrap(), ["camera", "udp://:5000"]);
        assert!(inputs("{}").unwrap().is_empty());
        assert!(inputs(r#"{"input": 5}"#).is_err());
    }

    #[test]
    fn edges() {
        let (edge, name) = parse_edge("https://edge.example/tour/london", None).unwrap();
        assert_eq!((edge.host.as_str(), edge.port, name.as_str()), ("edge.example", 4443, "tour/london"));
        for bad in
            ["edge", "http://edge/x", "https://edge", "https://edge/", "https:///x", "https://edge/../../x y"]
        {
            assert!(parse_edge(bad, None).is_err(), "{bad}");
        }
        assert!(parse_edge("https://edge/x", Some("abc".into())).is_err());
    }
}
