//! The address of a stream from the network.

use std::fmt;
use std::str::FromStr;

use url::{Host, Url};

use crate::InputError;

/// How a stream comes here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Transport {
    /// SRT; we call the sender.
    SrtCaller,
    /// SRT; the sender calls us.
    SrtListener,
    /// RTSP, such as an IP camera.
    Rtsp,
    /// RTMP, pulled from a server.
    Rtmp,
    /// MPEG-TS over UDP, sent to us or to a multicast group.
    Udp,
}

/// A stream that can be opened: its address was checked.
#[derive(Clone, PartialEq, Eq)]
pub struct Stream {
    url: Url,
    transport: Transport,
}

impl Transport {
    /// An address of this kind.
    fn example(self) -> &'static str {
        match self {
            Transport::SrtCaller => {
                "srt://camera.local:9000 (we call), or srt://:9000 (we wait to be called)"
            }
            Transport::SrtListener => "srt://:9000",
            Transport::Rtsp => "rtsp://camera.local:554/stream1",
            Transport::Rtmp => "rtmp://server.example/app/name",
            Transport::Udp => "udp://:5000, or udp://239.1.1.1:5000 for multicast",
        }
    }

    /// Whether we wait for the sender, for as long as it takes.
    pub(crate) fn listens(self) -> bool {
        matches!(self, Transport::SrtListener | Transport::Udp)
    }
}

impl Stream {
    /// How it comes here.
    pub fn transport(&self) -> Transport {
        self.transport
    }

    /// The address as GStreamer takes it, with the secrets.
    pub(crate) fn uri(&self) -> String {
        let mut url = self.url.clone();
        if self.transport == Transport::SrtListener && !url.query_pairs().any(|(key, _)| key == "mode") {
            url.query_pairs_mut().append_pair("mode", "listener");
        }
        url.into()
    }
}

impl FromStr for Stream {
    type Err = InputError;

    fn from_str(text: &str) -> Result<Self, InputError> {
        let (scheme, rest) = text.split_once("://").unwrap_or((text, ""));
        let kind = match scheme {
            "srt" => Transport::SrtCaller,
            "rtsp" | "rtsps" => Transport::Rtsp,
            "rtmp" | "rtmps" => Transport::Rtmp,
            "udp" => Transport::Udp,
            _ => return Err(InputError::Unknown(text.to_owned())),
        };
        // Only what stands before the path can be told without telling secrets.
        let shown = format!("{scheme}://{}", host_part(rest));
        let bad = |reason: &str| InputError::Stream {
            text: shown.clone(),
            reason: reason.to_owned(),
            example: kind.example(),
        };
        // A port alone means every address of this machine, which a URL cannot say.
        let full = match rest.starts_with(':') && matches!(scheme, "srt" | "udp") {
            true => format!("{scheme}://0.0.0.0{rest}"),
            false => text.to_owned(),
        };
        let url = Url::parse(&full).map_err(|error| bad(&error.to_string()))?;
        let host =
            url.host().filter(|host| *host != Host::Domain("")).ok_or_else(|| bad("it has no host"))?;
        let needs_port = matches!(kind, Transport::SrtCaller | Transport::Udp);
        match url.port() {
            Some(0) => return Err(bad("port 0 is none")),
            None if needs_port => return Err(bad("it has no port")),
            _ => {}
        }
        let needs_path = kind == Transport::Rtmp;
        if needs_path && url.path().trim_matches('/').is_empty() {
            return Err(bad("it has no application and name"));
        }
        let mode = url.query_pairs().find(|(key, _)| key == "mode").map(|(_, mode)| mode.into_owned());
        let transport = match (kind, mode.as_deref()) {
            (Transport::SrtCaller, None) if is_here(&host) => Transport::SrtListener,
            (Transport::SrtCaller, Some("listener")) => Transport::SrtListener,
            (Transport::SrtCaller, None | Some("caller")) => Transport::SrtCaller,
            (Transport::SrtCaller, Some(_)) => return Err(bad("its mode is neither caller nor listener")),
            (kind, _) => kind,
        };
        Ok(Stream { url, transport })
    }
}

