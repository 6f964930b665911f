//! What operators read: all counts of the relay, in the text format of Prometheus.
//!
//! Names follow Prometheus's conventions (base units, `_total` for what only grows). A broadcast's name is a label only
//! for what comes over a bond, of which an edge takes [`MAX_SESSIONS`] at most; whatever else could grow without
//! bound is summed up. `docs/deploy.md` says what to watch.

mod process;
mod text;
mod webrtc;

use std::collections::BTreeMap;

use self::text::{Kind, Text};
use crate::broadcasts::BroadcastStatus;
use crate::counters::{Protocol, Turned};
use crate::http::Site;
use crate::ingest::MAX_SESSIONS;
use crate::keep::KeepStatus;

use Kind::{Counter, Gauge};

/// The content type of what [`collect`] gives.
pub(crate) const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// All of it for whoever may know `all`; otherwise what is known of these broadcasts.
pub(crate) fn collect(site: &Site, broadcasts: &BTreeMap<String, BroadcastStatus>, all: bool) -> String {
    let mut text = Text::default();
    if all {
        relay(&mut text, site, broadcasts);
        doors(&mut text, site);
        traffic(&mut text, site);
        webrtc::write(&mut text, &site.webrtc);
        process::write(&mut text);
    }
    let bonds = broadcasts.iter().filter(|(_, status)| status.moq.is_none());
    let labelled: Vec<_> = bonds.take(MAX_SESSIONS).collect();
    each(&mut text, &labelled);
    uplinks(&mut text, &labelled);
    viewers(&mut text, &labelled);
    kept(&mut text, &labelled);
    text.finish()
}

fn relay(text: &mut Text, site: &Site, broadcasts: &BTreeMap<String, BroadcastStatus>) {
    text.family(Gauge, "roadie_build_info", "Always 1; its labels say what runs here.")
        .sample(&[("version", env!("CARGO_PKG_VERSION"))], 1u64);
    text.one(Gauge, "roadie_viewers", "MoQ sessions open.", site.viewers.now());
    text.one(Counter, "roadie_viewer_sessions_total", "MoQ sessions served.", site.viewers.total());
    let live = broadcasts.values().filter(|status| status.live).count();
    text.one(Gauge, "roadie_broadcasts_live", "Broadcasts that can be watched now.", live);
    let expiry = site.certificate.validity().ends.as_micros() as f64 / 1e6;
    let help = "When the certificate for new connections expires, Unix time.";
    text.one(Gauge, "roadie_tls_certificate_expiry_timestamp_seconds", help, expiry);
    let help = "Renewed certificates that were taken.";
    text.one(Counter, "roadie_tls_reloads_total", help, site.certificate.reloads());
    let help = "New certificate files that could not be used.";
    text.one(Counter, "roadie_tls_reload_failures_total", help, site.certificate.failures());
    let mut family = text.family(Gauge, "roadie_upstream_connected", "1 while there is a session with it.");
    for (place, upstream) in site.upstreams.iter().enumerate() {
        let upstream = upstream.status();
        // One host may be there twice, with other paths.
        let labels = [("upstream", upstream.host.as_str()), ("place", &place.to_string())];
        family.sample(&labels, upstream.connected);
    }
    text.one(Gauge, "roadie_hls_waiting_requests", "HLS requests that wait for media.", site.hls.waiting());
    text.one(Gauge, "roadie_hls_kept_bytes", "Media held in memory for HLS and rewind.", site.hls.bytes());
    if let Some(dir) = &site.keep
        && let Ok(disk) = rustix::fs::statvfs(dir)
    {
        let free = disk.f_bavail.saturating_mul(disk.f_frsize);
        text.one(Gauge, "roadie_keep_disk_free_bytes", "Room on the disk of kept shows.", free);
    }
}

