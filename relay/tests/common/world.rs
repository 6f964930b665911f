//! A venue, a provider and an edge as three network namespaces: real interfaces that can be pulled.
//!
//! ```text
//!   venue  usbN 10.N.0.2 ---- 10.N.0.1 provider 10.9.0.1 ---- 10.9.0.2 edge
//!               fdN::2 ------ fdN::1            fd09::1 ------ fd09::2
//! ```

use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};

use serde_json::Value;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::Child;

use crate::common::{Dir, PATIENCE, until};

/// The edge's UDP port.
pub const PORT: u16 = 4443;

/// The edge's name, in both families.
pub const HOST: &str = "edge.test";

/// One experiment's network; gone when dropped.
pub struct World {
    id: String,
    dir: Dir,
    relay: Option<Child>,
    http: u16,
    fingerprint: String,
}

fn succeeds(program: &str, args: &[&str]) -> bool {
    Command::new(program)
        .args(args)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success())
}

impl World {
    /// `None`, with the reason printed, where this machine does not allow it.
    pub fn new(name: &str) -> Option<Self> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let id = format!("rd{}x{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let world = Self { id, dir: Dir::new(name), relay: None, http: 0, fingerprint: String::new() };
        if !succeeds("ip", &["netns", "add", &world.ns("venue")]) {
            println!("skipped: no network namespaces here; needs iproute2 and root");
            return None;
        }
        for end in ["provider", "edge"] {
            assert!(succeeds("ip", &["netns", "add", &world.ns(end)]));
        }
        for end in ["venue", "provider", "edge"] {
            world.ip(end, "link set lo up");
        }
        world.inside(
            "provider",
            "sysctl",
            &["-qw", "net.ipv4.ip_forward=1", "net.ipv6.conf.all.forwarding=1"],
        );
        let (provider, edge) = (world.ns("provider"), world.ns("edge"));
        let cable = [
            "link", "add", "edge", "netns", &provider, "type", "veth", "peer", "name", "eth0", "netns", &edge,
        ];
        assert!(succeeds("ip", &cable));
        world.ip("provider", "addr add 10.9.0.1/24 dev edge");
        world.ip("provider", "addr add fd09::1/64 dev edge nodad");
        world.ip("provider", "link set edge up");
        world.ip("edge", "addr add 10.9.0.2/24 dev eth0");
        world.ip("edge", "addr add fd09::2/64 dev eth0 nodad");
        world.ip("edge", "link set eth0 up");
        world.ip("edge", "route add default via 10.9.0.1");
        world.ip("edge", "route add default via fd09::1");
        // `ip netns exec` lays these over /etc.
        let etc = world.etc();
        std::fs::create_dir_all(&etc).unwrap();
        std::fs::write(etc.join("hosts"), format!("127.0.0.1 localhost\nfd09::2 {HOST}\n10.9.0.2 {HOST}\n"))
            .unwrap();
        Some(world)
    }

    fn ns(&self, end: &str) -> String {
        format!("{}-{end}", self.id)
    }

    fn etc(&self) -> PathBuf {
        PathBuf::from("/etc/netns").join(self.ns("venue"))
    }

    fn inside(&self, end: &str, program: &str, args: &[&str]) {
        let ns = self.ns(end);
        let args = [&["netns", "exec", &ns, program], args].concat();
        let output = Command::new("ip").args(&args).stdin(Stdio::null()).output().unwrap();
        assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
    }

    /// `ip` in one of the namespaces.
    pub fn ip(&self, end: &str, words: &str) {
        let ns = self.ns(end);
        let args: Vec<&str> = ["-n", &ns].into_iter().chain(words.split(' ')).collect();
        let output = Command::new("ip").args(&args).stdin(Stdio::null()).output().unwrap();
        assert!(output.status.success(), "ip {words}: {}", String::from_utf8_lossy(&output.stderr));
    }

    /// Plugs `usbN` in: cable only.
    pub fn plug(&self, n: u8) {
        let (venue, provider) = (self.ns("venue"), self.ns("provider"));
        let (here, there) = (format!("usb{n}"), format!("p{n}"));
        let cable = [
            "link", "add", &here, "netns", &venue, "type", "veth", "peer", "name", &there, "netns", &provider,
        ];
        assert!(succeeds("ip", &cable));
        self.ip("provider", &format!("addr add 10.{n}.0.1/24 dev p{n}"));
        self.ip("provider", &format!("addr add fd0{n}::1/64 dev p{n} nodad"));
        self.ip("provider", &format!("link set p{n} up"));
        self.ip("venue", &format!("link set usb{n} up"));
    }

    /// Gives `usbN` its IPv4 address and default route.
    pub fn dhcp(&self, n: u8) {
        self.ip("venue", &format!("addr add 10.{n}.0.2/24 dev usb{n}"));
        self.ip("venue", &format!("route add default via 10.{n}.0.1 dev usb{n} metric {n}00"));
    }

    /// The same of IPv6.
    pub fn slaac(&self, n: u8) {
        self.ip("venue", &format!("addr add fd0{n}::2/64 dev usb{n} nodad"));
        self.ip("venue", &format!("route add default via fd0{n}::1 dev usb{n} metric {n}00"));
    }

    /// Takes `usbN` away, as if its stick was pulled.
    pub fn unplug(&self, n: u8) {
        self.ip("venue", &format!("link del usb{n}"));
    }

    /// The provider swallows what comes on `usbN` towards the edge's port.
    pub fn block(&self, n: u8, blocked: bool) {
        let verb = if blocked { "add" } else { "del" };
        self.ip("provider", &format!("rule {verb} pref 10 iif p{n} ipproto udp dport {PORT} blackhole"));
    }