impl fmt::Display for Stream {
    /// Without passwords and passphrases.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut url = self.url.clone();
        if url.password().is_some() {
            let _ = url.set_password(Some("***"));
        }
        if url.query_pairs().any(|(key, _)| key == "passphrase") {
            let pairs: Vec<_> = url.query_pairs().into_owned().collect();
            url.query_pairs_mut().clear().extend_pairs(
                pairs
                    .iter()
                    .map(|(key, value)| (key, if key == "passphrase" { "***" } else { value.as_str() })),
            );
        }
        let text = url.as_str();
        match text.split_once("://0.0.0.0:") {
            Some((scheme, rest)) => write!(f, "{scheme}://:{rest}"),
            None => f.write_str(text),
        }
    }
}

impl fmt::Debug for Stream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Stream({self})")
    }
}

/// Whether this is an address that only a listener can have.
fn is_here(host: &Host<&str>) -> bool {
    match host {
        Host::Ipv4(address) => address.is_unspecified(),
        Host::Ipv6(address) => address.is_unspecified(),
        // Schemes that browsers do not know keep numbers as text.
        Host::Domain(name) => *name == "0.0.0.0",
    }
}

/// Host and port of what follows `://`, without user, password, path and query.
fn host_part(rest: &str) -> &str {
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    authority.rsplit_once('@').map_or(authority, |(_, host)| host)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stream(text: &str) -> Stream {
        text.parse().unwrap_or_else(|error| panic!("{text}: {error}"))
    }

    #[test]
    fn who_calls_whom_follows_from_the_address() {
        for (text, transport, uri) in [
            ("srt://camera.local:9000", Transport::SrtCaller, "srt://camera.local:9000"),
            ("srt://:9000", Transport::SrtListener, "srt://0.0.0.0:9000?mode=listener"),
            ("srt://[::]:9000", Transport::SrtListener, "srt://[::]:9000?mode=listener"),
            (
                "srt://0.0.0.0:9000?latency=80",
                Transport::SrtListener,
                "srt://0.0.0.0:9000?latency=80&mode=listener",
            ),
            (
                "srt://10.0.0.7:9000?mode=listener",
                Transport::SrtListener,
                "srt://10.0.0.7:9000?mode=listener",
            ),
            ("rtsp://camera.local/live", Transport::Rtsp, "rtsp://camera.local/live"),
            ("rtmp://server.example/app/name", Transport::Rtmp, "rtmp://server.example/app/name"),
            ("udp://:5000", Transport::Udp, "udp://0.0.0.0:5000"),
            ("udp://239.1.1.1:5000", Transport::Udp, "udp://239.1.1.1:5000"),
        ] {
            let stream = stream(text);
            assert_eq!((stream.transport(), stream.uri().as_str()), (transport, uri));
        }
    }

    #[test]
    fn what_cannot_be_opened_says_how_to_write_it() {
        for (text, reason) in [
            ("srt://camera.local", "no port"),
            ("srt://camera.local:0", "port 0"),
            ("srt://:99999", "port"),
            ("srt://:", "no port"),
            ("srt://", "no host"),
            ("srt://a:9000?mode=rendezvous", "neither caller nor listener"),
            ("udp://:x", "port"),
            ("udp://239.1.1.1", "no port"),
            ("rtsp:///live", "no host"),
            ("rtmp://server.example", "no application"),
        ] {
            let error = text.parse::<Stream>().expect_err(text).to_string();
            assert!(error.contains(reason) && error.contains("; write it as "), "{text}: {error}");
        }
        assert_eq!("http://x/y".parse::<Stream>(), Err(InputError::Unknown("http://x/y".into())));
    }

    #[test]
    fn secrets_are_never_shown() {
        for text in [
            "rtsp://me:hidden@camera.local/live",
            "srt://a:9000?passphrase=hidden&latency=80",
            "rtsp://me:hidden@camera.local:x/live",
            "srt://a?passphrase=hidden",
        ] {
            let shown = match text.parse::<Stream>() {
                Ok(stream) => format!("{stream} {stream:?}"),
                Err(error) => format!("{error} {error:?}"),
            };
            assert!(!shown.contains("hidden"), "{shown}");
        }
        assert!(stream("srt://a:9000?passphrase=hidden").uri().contains("hidden"));
    }
}
