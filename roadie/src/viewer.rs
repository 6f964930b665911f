//! A headless Chromium that watches, through its own WebDriver.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, bail};
use fantoccini::wd::WebDriverCompatibleCommand;
use fantoccini::{Client, ClientBuilder};
use hyper_util::client::legacy::connect::HttpConnector;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};

/// chromedriver and the browser must be up within this time, on a busy machine.
const START: Duration = Duration::from_secs(30);

/// What headless Chromium needs on a machine with loopback only, without a GPU and as root.
const FLAGS: [&str; 11] = [
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--autoplay-policy=no-user-gesture-required",
    "--window-size=1280,860",
    "--allow-loopback-in-peer-connection",
    "--disable-features=WebRtcHideLocalIpsWithMdns",
];

/// A browser with one page.
pub struct Viewer {
    client: Client,
    driver: Child,
}

impl Drop for Viewer {
    /// The driver would leave its browser behind, so both are in a process group that ends here.
    fn drop(&mut self) {
        if let Some(id) = self.driver.id() {
            let group = format!("-{id}");
            let _ = std::process::Command::new("kill").args(["-KILL", "--", &group]).status();
        }
    }
}

/// A command of Chromium's own protocol, through the driver.
#[derive(Debug)]
struct DevTools {
    method: &'static str,
    params: Value,
}

impl WebDriverCompatibleCommand for DevTools {
    fn endpoint(&self, base: &url::Url, session: Option<&str>) -> Result<url::Url, url::ParseError> {
        base.join(&format!("session/{}/goog/cdp/execute", session.unwrap_or_default()))
    }

    fn method_and_body(&self, _: &url::Url) -> (http::Method, Option<String>) {
        (http::Method::POST, Some(json!({ "cmd": self.method, "params": self.params }).to_string()))
    }
}

impl Viewer {
    /// Starts a browser. `ROADIE_CHROMEDRIVER` and `ROADIE_CHROMIUM` name the programs where they are
    /// not found by themselves.
    pub async fn start() -> anyhow::Result<Self> {
        let driver = program("ROADIE_CHROMEDRIVER", "chromedriver");
        let mut child = Command::new(&driver)
            .arg("--port=0")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .process_group(0)
            .spawn()
            .with_context(|| format!("cannot start {}: `apt install chromium-driver`", driver.display()))?;
        let stdout = child.stdout.take().context("chromedriver has no output")?;
        let mut lines = BufReader::new(stdout).lines();
        let port = tokio::time::timeout(START, async {
            while let Some(line) = lines.next_line().await? {
                // Its first line names the port that was asked for, 0.
                let port =
                    line.split_once("successfully on port ").map(|(_, port)| port.trim_end_matches('.'));
                if let Some(port) = port.and_then(|port| port.parse::<u16>().ok()) {
                    return Ok(port);
                }
            }
            bail!("chromedriver ended before it had a port")
        })
        .await
        .context("chromedriver does not start")??;
        // It must not block on a full pipe later.
        tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });

        let mut capabilities = serde_json::Map::new();
        let browser = program("ROADIE_CHROMIUM", "chromium");
        let mut options = json!({ "args": FLAGS });
        if browser.components().count() > 1 {
            options["binary"] = json!(browser);
        }
        capabilities.insert("goog:chromeOptions".into(), options);
        capabilities.insert("goog:loggingPrefs".into(), json!({ "browser": "ALL" }));
        let client = tokio::time::timeout(
            START,
            ClientBuilder::new(HttpConnector::new())
                .capabilities(capabilities)
                .connect(&format!("http://127.0.0.1:{port}")),
        )
        .await
        .context("Chromium does not start")?
        .context("Chromium does not start: `apt install chromium`")?;
        Ok(Self { client, driver: child })
    }

    /// Runs JavaScript in every page that is opened from now on, before the page's own.
    pub async fn run_before_page(&self, script: &str) -> anyhow::Result<()> {
        let command =
            DevTools { method: "Page.addScriptToEvaluateOnNewDocument", params: json!({ "source": script }) };
        self.client.issue_cmd(command).await?;
        Ok(())
    }

    /// Opens a page.
    pub async fn open(&self, url: &str) -> anyhow::Result<()> {
        self.client.goto(url).await.with_context(|| format!("cannot open {url}"))
    }

    /// Runs JavaScript that returns a value, or a promise of one.
    pub async fn run(&self, script: &str) -> anyhow::Result<Value> {
        let wrapped = format!(
            "const done = arguments[arguments.length - 1]; \
             (async () => {{ {script} }})().then(value => done({{ value }}), error => done({{ error: String(error) }}));"
        );
        let mut answer = self.client.execute_async(&wrapped, Vec::new()).await?;
        if let Some(error) = answer["error"].as_str() {
            bail!("the page said: {error}");
        }
        Ok(answer["value"].take())
    }

    /// The page as PNG.
    pub async fn screenshot(&self) -> anyhow::Result<Vec<u8>> {
        Ok(self.client.screenshot().await?)
    }

    /// Ends the browser.
    pub async fn close(self) {
        let _ = self.client.clone().close().await;
    }
}

fn program(variable: &str, default: &str) -> PathBuf {
    match std::env::var_os(variable) {
        Some(path) if !path.is_empty() => PathBuf::from(path),
        _ => Path::new(default).to_owned(),
    }
}
