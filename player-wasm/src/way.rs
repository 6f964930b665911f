//! The ways by which a show comes to a browser.

/// A way that the page may ask for: `?transport=`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// MoQ over WebTransport: lost packets hold up only what they carried.
    WebTransport,
    /// MoQ over WebSocket: goes where UDP does not.
    WebSocket,
}

impl Way {
    /// All of them, the best first.
    pub const ALL: [Way; 2] = [Way::WebTransport, Way::WebSocket];

    /// As in the page's address.
    pub fn name(self) -> &'static str {
        match self {
            Way::WebTransport => "webtransport",
            Way::WebSocket => "websocket",
        }
    }

    /// `None`: there is no such way.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|way| way.name() == name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        for way in Way::ALL {
            assert_eq!(Way::from_name(way.name()), Some(way));
        }
        assert_eq!(Way::from_name("pigeon"), None);
    }
}