fn doors(text: &mut Text, site: &Site) {
    let counters = &site.counters;
    let mut family = text.family(Gauge, "roadie_connections", "QUIC connections open.");
    for protocol in Protocol::ALL {
        family.sample(&[("protocol", protocol.word())], counters.connections(protocol).0);
    }
    let mut family = text.family(Counter, "roadie_connections_total", "QUIC connections that stood.");
    for protocol in Protocol::ALL {
        family.sample(&[("protocol", protocol.word())], counters.connections(protocol).1);
    }
    let help = "Handshakes that came to nothing.";
    let mut family = text.family(Counter, "roadie_handshakes_refused_total", help);
    for why in Turned::ALL {
        family.sample(&[("reason", why.word())], counters.turned(why));
    }
    let help = "Handshakes whose address had to be proved first.";
    text.one(Counter, "roadie_address_proofs_total", help, counters.proofs());
    let help = "Sessions, uplinks and requests that were not let in.";
    let mut family = text.family(Counter, "roadie_refusals_total", help);
    for ((protocol, reason), count) in counters.refused() {
        family.sample(&[("protocol", protocol), ("reason", reason)], count);
    }
    let answers = counters.answers();
    let mut family = text.family(Counter, "roadie_http_requests_total", "HTTP requests answered.");
    for ((handler, status), (count, _)) in &answers {
        family.sample(&[("handler", handler), ("code", &status.to_string())], *count);
    }
    let help = "Bodies of answers to HTTP requests.";
    let mut family = text.family(Counter, "roadie_http_response_bytes_total", help);
    for ((handler, status), (_, bytes)) in &answers {
        family.sample(&[("handler", handler), ("code", &status.to_string())], *bytes);
    }
}

fn traffic(text: &mut Text, site: &Site) {
    use std::sync::atomic::Ordering::Relaxed;
    let traffic = &site.counters.traffic;
    let sent = &site.sent;
    for (name, help, value) in [
        (
            "roadie_udp_sent_bytes_total",
            "Bytes of UDP that left, QUIC's share included.",
            &traffic.sent_bytes,
        ),
        ("roadie_udp_sent_datagrams_total", "Datagrams that left.", &traffic.sent_datagrams),
        (
            "roadie_udp_received_bytes_total",
            "Bytes of UDP that came, QUIC's share included.",
            &traffic.received_bytes,
        ),
        ("roadie_udp_received_datagrams_total", "Datagrams that came.", &traffic.received_datagrams),
        ("roadie_forwarded_groups_total", "Groups begun for viewers, counted for each viewer.", &sent.groups),
        (
            "roadie_forwarded_frames_total",
            "Frames written to viewers, counted for each viewer.",
            &sent.frames,
        ),
        ("roadie_forwarded_bytes_total", "Bytes written to viewers, counted for each viewer.", &sent.bytes),
        (
            "roadie_forwarded_groups_skipped_total",
            "Groups broken off because a viewer was too slow for them.",
            &sent.skipped,
        ),
    ] {
        text.one(Counter, name, help, value.load(Relaxed));
    }
}

type Named<'a> = (&'a String, &'a BroadcastStatus);

/// One number of a status.
type Field<T> = (Kind, &'static str, &'static str, fn(&T) -> u64);

const BROADCAST: [Field<BroadcastStatus>; 9] = [
    (Gauge, "roadie_broadcast_live", "1 while it can be watched.", |s| u64::from(s.live)),
    (Counter, "roadie_groups_published_total", "Groups begun for viewers.", |s| s.groups),
    (Counter, "roadie_frames_published_total", "Frames handed to viewers.", |s| s.published),
    (Counter, "roadie_media_bytes_total", "Media handed to viewers.", |s| s.media_bytes),
    (Counter, "roadie_frames_lost_total", "Frames given up at their deadline.", |s| s.lost),
    (Counter, "roadie_frames_late_total", "Frames that came after they were given up.", |s| s.late),
    (Counter, "roadie_frames_repaired_total", "Frames completed by parity.", |s| s.repaired),
    (Counter, "roadie_frames_undecodable_total", "Frames dropped for want of an earlier one.", |s| {
        s.undecodable
    }),
    (Counter, "roadie_keyframe_requests_total", "Keyframes asked of the encoder.", |s| s.keyframe_requests),
];

/// A family for each field, a sample of it for each status.
fn fields<'a, T: 'a, const N: usize, I: Iterator<Item = ([(&'a str, &'a str); N], &'a T)>>(
    text: &mut Text,
    fields: &[Field<T>],
    samples: impl Fn() -> I,
) {
    for (kind, name, help, value) in fields {
        let mut family = text.family(*kind, name, help);
        for (labels, status) in samples() {
            family.sample(&labels, value(status));
        }
    }
}