    /// Starts a real `roadie-relay`; `environment` is added to its own.
    pub async fn edge(&mut self, environment: &[(&str, String)]) {
        let mut command = tokio::process::Command::new("ip");
        command
            .args(["netns", "exec", &self.ns("edge"), env!("CARGO_BIN_EXE_roadie-relay")])
            .args([
                "--listen",
                &format!("[::]:{PORT}"),
                "--http",
                "127.0.0.1:0",
                "--token",
                "secret",
                "--state",
            ])
            .arg(self.dir.0.join("relay"))
            .envs(environment.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .kill_on_drop(true);
        let mut child = command.spawn().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut next = async || lines.next_line().await.unwrap().expect("the relay ended at its start");
        next().await;
        self.http = next().await.split([':', '/']).nth(4).unwrap().parse().unwrap();
        self.fingerprint = next().await.split(' ').next_back().unwrap().to_owned();
        self.relay = Some(child);
    }

    /// What the edge says of the show.
    pub async fn at_edge(&self) -> Value {
        let get = format!(
            "exec 3<>/dev/tcp/127.0.0.1/{}; printf 'GET /api/status HTTP/1.0\\r\\nHost: x\\r\\n\\r\\n' >&3; cat <&3",
            self.http
        );
        let output = tokio::process::Command::new("ip")
            .args(["netns", "exec", &self.ns("edge"), "bash", "-c", &get])
            .stdin(Stdio::null())
            .output()
            .await
            .unwrap();
        let answer = String::from_utf8_lossy(&output.stdout).into_owned();
        let body = answer.split_once("\r\n\r\n").map_or("", |(_, body)| body);
        let mut json: Value = serde_json::from_str(body).unwrap_or(Value::Null);
        json["broadcasts"]["show"].take()
    }

    /// Frames that the edge has published so far.
    pub async fn published(&self) -> u64 {
        self.at_edge().await["published"].as_u64().unwrap_or(0)
    }

    /// Starts a venue: this test program again, inside the namespace.
    pub fn venue(&self, uplinks: &[&str], environment: &[(&str, String)]) -> VenueProcess {
        let mut command = tokio::process::Command::new("ip");
        command
            .args(["netns", "exec", &self.ns("venue")])
            .arg(std::env::current_exe().unwrap())
            .args(["--exact", "the_venue_itself", "--ignored", "--nocapture"])
            .env("ROADIE_TEST_UPLINKS", uplinks.join(" "))
            .env("ROADIE_TEST_FINGERPRINT", &self.fingerprint)
            .envs(environment.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .kill_on_drop(true);
        let mut child = command.spawn().unwrap();
        let latest = Arc::new(Mutex::new(Value::Null));
        let all: Arc<Mutex<Vec<String>>> = Arc::default();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let (seen, notices) = (latest.clone(), all.clone());
        tokio::spawn(async move {
            while let Ok(Some(line)) = lines.next_line().await {
                if let Some(json) = line.strip_prefix("state ") {
                    *seen.lock().unwrap() = serde_json::from_str(json).unwrap();
                } else if let Some(notice) = line.strip_prefix("notice ") {
                    notices.lock().unwrap().push(notice.to_owned());
                }
            }
        });
        VenueProcess { child, latest, notices: all }
    }
}

impl Drop for World {
    fn drop(&mut self) {
        self.relay = None;
        for end in ["venue", "provider", "edge"] {
            succeeds("ip", &["netns", "del", &self.ns(end)]);
        }
        let _ = std::fs::remove_dir_all(self.etc());
        // Only when this was the last one.
        let _ = std::fs::remove_dir("/etc/netns");
    }
}

/// A venue that runs.
pub struct VenueProcess {
    child: Child,
    latest: Arc<Mutex<Value>>,
    notices: Arc<Mutex<Vec<String>>>,
}

impl VenueProcess {
    /// Its last words about the uplink of this name.
    pub fn uplink(&self, name: &str) -> Value {
        let latest = self.latest.lock().unwrap();
        let mut uplinks = latest["uplinks"].as_array().into_iter().flatten();
        uplinks.rfind(|uplink| uplink["name"] == name).cloned().unwrap_or(Value::Null)
    }

    pub fn connected(&self, name: &str) -> bool {
        self.uplink(name)["connected"] == true
    }

    pub fn reason(&self, name: &str) -> String {
        self.uplink(name)["reason"].as_str().unwrap_or_default().to_owned()
    }

    pub fn notices(&self) -> Vec<String> {
        self.notices.lock().unwrap().clone()
    }

    /// Waits until an uplink carries media, or no longer does.
    pub async fn wait(&self, name: &str, connected: bool) {
        until(&format!("{name} to be {connected}: {}", self.uplink(name)), async || {
            self.connected(name) == connected
        })
        .await;
    }

    /// Waits for words about an uplink.
    pub async fn wait_reason(&self, name: &str, words: &str) -> String {
        let wait = async {
            while !self.reason(name).contains(words) {
                tokio::time::sleep(std::time::Duration::from_millis(20)).await;
            }
        };
        if tokio::time::timeout(PATIENCE, wait).await.is_err() {
            panic!("waited in vain for {words:?} about {name}: {}", self.uplink(name));
        }
        self.reason(name)
    }

    /// Sends it a signal by name.
    pub fn signal(&self, name: &str) {
        let pid = self.child.id().unwrap().to_string();
        assert!(succeeds("kill", &["-s", name, &pid]));
    }
}
