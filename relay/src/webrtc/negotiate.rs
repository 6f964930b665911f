//! Offer and answer: what a client and this relay agree on.
//!
//! The offer comes from anybody who may knock. `str0m` parses it; where it should fail in that, the offer is refused and
//! nothing else happens.

use std::net::SocketAddr;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};

use str0m::change::SdpOffer;
use str0m::format::{Codec, PayloadParams};
use str0m::media::{Direction, MediaKind, Mid, Pt};
use str0m::rtp::{Extension, ExtensionMap};
use str0m::{Candidate, Rtc, RtcConfig};

use super::stats::Way;

/// How often a session tells what went over its wires.
const STATS_INTERVAL: Duration = Duration::from_secs(1);

/// Packets of video that wait for an earlier one: more than the largest keyframe has (1 MB).
const REORDER: usize = 1_000;

/// Packets of video that can be sent again, those of a frame that is being cut up among them: two seconds of 6 Mb/s.
const SEND_BUFFER: usize = 2_000;

/// Profiles of H.264, with packetization mode 1: constrained baseline (by both of its names), main, constrained high,
/// high; level 3.1, as browsers say, who decode more. The first number is the payload type, the second that of its
/// retransmissions.
const H264: [(u8, u8, u32); 5] = [
    (108, 109, 0x42_e01f),
    (127, 121, 0x42_001f),
    (123, 119, 0x4d_001f),
    (35, 36, 0x64_0c1f),
    (114, 115, 0x64_001f),
];

/// The same of publishers that name no packetization mode, or mode 0: what they send, we can read.
const H264_MODE_0: [(u8, u8, u32); 3] = [(125, 107, 0x42_001f), (124, 120, 0x42_e01f), (37, 38, 0x64_001f)];

/// Where the extension is, if the offer does not say another place.
const PLAYOUT_DELAY: u8 = 5;

/// Why an offer is not accepted.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum OfferError {
    /// It cannot be read.
    #[error("this is no SDP offer that can be answered: {0}")]
    Malformed(String),
    /// There is nothing to agree on.
    #[error("{0}")]
    NoCommonCodec(String),
}

/// A track that both agree on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Line {
    pub mid: Mid,
    pub pt: Pt,
}

/// What both agree on.
pub(super) struct Agreed {
    pub rtc: Rtc,
    /// SDP.
    pub answer: String,
    pub video: Option<(Line, Codec)>,
    pub audio: Option<Line>,
}

/// What is on this side.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ours<'a> {
    /// From where media goes to where.
    pub way: Way,
    /// Codecs of pictures; none: no pictures.
    pub video: &'a [Codec],
    /// Whether there is Opus.
    pub audio: bool,
    /// Of the H.264 that is there: its profile, if it is known.
    pub profile: Option<u8>,
    /// Where the client sends to.
    pub candidates: &'a [SocketAddr],
}

/// Answers an offer.
pub(super) fn accept(offer: &str, ours: Ours<'_>, now: Instant) -> Result<Agreed, OfferError> {
    // The engine has places where an offer that contradicts itself ends in a panic.
    let answered = catch_unwind(AssertUnwindSafe(|| answer(offer, ours, now)));
    answered.unwrap_or_else(|_| Err(OfferError::Malformed("it contradicts itself".into())))
}

fn answer(offer: &str, ours: Ours<'_>, now: Instant) -> Result<Agreed, OfferError> {
    let malformed = |error: &dyn std::fmt::Display| OfferError::Malformed(error.to_string());
    let offer = SdpOffer::from_sdp_string(offer).map_err(|error| malformed(&error))?;
    let mut rtc = config(ours).build(now);
    for addr in ours.candidates {
        let candidate = Candidate::host(*addr, "udp").map_err(|error| malformed(&error))?;
        rtc.add_local_candidate(candidate);
    }
    let answer = rtc.sdp_api().accept_offer(offer).map_err(|error| malformed(&error))?;
    let answer = with_formats(&answer.to_sdp_string());
    let (mut video, mut audio) = (None, None);
    for mid in mids(&answer) {
        let Some((kind, direction)) = rtc.media(mid).map(|media| (media.kind(), media.direction())) else {
            continue;
        };
        let wanted = match ours.way {
            Way::In => matches!(direction, Direction::RecvOnly | Direction::SendRecv),
            Way::Out => matches!(direction, Direction::SendOnly | Direction::SendRecv),
        };
        let Some(params) = rtc.writer(mid).filter(|_| wanted).and_then(|writer| {
            let fit = |params: &&PayloadParams| rank(params, ours).is_some();
            writer.payload_params().filter(fit).max_by_key(|params| rank(params, ours)).copied()
        }) else {
            continue;
        };
        let line = Line { mid, pt: params.pt() };
        // Of several of a kind the first.
        match kind {
            MediaKind::Video => drop(video.get_or_insert((line, params.spec().codec))),
            MediaKind::Audio => drop(audio.get_or_insert(line)),
        }
    }
    if video.is_none() && audio.is_none() {
        return Err(OfferError::NoCommonCodec(missing(ours)));
    }
    if ours.way == Way::Out && !ours.video.is_empty() && video.is_none() {
        return Err(OfferError::NoCommonCodec(missing(ours)));
    }
    Ok(Agreed { rtc, answer, video, audio })
}

