//! Random operations, in any order, with garbage in between: no panic, no endless loop, bounded memory,
//! and what comes out went in.

extern crate roadie_bond as bond;

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use bond::{Class, Cost, Delivery, PathId, Receiver, ReceiverConfig, Sender, SenderConfig};
use bytes::Bytes;
use media::{Frame, FrameId, Time, TrackId};
use sim::Rng;

/// When every run begins, by the sender's clock.
const START: Time = Time::from_millis(1_790_000_000_000);

/// Runs `test` with twenty seeds, or with the one in `ROADIE_SEED`; a failure tells its seed.
fn seeds(test: impl Fn(u64)) {
    let chosen = std::env::var("ROADIE_SEED").ok().map(|seed| seed.parse().expect("ROADIE_SEED is a number"));
    for seed in chosen.map_or(1..21, |seed: u64| seed..seed + 1) {
        // Shown where the test fails, and then the last line is the one that failed.
        println!("ROADIE_SEED={seed} replays this run alone");
        test(seed);
    }
}

const CLASSES: [Class; 5] = [Class::Control, Class::Audio, Class::Keyframe, Class::Delta, Class::Droppable];

/// A network that loses, repeats, reorders and spoils what it carries.
#[derive(Default)]
struct Mess {
    up: VecDeque<(PathId, Bytes)>,
    down: VecDeque<(PathId, Bytes)>,
}

/// Takes a random one; sometimes leaves it to come again, sometimes spoils it.
fn take(queue: &mut VecDeque<(PathId, Bytes)>, rng: &mut Rng) -> Option<(PathId, Vec<u8>, bool)> {
    let index = rng.below(queue.len().min(6) as u64) as usize;
    let (path, data) = if rng.chance(0.05) { queue.get(index).cloned()? } else { queue.remove(index)? };
    let mut data = data.to_vec();
    let spoil = rng.chance(0.05);
    if spoil {
        for _ in 0..1 + rng.below(3) {
            match rng.below(3) {
                0 => data.truncate(rng.below(data.len() as u64 + 1) as usize),
                1 => data.push(rng.next_u64() as u8),
                _ => {
                    let at = rng.below(data.len() as u64) as usize;
                    data.get_mut(at).into_iter().for_each(|byte| *byte = rng.next_u64() as u8);
                }
            }
        }
    }
    let path = if rng.chance(0.02) { PathId(rng.below(12) as u8) } else { path };
    Some((path, data, spoil))
}

