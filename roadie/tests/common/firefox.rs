//! A headless Firefox that watches, by its own remote control: Marionette, which speaks `LENGTH:JSON` over TCP.

use std::path::PathBuf;
use std::process::Stdio;

use anyhow::{Context, bail};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio::process::{Child, Command};
use tokio::sync::Mutex;

use super::{Dir, Page, until};

/// An answer is a few kilobytes.
const LONGEST: usize = 1 << 24;

/// No first-run pages, sound without a click, a port of its own choice.
const PREFERENCES: &str = r#"
user_pref("marionette.port", 0);
user_pref("media.autoplay.default", 0);
user_pref("datareporting.policy.dataSubmissionEnabled", false);
user_pref("app.update.disabledForTesting", true);
user_pref("browser.shell.checkDefaultBrowser", false);
user_pref("network.captive-portal-service.enabled", false);
"#;

/// A browser with one page.
pub struct Firefox {
    child: Child,
    wire: Mutex<Wire>,
}

struct Wire {
    stream: BufReader<TcpStream>,
    asked: u64,
}

impl Drop for Firefox {
    /// Its processes are in a group that ends here.
    fn drop(&mut self) {
        if let Some(id) = self.child.id() {
            let _ = std::process::Command::new("kill").args(["-KILL", "--", &format!("-{id}")]).status();
        }
    }
}

impl Firefox {
    /// `ROADIE_FIREFOX` names the program.
    pub async fn start(dir: &Dir) -> anyhow::Result<Self> {
        let program = std::env::var_os("ROADIE_FIREFOX").map_or("firefox-esr".into(), PathBuf::from);
        let profile = dir.join("firefox");
        std::fs::create_dir_all(&profile)?;
        std::fs::write(profile.join("user.js"), PREFERENCES)?;
        let child = Command::new(&program)
            .args(["--headless", "--no-remote", "--marionette", "--profile"])
            .arg(&profile)
            .env("HOME", &dir.0)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .process_group(0)
            .spawn()
            .with_context(|| format!("cannot start {}: `apt install firefox-esr`", program.display()))?;
        // It writes there which port it has, when it has one.
        let file = profile.join("MarionetteActivePort");
        let port = || std::fs::read_to_string(&file).ok()?.trim().parse::<u16>().ok();
        until("Firefox", async || port().is_some()).await;
        let stream = TcpStream::connect(("127.0.0.1", port().context("no port")?)).await?;
        let mut wire = Wire { stream: BufReader::new(stream), asked: 0 };
        wire.read().await.context("its greeting")?;
        wire.ask("WebDriver:NewSession", json!({})).await?;
        Ok(Self { child, wire: Mutex::new(wire) })
    }

    /// Opens a page.
    pub async fn open(&self, url: &str) -> anyhow::Result<()> {
        self.wire.lock().await.ask("WebDriver:Navigate", json!({ "url": url })).await?;
        Ok(())
    }
}

impl Page for Firefox {
    async fn run(&self, script: &str) -> anyhow::Result<Value> {
        let script = format!(
            "const done = arguments[arguments.length - 1]; const window = globalThis.wrappedJSObject ?? globalThis; \
             const roadie = window.roadie; (async () => {{ {script} }})() \
             .then(value => done(JSON.stringify(value ?? null)), error => done(`\"${{error}}\"`));"
        );
        let parameters = json!({ "script": script, "args": [], "sandbox": null });
        let answer = self.wire.lock().await.ask("WebDriver:ExecuteAsyncScript", parameters).await?;
        Ok(serde_json::from_str(answer["value"].as_str().context("no text")?)?)
    }
}

impl Wire {
    async fn ask(&mut self, command: &str, parameters: Value) -> anyhow::Result<Value> {
        self.asked += 1;
        let text = json!([0, self.asked, command, parameters]).to_string();
        self.stream.write_all(format!("{}:{text}", text.len()).as_bytes()).await?;
        let mut answer = self.read().await?;
        if !answer[2].is_null() {
            bail!("{command}: {}", answer[2]);
        }
        Ok(answer[3].take())
    }

    async fn read(&mut self) -> anyhow::Result<Value> {
        let mut length = Vec::new();
        self.stream.read_until(b':', &mut length).await?;
        let length: usize = std::str::from_utf8(&length)?.trim_end_matches(':').parse()?;
        if length > LONGEST {
            bail!("{length} bytes");
        }
        let mut text = vec![0; length];
        self.stream.read_exact(&mut text).await?;
        Ok(serde_json::from_slice(&text)?)
    }
}
