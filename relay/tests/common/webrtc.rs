//! A WebRTC client on str0m, and HTTP as WHIP and WHEP need it.

#![allow(dead_code)] // Each test binary uses its own part.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use str0m::change::{SdpAnswer, SdpPendingOffer};
use str0m::format::Codec;
use str0m::media::{Direction, Frequency, KeyframeRequestKind, MediaData, MediaKind, MediaTime, Mid};
use str0m::net::{Protocol, Receive};
use str0m::rtp::Extension;
use str0m::{Candidate, Event, IceConnectionState, IceCreds, Input, Output, Rtc};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UdpSocket;

use crate::common::PATIENCE;

/// An answer of HTTP.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    head: String,
    pub body: String,
}

impl Answer {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().find_map(|line| {
            let (found, value) = line.split_once(": ")?;
            found.eq_ignore_ascii_case(name).then_some(value)
        })
    }
}

/// A request, with these lines of headers.
pub async fn request(http: SocketAddr, method: &str, path: &str, headers: &str, body: &[u8]) -> Answer {
    let mut stream = tokio::net::TcpStream::connect(http).await.unwrap();
    let head = format!(
        "{method} {path} HTTP/1.1\r\nHost: relay.example\r\nConnection: close\r\nContent-Length: {}\r\n{headers}\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    // Who is refused early may not be read to the end.
    let _ = stream.write_all(body).await;
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer).await;
    let answer = String::from_utf8(answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or_else(|| panic!("{method} {path}: {answer:?}"));
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    Answer { status, head: head.to_owned(), body: body.to_owned() }
}

pub const SDP: &str = "Content-Type: application/sdp\r\n";

/// An offer.
pub async fn offer(http: SocketAddr, path: &str, headers: &str, sdp: &str) -> Answer {
    request(http, "POST", path, &format!("{SDP}{headers}"), sdp.as_bytes()).await
}

/// A client, not yet connected.
pub struct Client {
    pub rtc: Rtc,
    socket: UdpSocket,
    pub offer: String,
    pending: Option<SdpPendingOffer>,
    pub video: Mid,
    pub audio: Mid,
    /// What came.
    pub received: Vec<MediaData>,
    pub keyframe_requests: usize,
    pub state: IceConnectionState,
    pub is_connected: bool,
    pub is_closed: bool,
    /// From the answer.
    pub location: String,
    pub etag: String,
    answer: String,
}

impl Client {
    /// With an offer to send or to receive.
    pub async fn new(direction: Direction) -> Self {
        Self::with(direction, |_| ()).await
    }

    pub async fn with(direction: Direction, change: impl FnOnce(&mut str0m::format::CodecConfig)) -> Self {
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let mut config = Rtc::builder().set_extension(5, Extension::PlayoutDelay);
        change(config.codec_config());
        let mut rtc = config.build(Instant::now());
        rtc.add_local_candidate(Candidate::host(socket.local_addr().unwrap(), "udp").unwrap());
        let mut change = rtc.sdp_api();
        let video = change.add_media(MediaKind::Video, direction, None, None, None);
        let audio = change.add_media(MediaKind::Audio, direction, None, None, None);
        let (offer, pending) = change.apply().unwrap();
        Self {
            rtc,
            socket,
            offer: offer.to_sdp_string(),
            pending: Some(pending),
            video,
            audio,
            received: Vec::new(),
            keyframe_requests: 0,
            state: IceConnectionState::New,
            is_connected: false,
            is_closed: false,
            location: String::new(),
            etag: String::new(),
            answer: String::new(),
        }
    }

    /// Makes the offer, and takes the answer.
    pub async fn call(mut self, http: SocketAddr, path: &str, headers: &str) -> Result<Self, Answer> {
        let answer = offer(http, path, headers, &self.offer).await;
        if answer.status != 201 {
            return Err(answer);
        }
        assert_eq!(answer.header("content-type"), Some("application/sdp"));
        self.location = answer.header("location").unwrap().to_owned();
        self.etag = answer.header("etag").unwrap().to_owned();
        let sdp = SdpAnswer::from_sdp_string(&answer.body).unwrap();
        self.answer = answer.body;
        self.rtc.sdp_api().accept_answer(self.pending.take().unwrap(), sdp).unwrap();
        Ok(self)
    }

    /// Goes on until what is waited for has come.
    pub async fn until(&mut self, what: &str, mut done: impl FnMut(&mut Self) -> bool) {
        let end = Instant::now() + PATIENCE;
        while !done(self) {
            assert!(Instant::now() < end, "waited in vain for {what}: {:?}", self.state);
            self.step().await;
        }
    }

    /// Goes on for some time.
    pub async fn go_on(&mut self, time: Duration) {
        let end = Instant::now() + time;
        while Instant::now() < end {
            self.step().await;
        }
    }

    pub async fn step(&mut self) {
        let wake = loop {
            match self.rtc.poll_output().unwrap() {
                Output::Timeout(at) => break at,
                Output::Transmit(transmit) => {
                    let _ = self.socket.send_to(&transmit.contents, transmit.destination).await;
                }
                Output::Event(event) => self.hear(event),
            }
        };
        let wake = wake.min(Instant::now() + Duration::from_millis(10));
        let mut buffer = [0; 2_000];
        let input = tokio::select! {
            received = self.socket.recv_from(&mut buffer) => match received {
                Ok((length, source)) => {
                    let to = self.socket.local_addr().unwrap();
                    let receive = Receive::new(Protocol::Udp, source, to, &buffer[..length]);
                    receive.map_or_else(|_| Input::Timeout(Instant::now()), |r| Input::Receive(Instant::now(), r))
                }
                Err(_) => Input::Timeout(Instant::now()),
            },
            () = tokio::time::sleep_until(wake.into()) => Input::Timeout(Instant::now()),
        };
        // What comes after the end is no fault.
        if self.rtc.handle_input(input).is_err() {
            self.is_closed = true;
        }
    }

    fn hear(&mut self, event: Event) {
        match event {
            Event::Connected => self.is_connected = true,
            Event::IceConnectionStateChange(state) => self.state = state,
            Event::MediaData(data) => self.received.push(data),
            Event::KeyframeRequest(_) => self.keyframe_requests += 1,
            Event::Closed => self.is_closed = true,
            _ => {}
        }
        self.is_closed |= !self.rtc.is_alive();
    }

    /// What came on one track since the last time.
    pub fn take(&mut self, mid: Mid) -> Vec<MediaData> {
        let (taken, left) = std::mem::take(&mut self.received).into_iter().partition(|data| data.mid == mid);
        self.received = left;
        taken
    }

    pub fn ask_for_keyframe(&mut self) {
        let mut writer = self.rtc.writer(self.video).unwrap();
        writer.request_keyframe(None, KeyframeRequestKind::Pli).unwrap();
    }

    /// Writes a frame; `time` since the beginning.
    pub fn write(&mut self, mid: Mid, codec: Codec, time: Duration, data: &[u8]) {
        let Some(writer) = self.rtc.writer(mid) else { return };
        let fits = writer.payload_params().find(|params| {
            let mode = params.spec().format.packetization_mode;
            params.spec().codec == codec && (codec != Codec::H264 || mode == Some(1))
        });
        let pt = fits.unwrap_or_else(|| panic!("no {codec:?}")).pt();
        let rate = if codec == Codec::Opus { Frequency::FORTY_EIGHT_KHZ } else { Frequency::NINETY_KHZ };
        let time = MediaTime::new(time.as_micros() as u64, Frequency::MICROS).rebase(rate);
        writer.write(pt, Instant::now(), time, data).unwrap();
    }

    /// What a client does that has another network: other words, and another port.
    pub async fn move_to_another_port(&mut self, http: SocketAddr) -> Answer {
        let mut change = self.rtc.sdp_api();
        let words = change.ice_restart(false);
        let (_, pending) = change.apply().unwrap();
        self.socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let fragment = fragment(&words);
        let headers = "Content-Type: application/trickle-ice-sdpfrag\r\nIf-Match: *\r\n";
        let answer = request(http, "PATCH", &self.location, headers, fragment.as_bytes()).await;
        if answer.status == 200 {
            let word = |name: &str| {
                let line = answer.body.lines().find_map(|line| line.strip_prefix(name));
                line.unwrap_or_else(|| panic!("{name} in {}", answer.body)).to_owned()
            };
            let (ufrag, pwd) = (word("a=ice-ufrag:"), word("a=ice-pwd:"));
            let replace = |line: &str| match line {
                line if line.starts_with("a=ice-ufrag:") => format!("a=ice-ufrag:{ufrag}\r\n"),
                line if line.starts_with("a=ice-pwd:") => format!("a=ice-pwd:{pwd}\r\n"),
                // They may name the old words.
                line if line.starts_with("a=candidate:") => String::new(),
                line => format!("{line}\r\n"),
            };
            let sdp: String = self.answer.lines().map(replace).collect();
            self.rtc.sdp_api().accept_answer(pending, SdpAnswer::from_sdp_string(&sdp).unwrap()).unwrap();
            self.rtc.add_local_candidate(Candidate::host(self.socket.local_addr().unwrap(), "udp").unwrap());
            for candidate in answer.body.lines().filter_map(|line| line.strip_prefix("a=candidate:")) {
                let candidate = Candidate::from_sdp_string(&format!("candidate:{candidate}")).unwrap();
                self.rtc.add_remote_candidate(candidate);
            }
            self.etag = answer.header("etag").unwrap().to_owned();
        }
        answer
    }

    /// The relay's, from its answer.
    pub fn media_port(&self) -> u16 {
        let line = self.answer.lines().find(|line| line.starts_with("a=candidate:")).unwrap();
        line.split(' ').nth(5).unwrap().parse().unwrap()
    }

    pub fn port(&self) -> u16 {
        self.socket.local_addr().unwrap().port()
    }
}

pub fn fragment(words: &IceCreds) -> String {
    format!(
        "a=ice-ufrag:{}\r\na=ice-pwd:{}\r\nm=audio 9 RTP/AVP 0\r\na=mid:0\r\na=end-of-candidates\r\n",
        words.ufrag, words.pass
    )
}