#[test]
fn random_operations_do_no_harm() {
    seeds(|seed| {
        let mut rng = Rng::new(seed);
        let mut sender = Sender::new(SenderConfig {
            deadline: Duration::from_millis(150 + rng.below(700)),
            live: rng.below(4) > 0,
            ..Default::default()
        });
        let mut receiver =
            Receiver::new(ReceiverConfig { deadline: Duration::from_millis(150 + rng.below(700)) });
        let mut mess = Mess::default();
        let (mut now, mut theirs) = (START, Time::from_millis(rng.below(1 << 42)));
        let mut sent: BTreeMap<FrameId, Bytes> = BTreeMap::new();
        let mut orders = [0u64; 4];
        let mut spoiled = false;
        let mut delivered = 0;
        // Messages there and whether they came; messages back, and how many came.
        let (mut messages, mut answers, mut answered) = (Vec::new(), 0u64, 0u64);
        let clean = seed % 2 == 0;
        for path in 0..4 {
            sender.add_path(PathId(path), 1200, now);
            receiver.add_path(PathId(path), theirs);
        }
        for _ in 0..6_000 {
            let step =
                Duration::from_micros(if rng.chance(0.01) { rng.below(900_000) } else { rng.below(6_000) });
            (now, theirs) = (now + step, theirs + step);
            let path = PathId(rng.below(10) as u8);
            match rng.below(1000) {
                0..2 => sender.add_path(path, 1100 + rng.below(200) as usize, now),
                2..3 => sender.remove_path(path, now),
                3..5 => receiver.add_path(path, theirs),
                5..6 => receiver.remove_path(path, theirs),
                6..9 => {
                    let costs = [Cost::Free, Cost::Priced(rng.below(9) as u32), Cost::LastResort];
                    sender.set_cost(path, costs[rng.below(3) as usize]);
                }
                9..20 => {
                    let number = (messages.len() as u64).to_be_bytes();
                    if sender.send_message(Bytes::copy_from_slice(&number), now).is_ok() {
                        messages.push(false);
                    }
                    let len = rng.below(120_000) as usize;
                    let _ = sender.send_object(vec![3; len].into(), now);
                    let number = answers.to_be_bytes();
                    if receiver.send_message(Bytes::copy_from_slice(&number)).is_ok() {
                        answers += 1;
                    }
                }
                20..200 => {
                    let track = rng.below(orders.len() as u64);
                    let order = &mut orders[track as usize];
                    let id = FrameId {
                        track: TrackId(track as u8),
                        group: *order / 7,
                        frame: (*order % 7) as u32,
                    };
                    *order += 1;
                    let most = if rng.chance(0.02) { 3 << 20 } else { 20_000 };
                    let bytes = rng.below(most);
                    let data: Bytes = vec![rng.next_u64() as u8; bytes as usize].into();
                    let early = Duration::from_micros(rng.below(500_000));
                    let capture_time = if rng.chance(0.9) { now - early } else { now + early };
                    let keyframe = rng.chance(0.1);
                    let class = CLASSES[rng.below(5) as usize];
                    sender.push(&Frame { id, capture_time, keyframe, data: data.clone() }, class, now);
                    sent.insert(id, data);
                }
                200..550 => {
                    for _ in 0..rng.below(16) {
                        let Some((path, data, spoil)) = take(&mut mess.up, &mut rng) else { break };
                        if spoil && clean {
                            continue;
                        }
                        spoiled |= spoil;
                        let _ = receiver.handle_datagram(path, &data, theirs);
                    }
                }
                550..900 => {
                    for _ in 0..rng.below(16) {
                        let Some((path, data, spoil)) = take(&mut mess.down, &mut rng) else { break };
                        if !(spoil && clean) {
                            let _ = sender.handle_datagram(path, &data, now);
                        }
                    }
                }
                900..920 => {
                    let noise: Vec<u8> = (0..rng.below(80)).map(|_| rng.next_u64() as u8).collect();
                    let _ = sender.handle_datagram(path, &noise, now);
                    let _ = receiver.handle_datagram(path, &noise, theirs);
                }
                920..960 => sender.handle_timeout(now),
                _ => receiver.handle_timeout(theirs),
            }
            for _ in 0..100 {
                let Some(transmit) = sender.poll_transmit(now) else { break };
                assert!(transmit.data.len() <= bond::MAX_DATAGRAM);
                mess.up.push_back((transmit.path, transmit.data));
            }
            while let Some(transmit) = receiver.poll_transmit(theirs) {
                assert!(transmit.data.len() <= bond::MAX_DATAGRAM);
                mess.down.push_back((transmit.path, transmit.data));
            }
            for queue in [&mut mess.up, &mut mess.down] {
                while queue.len() > 300 {
                    queue.swap_remove_back(rng.below(300) as usize);
                }
            }
            while sender.poll_event().is_some() {}
            while let Some(delivery) = receiver.poll_delivery() {
                match delivery {
                    Delivery::Frame { frame, .. } => {
                        delivered += 1;
                        assert!(spoiled || sent.get(&frame.id) == Some(&frame.data), "{:?}", frame.id);
                    }
                    Delivery::Message(number) if !spoiled => {
                        let number = u64::from_be_bytes(number[..].try_into().unwrap()) as usize;
                        assert!(messages[..number].iter().all(|came| *came) && !messages[number]);
                        messages[number] = true;
                    }
                    _ => {}
                }
            }
            while let Some(number) = sender.poll_message() {
                assert!(spoiled || number[..] == answered.to_be_bytes());
                answered += 1;
            }
            let _ = (sender.poll_timeout(), receiver.poll_timeout(), sender.clock(), sender.target_rate());
            let stats = receiver.stats();
            assert!(stats.buffered_bytes <= 16 << 20 && stats.buffered_frames <= 32 * 256, "{stats:?}");
            let stats = sender.stats();
            assert!(stats.queued_bytes <= 12 << 20, "{stats:?}");
            assert!(stats.paths.iter().all(|path| path.outstanding_bytes <= 4 << 20 && path.rate >= 100_000));
        }
        assert!(spoiled != clean);
        assert!(answered > 3, "answers get through: {answered}");
        assert!(spoiled || messages.iter().any(|came| *came), "so do messages");
        assert!(delivered > 10, "something gets through in spite of all: {delivered}");
    });
}
