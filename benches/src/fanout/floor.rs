//! The least that the same bytes can cost on this machine: sealed with AES-128-GCM and given to the kernel in trains of
//! packets, and nothing else.

use std::net::{Ipv4Addr, UdpSocket};
use std::time::{Duration, Instant};

use anyhow::Context;
use quinn::udp::{Transmit, UdpSocketState};
use ring::aead::{AES_128_GCM, Aad, LessSafeKey, Nonce, UnboundKey};

/// Payload of a packet.
const PACKET: usize = 1_200;

/// Packets that the kernel takes at once (GSO).
const TRAIN: usize = 40;

/// How long it is measured.
const LENGTH: Duration = Duration::from_secs(2);

/// CPU seconds for a gigabit, sent to so many sockets of this machine in turns, which nobody reads.
pub fn measure(viewers: usize) -> anyhow::Result<f64> {
    // A thread of its own, whose time the kernel counts.
    let measured = std::thread::spawn(move || send(viewers)).join();
    measured.map_err(|_| anyhow::anyhow!("the floor broke down"))?
}

fn send(viewers: usize) -> anyhow::Result<f64> {
    let bind = || UdpSocket::bind((Ipv4Addr::LOCALHOST, 0));
    let socket = bind()?;
    let sinks = (0..viewers.max(1)).map(|_| bind()).collect::<Result<Vec<_>, _>>()?;
    let places = sinks.iter().map(UdpSocket::local_addr).collect::<Result<Vec<_>, _>>()?;
    let state = UdpSocketState::new((&socket).into())?;
    let train = TRAIN.min(state.max_gso_segments());
    let key = UnboundKey::new(&AES_128_GCM, &[7; 16]).map_err(|_| anyhow::anyhow!("no AES"))?;
    let key = LessSafeKey::new(key);
    let tag = AES_128_GCM.tag_len();
    let mut buffer = vec![0; train * PACKET];
    let (begin, started) = (thread_seconds()?, Instant::now());
    let (mut bytes, mut number) = (0, 0_u64);
    while started.elapsed() < LENGTH {
        for place in &places {
            for packet in buffer.chunks_mut(PACKET) {
                number += 1;
                let mut nonce = [0; 12];
                nonce[4..].copy_from_slice(&number.to_be_bytes());
                let (payload, end) = packet.split_at_mut(PACKET - tag);
                let nonce = Nonce::assume_unique_for_key(nonce);
                let sealed = key.seal_in_place_separate_tag(nonce, Aad::empty(), payload);
                end.copy_from_slice(sealed.map_err(|_| anyhow::anyhow!("AES refuses"))?.as_ref());
            }
            let segment_size = (train > 1).then_some(PACKET);
            let transmit =
                Transmit { destination: *place, ecn: None, contents: &buffer, segment_size, src_ip: None };
            state.send((&socket).into(), &transmit)?;
            bytes += buffer.len();
        }
    }
    Ok((thread_seconds()? - begin) / (bytes as f64 * 8e-9))
}

fn thread_seconds() -> anyhow::Result<f64> {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat")?;
    let nanos: u64 = text.split_whitespace().next().context("no schedstat")?.parse()?;
    Ok(nanos as f64 / 1e9)
}