/// What is refused has to have a format all the same (RFC 8866, section 5.14), and the engine leaves it away.
fn with_formats(answer: &str) -> String {
    let line = |line: &str| match line.starts_with("m=") && line.split_whitespace().count() == 3 {
        true => format!("{} 0\r\n", line.trim_end()),
        false => format!("{line}\r\n"),
    };
    answer.lines().map(line).collect()
}

/// The same offer from another network: with other words of ICE, and no candidates.
pub(super) fn offer_again(offer: &str, ufrag: &str, pwd: &str) -> Result<SdpOffer, OfferError> {
    let line = |line: &str| match line {
        line if line.starts_with("a=ice-ufrag:") => format!("a=ice-ufrag:{ufrag}\r\n"),
        line if line.starts_with("a=ice-pwd:") => format!("a=ice-pwd:{pwd}\r\n"),
        line if line.starts_with("a=candidate:") || line.starts_with("a=end-of-candidates") => String::new(),
        line => format!("{line}\r\n"),
    };
    let text: String = offer.lines().map(line).collect();
    SdpOffer::from_sdp_string(&text).map_err(|error| OfferError::Malformed(error.to_string()))
}

/// The tracks of an answer. (The engine tells of them only when the connection stands.)
fn mids(answer: &str) -> impl Iterator<Item = Mid> {
    answer.lines().filter_map(|line| line.strip_prefix("a=mid:")).map(|mid| Mid::from(mid.trim_end()))
}

/// What of ours an offer lacks.
fn missing(ours: Ours<'_>) -> String {
    let mut codecs: Vec<_> = ours.video.iter().map(|codec| word(*codec)).collect();
    if ours.audio {
        codecs.push("Opus");
    }
    match ours.way {
        Way::Out => {
            format!("this show is in {}, and the offer asks to receive no such thing", codecs.join(" and "))
        }
        Way::In => format!("this relay takes {}, and the offer sends nothing of it", codecs.join(", ")),
    }
}

fn word(codec: Codec) -> &'static str {
    match codec {
        Codec::H264 => "H.264",
        Codec::Vp8 => "VP8",
        _ => "a codec that WebRTC does not carry here",
    }
}

/// How well a format carries what is there; `None`: not at all.
fn rank(params: &PayloadParams, ours: Ours<'_>) -> Option<u8> {
    let spec = params.spec();
    match spec.codec {
        Codec::Opus => ours.audio.then_some(0),
        codec if !ours.video.contains(&codec) => None,
        Codec::H264 => {
            // Who watches decodes more than it says.
            let profile = spec.format.profile_level_id.map(|id| (id >> 16) as u8);
            Some(u8::from(profile.is_some() && profile == ours.profile))
        }
        _ => Some(0),
    }
}

