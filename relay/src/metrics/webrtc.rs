//! WebRTC's figures, by the way that media goes; no session is a label.

use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;

use super::text::Kind::{self, Counter, Gauge};
use super::text::Text;
use crate::webrtc::{Stats, Way};

/// One number of each way.
type ByWay = (Kind, &'static str, &'static str, fn(&Stats, Way) -> &AtomicU64);

const BY_WAY: [ByWay; 7] = [
    (Gauge, "roadie_webrtc_sessions", "WebRTC sessions open.", |s, way| &s.sessions(way).now),
    (Counter, "roadie_webrtc_sessions_total", "WebRTC sessions begun.", |s, way| &s.sessions(way).total),
    (
        Counter,
        "roadie_webrtc_sessions_unconnected_total",
        "WebRTC sessions that ended before they were connected.",
        |s, way| &s.sessions(way).failed,
    ),
    (
        Counter,
        "roadie_webrtc_rtp_packets_total",
        "RTP packets of media, repeated ones included.",
        |s, way| &s.rtp(way).packets,
    ),
    (Counter, "roadie_webrtc_rtp_bytes_total", "Their bytes.", |s, way| &s.rtp(way).bytes),
    (
        Counter,
        "roadie_webrtc_nacks_total",
        "Requests for packets that were lost, by those who receive.",
        |s, way| &s.rtp(way).nacks,
    ),
    (Counter, "roadie_webrtc_keyframe_requests_total", "PLI and FIR, by those who receive.", |s, way| {
        &s.rtp(way).plis
    }),
];

/// One number of all sessions.
type Plain = (Kind, &'static str, &'static str, fn(&Stats) -> &AtomicU64);

const PLAIN: [Plain; 9] = [
    (Counter, "roadie_webrtc_lost_packets_total", "RTP packets that viewers report as lost.", |s| &s.lost),
    (Counter, "roadie_webrtc_groups_skipped_total", "Groups left out because a viewer lost too much.", |s| {
        &s.skipped
    }),
    (Counter, "roadie_webrtc_stray_datagrams_total", "Datagrams that belong to no session.", |s| &s.strays),
    (Counter, "roadie_webrtc_unsent_datagrams_total", "Datagrams that the system had no room for.", |s| {
        &s.unsent
    }),
    (Counter, "roadie_webrtc_broken_sessions_total", "Sessions that the engine has failed in.", |s| {
        &s.broken
    }),
    (Counter, "roadie_webrtc_sent_datagrams_total", "Datagrams that left.", |s| &s.sent_datagrams),
    (Counter, "roadie_webrtc_sent_bytes_total", "Their bytes.", |s| &s.sent_bytes),
    (Counter, "roadie_webrtc_received_datagrams_total", "Datagrams that came.", |s| &s.received_datagrams),
    (Counter, "roadie_webrtc_received_bytes_total", "Their bytes.", |s| &s.received_bytes),
];

pub(super) fn write(text: &mut Text, stats: &Stats) {
    for (kind, name, help, value) in BY_WAY {
        let mut family = text.family(kind, name, help);
        for (word, way) in [("in", Way::In), ("out", Way::Out)] {
            family.sample(&[("way", word)], value(stats, way).load(Relaxed));
        }
    }
    for (kind, name, help, value) in PLAIN {
        text.one(kind, name, help, value(stats).load(Relaxed));
    }
    let help = "Round trip of the session that has the longest.";
    let worst = stats.worst_round_trip_us.load(Relaxed) as f64 / 1e6;
    text.one(Gauge, "roadie_webrtc_worst_round_trip_seconds", help, worst);
}