fn each(text: &mut Text, broadcasts: &[Named<'_>]) {
    let samples =
        || broadcasts.iter().map(|(broadcast, status)| ([("broadcast", broadcast.as_str())], *status));
    fields(text, &BROADCAST, samples);
    let help = "Half the smallest round trip of the measurement of the broadcast's clock.";
    let mut family = text.family(Gauge, "roadie_clock_error_seconds", help);
    for (broadcast, status) in broadcasts {
        if let Some(error) = status.clock_error_us {
            family.sample(&[("broadcast", broadcast)], error as f64 / 1e6);
        }
    }
}

fn uplinks(text: &mut Text, broadcasts: &[Named<'_>]) {
    use crate::broadcasts::UplinkStatus;
    const FIELDS: [Field<UplinkStatus>; 4] = [
        (Gauge, "roadie_uplink_connected", "1 while its connection stands.", |u| u64::from(u.connected)),
        (Counter, "roadie_uplink_calls_total", "How often it has called.", |u| u.calls),
        (Counter, "roadie_uplink_received_bytes_total", "Bond payload that came on it.", |u| u.bytes),
        (Counter, "roadie_uplink_received_datagrams_total", "Datagrams that came on it.", |u| u.datagrams),
    ];
    let uplinks: Vec<_> = broadcasts
        .iter()
        .flat_map(|(broadcast, status)| {
            status.uplinks.iter().map(|(path, uplink)| (broadcast.as_str(), path.to_string(), uplink))
        })
        .collect();
    let samples = || {
        uplinks
            .iter()
            .map(|(broadcast, path, uplink)| ([("broadcast", *broadcast), ("uplink", path)], *uplink))
    };
    fields(text, &FIELDS, samples);
}

/// What the viewers' own pages say.
fn viewers(text: &mut Text, broadcasts: &[Named<'_>]) {
    let mut family =
        text.family(Gauge, "roadie_reporting_viewers", "Viewers whose pages report their playing.");
    for (broadcast, status) in broadcasts {
        family.sample(&[("broadcast", broadcast)], status.quality_viewers);
    }
    let help = "Capture to canvas, of the viewer who reports the worst.";
    let mut family = text.family(Gauge, "roadie_worst_viewer_latency_seconds", help);
    for (broadcast, status) in broadcasts {
        if let Some(quality) = &status.quality {
            let latency = &quality.latency_ms;
            family.sample(&[("broadcast", broadcast), ("quantile", "0.5")], latency.p50 / 1e3);
            family.sample(&[("broadcast", broadcast), ("quantile", "0.95")], latency.p95 / 1e3);
        }
    }
    let help = "Freezes during the visit, of the viewer who reports the most.";
    let mut family = text.family(Gauge, "roadie_worst_viewer_stalls", help);
    for (broadcast, status) in broadcasts {
        if let Some(quality) = &status.quality {
            family.sample(&[("broadcast", broadcast)], quality.stalls);
        }
    }
}

fn kept(text: &mut Text, broadcasts: &[Named<'_>]) {
    let keeps = || {
        broadcasts.iter().filter_map(|(broadcast, status)| Some((broadcast.as_str(), status.keep.as_ref()?)))
    };
    let mut family = text.family(Gauge, "roadie_keep_groups", "Groups of the recording, by where they are.");
    for (broadcast, keep) in keeps() {
        for (state, count) in [("kept", keep.kept), ("missing", keep.missing), ("gone", keep.gone)] {
            family.sample(&[("broadcast", broadcast), ("state", state)], count);
        }
    }
    const FIELDS: [Field<KeepStatus>; 6] = [
        (Gauge, "roadie_keep_failed", "1 while nothing can be written.", |k| u64::from(k.failed.is_some())),
        (Gauge, "roadie_keep_file_bytes", "Bytes in this session's files.", |k| k.bytes),
        (Counter, "roadie_keep_healed_groups_total", "Groups that came by backfill.", |k| k.healed),
        (Counter, "roadie_keep_healed_bytes_total", "Bytes that came by backfill.", |k| k.healed_bytes),
        (Counter, "roadie_keep_refused_total", "What came and could not be used.", |k| k.refused),
        (Counter, "roadie_keep_left_out_total", "Frames and objects the disk was too slow for.", |k| {
            k.left_out
        }),
    ];
    fields(text, &FIELDS, || keeps().map(|(broadcast, keep)| ([("broadcast", broadcast)], keep)));
}
