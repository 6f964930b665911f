//! A camera that only PipeWire has, with a PipeWire, a session manager and a camera that are this test's own.

mod common;

use std::net::UdpSocket;
use std::path::Path;
use std::process::Stdio;

use common::{Dir, PATIENCE, recording, roadie, until};
use serde_json::Value;
use tokio::io::{AsyncBufReadExt, BufReader, Lines};
use tokio::process::{Child, ChildStdout, Command};

const CAMERA: &str = "camera:roadie-test-camera";

/// A PipeWire that nothing else on this machine sees. All ends when it is dropped.
struct PipeWire {
    daemon: Child,
    _bus: Child,
    _manager: Child,
}

/// Puts a program into the session of this folder.
fn within(dir: &Dir, program: impl AsRef<std::ffi::OsStr>) -> Command {
    let mut command = Command::new(program);
    for variable in ["XDG_RUNTIME_DIR", "XDG_CONFIG_HOME", "XDG_STATE_HOME", "HOME"] {
        command.env(variable, &dir.0);
    }
    for variable in ["PIPEWIRE_RUNTIME_DIR", "PIPEWIRE_REMOTE", "DISPLAY", "WAYLAND_DISPLAY"] {
        command.env_remove(variable);
    }
    command.env("DBUS_SESSION_BUS_ADDRESS", bus(dir));
    command.stdin(Stdio::null()).stdout(Stdio::null()).kill_on_drop(true);
    command
}

fn bus(dir: &Dir) -> String {
    format!("unix:path={}", dir.join("bus").display())
}

fn start(command: &mut Command) -> Child {
    command.spawn().unwrap_or_else(|error| panic!("{command:?}: {error}; `cargo xtask test` installs it"))
}

impl PipeWire {
    async fn start(dir: &Dir) -> Self {
        let there = async |name: &str| until(name, async || dir.join(name).exists()).await;
        let address = format!("--address={}", bus(dir));
        let _bus = start(within(dir, "dbus-daemon").args(["--session", "--nofork", &address]));
        there("bus").await;
        let daemon = start(&mut within(dir, "pipewire"));
        there("pipewire-0").await;
        let _manager = start(&mut within(dir, "wireplumber"));
        Self { daemon, _bus, _manager }
    }

    fn signal(&self, signal: &str) {
        let pid = self.daemon.id().expect("it runs").to_string();
        assert!(std::process::Command::new("kill").args([signal, &pid]).status().unwrap().success());
    }
}

/// A camera that shows one colour.
fn camera(dir: &Dir, pattern: &str) -> Child {
    let properties = "p,media.class=Video/Source,node.name=roadie-test-camera,node.description=Test";
    start(
        within(dir, "gst-launch-1.0")
            .args(["videotestsrc", "is-live=true", &format!("pattern={pattern}"), "!"])
            .args(["video/x-raw,format=YUY2,width=640,height=360,framerate=30/1", "!"])
            .args(["pipewiresink", "mode=provide", &format!("stream-properties={properties}")]),
    )
}

/// What `roadie devices` says of the camera.
async fn listed(dir: &Dir) -> Option<Value> {
    let output = within(dir, roadie()).args(["devices", "--json"]).stdout(Stdio::piped()).output();
    let output = tokio::time::timeout(PATIENCE, output).await.expect("it ends").unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let found: Value = serde_json::from_slice(&output.stdout).unwrap();
    found["cameras"].as_array().unwrap().iter().find(|camera| camera["input"] == CAMERA).cloned()
}

/// `roadie live`, with an edge that does not answer.
fn live(dir: &Dir, input: &str, edge: &UdpSocket) -> Command {
    let mut command = within(dir, roadie());
    let edge = format!("https://{}/show", edge.local_addr().unwrap());
    command.args(["live", "--input", input, "--audio-input", "none", "--json", "--size", "640x360"]);
    command.args(["--edge", &edge, "--token", "none", "--record"]).arg(dir.join("show"));
    command.stdout(Stdio::piped());
    command
}

/// Reads until the input is in this state.
async fn until_state(lines: &mut Lines<BufReader<ChildStdout>>, wanted: impl Fn(&Value) -> bool) -> Value {
    loop {
        let line = tokio::time::timeout(PATIENCE, lines.next_line()).await.expect("it says something");
        let line: Value = serde_json::from_str(&line.unwrap().expect("the show goes on")).unwrap();
        let state = &line["inputs"][0]["state"];
        if line["type"] == "state" && wanted(state) {
            return state.clone();
        }
    }
}

/// The brightness of each picture of a recording.
async fn brightness(recording: &Path) -> Vec<u8> {
    let ffmpeg = Command::new("ffmpeg")
        .args(["-v", "error", "-nostdin", "-i"])
        .arg(recording)
        .args(["-vf", "scale=1:1:flags=area", "-pix_fmt", "gray", "-f", "rawvideo", "-"])
        .output();
    ffmpeg.await.expect("ffmpeg; `cargo xtask test` installs it").stdout
}

#[tokio::test]
async fn a_camera_of_pipewire_is_listed_and_comes_back_on_air_by_itself() {
    let (dir, edge) = (Dir::new("pipewire"), UdpSocket::bind("127.0.0.1:0").unwrap());
    assert_eq!(listed(&dir).await, None, "there is no PipeWire yet");
    let pipewire = PipeWire::start(&dir).await;
    let mut white = camera(&dir, "white");
    until("the camera to be listed", async || listed(&dir).await.is_some()).await;
    let mode = &listed(&dir).await.expect("it is there")["modes"][0];
    assert_eq!((&mode["width"], &mode["height"], &mode["fps"]), (&640.into(), &360.into(), &30.0.into()));

    let unknown = live(&dir, "camera:no-such-camera", &edge).output().await.unwrap();
    let said = String::from_utf8_lossy(&unknown.stderr).into_owned();
    assert!(!unknown.status.success());
    assert!(
        said.contains("there is no camera no-such-camera") && said.contains("roadie-test-camera"),
        "{said}"
    );

    let mut show = live(&dir, CAMERA, &edge).spawn().unwrap();
    let mut lines = BufReader::new(show.stdout.take().unwrap()).lines();
    until_state(&mut lines, |state| state == "live").await;
    white.kill().await.unwrap();
    let away = until_state(&mut lines, |state| state["away"]["reason"].is_string()).await;
    assert!(away.to_string().contains("camera"), "{away}");
    let _black = camera(&dir, "black");
    until_state(&mut lines, |state| state == "live").await;
    // A second of it is in the recording.
    until_state(&mut lines, |state| state == "live").await;
    show.kill().await.unwrap();
    let pictures = brightness(&recording(&dir.join("show"))).await;
    assert!(pictures[0] > 200 && *pictures.last().unwrap() < 60, "white, then black: {pictures:?}");

    // One that hangs holds up nothing.
    pipewire.signal("-STOP");
    assert_eq!(listed(&dir).await, None);
    pipewire.signal("-CONT");
}