fn config(ours: Ours<'_>) -> RtcConfig {
    let mut extensions = ExtensionMap::standard();
    extensions.set(PLAYOUT_DELAY, Extension::PlayoutDelay);
    let mut config = RtcConfig::new()
        .clear_codecs()
        // The relay is reached directly or not at all: it has no checks to make, and sends nothing to addresses that an
        // offer names.
        .set_ice_lite(true)
        .set_extension_map(extensions)
        .set_stats_interval(Some(STATS_INTERVAL))
        .set_reordering_size_video(REORDER)
        .set_send_buffer_video(SEND_BUFFER);
    let codecs = config.codec_config();
    codecs.enable_opus(ours.audio, false);
    for codec in ours.video {
        match codec {
            Codec::H264 => {
                let mut add = |(pt, resend, profile): (u8, u8, u32), mode| {
                    codecs.add_h264(pt.into(), Some(resend.into()), mode, profile);
                };
                H264.into_iter().for_each(|format| add(format, true));
                if ours.way == Way::In {
                    H264_MODE_0.into_iter().for_each(|format| add(format, false));
                }
            }
            Codec::Vp8 => codecs.enable_vp8(true),
            _ => {}
        }
    }
    config
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a browser offers that wants to watch: pictures in these formats, and sound.
    fn offer(formats: &str) -> String {
        let mut text = String::from(
            "v=0\r\no=- 1 2 IN IP4 127.0.0.1\r\ns=-\r\nt=0 0\r\na=group:BUNDLE 0 1\r\n\
             m=audio 9 UDP/TLS/RTP/SAVPF 111\r\nc=IN IP4 0.0.0.0\r\na=mid:0\r\na=recvonly\r\na=rtcp-mux\r\n\
             a=ice-ufrag:abcd\r\na=ice-pwd:abcdefghijklmnopqrstuvwx\r\na=setup:actpass\r\n\
             a=fingerprint:sha-256 00:11:22:33:44:55:66:77:88:99:AA:BB:CC:DD:EE:FF:00:11:22:33:44:55:66:77:88:99:AA:BB:CC:DD:EE:FF\r\n\
             a=rtpmap:111 opus/48000/2\r\na=fmtp:111 minptime=10;useinbandfec=1\r\n",
        );
        let pts: Vec<_> = (0..).zip(formats.split_whitespace()).collect();
        let list: Vec<_> = pts.iter().map(|(n, _)| (96 + n).to_string()).collect();
        text += &format!(
            "m=video 9 UDP/TLS/RTP/SAVPF {}\r\nc=IN IP4 0.0.0.0\r\na=mid:1\r\na=recvonly\r\na=rtcp-mux\r\n",
            list.join(" ")
        );
        text += "a=ice-ufrag:abcd\r\na=ice-pwd:abcdefghijklmnopqrstuvwx\r\na=setup:actpass\r\n\
             a=fingerprint:sha-256 00:11:22:33:44:55:66:77:88:99:AA:BB:CC:DD:EE:FF:00:11:22:33:44:55:66:77:88:99:AA:BB:CC:DD:EE:FF\r\n";
        for (n, format) in pts {
            let pt = 96 + n;
            text += &match format.split_once('/') {
                Some((profile, mode)) => format!(
                    "a=rtpmap:{pt} H264/90000\r\na=fmtp:{pt} level-asymmetry-allowed=1;packetization-mode={mode};profile-level-id={profile}\r\n"
                ),
                None => format!("a=rtpmap:{pt} {format}/90000\r\n"),
            };
            text += &format!("a=rtcp-fb:{pt} nack\r\na=rtcp-fb:{pt} nack pli\r\n");
        }
        text
    }

    fn ours(profile: u8) -> Ours<'static> {
        const CANDIDATES: &[SocketAddr] =
            &[SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 1)), 8189)];
        Ours {
            way: Way::Out,
            video: &[Codec::H264],
            audio: true,
            profile: Some(profile),
            candidates: CANDIDATES,
        }
    }

    fn accepted(formats: &str, profile: u8) -> Result<Option<u8>, String> {
        let agreed =
            accept(&offer(formats), ours(profile), Instant::now()).map_err(|error| error.to_string())?;
        assert!(
            agreed.audio.is_some() && agreed.answer.contains("192.0.2.1 8189 typ host"),
            "{}",
            agreed.answer
        );
        assert!(agreed.answer.contains("a=ice-lite"));
        Ok(agreed.video.map(|(line, _)| *line.pt))
    }

    #[test]
    fn the_format_that_is_nearest_to_the_show_is_taken() {
        let browser = "VP8 42001f/1 42001f/0 42e01f/1 42e01f/0 4d001f/1 4d001f/0";
        assert!(matches!(accepted(browser, 0x42), Ok(Some(97 | 99))));
        assert_eq!(accepted(browser, 0x4d), Ok(Some(101)));
        // Nobody offers high, but decoders know it.
        assert!(matches!(accepted(browser, 0x64), Ok(Some(97 | 99 | 101))));
        assert_eq!(accepted("42e01f/1", 0x64), Ok(Some(96)));
        assert!(accepted("VP8 42e01f/0", 0x42).unwrap_err().contains("H.264"));
    }

    #[test]
    fn what_is_refused_has_a_format() {
        let sound = Ours { video: &[], ..ours(0) };
        let agreed = accept(&offer("42e01f/1"), sound, Instant::now()).unwrap();
        assert!(agreed.video.is_none() && agreed.audio.is_some());
        assert!(agreed.answer.contains("m=video 0 UDP/TLS/RTP/SAVPF 0\r\n"), "{}", agreed.answer);
    }

    #[test]
    fn rubbish_is_refused() {
        let whole = offer("42e01f/1");
        let mut refused = 0;
        for cut in 0..whole.len() {
            refused += usize::from(accept(&whole[..cut], ours(0x42), Instant::now()).is_err());
        }
        assert!(refused > 100, "{refused} of {}", whole.len());
        for text in ["", "v=0", "hello", "{\"sdp\": 1}", &"a=".repeat(10_000)] {
            assert!(
                matches!(accept(text, ours(0x42), Instant::now()), Err(OfferError::Malformed(_))),
                "{text}"
            );
        }
        // The same payload type twice, and lines that contradict each other.
        let twice = whole.replace("a=rtpmap:111 opus/48000/2", "a=rtpmap:96 opus/48000/2");
        let _ = accept(&twice, ours(0x42), Instant::now());
        let same_mid = whole.replace("a=mid:1", "a=mid:0");
        let _ = accept(&same_mid, ours(0x42), Instant::now());
    }
}
