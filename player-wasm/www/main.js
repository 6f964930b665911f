// The page: starts the worker, lends it the canvas, owns the audio context and the buttons.
// Everything else happens in the worker (see worker.js).

const $ = (id) => document.getElementById(id);
const stage = $("stage");
const name = decodeURIComponent(location.pathname.replace(/^\/+|\/+$/g, ""));
const query = new URLSearchParams(location.search);
const probe = query.get("probe") === "1";
// The viewer's ticket. It goes to the relay that this page came from, and nowhere else.
const ticket = query.get("jwt") || undefined;
// How the show shall come, such as `websocket`; without it, by the best way there is.
const transport = query.get("transport") || undefined;

// The host's screen shows how the audience sees the show: a few numbers, no personal data. `viewer` is drawn
// anew with each page, to tell viewers apart while they watch.
const QUALITY_INTERVAL_MS = 2000;
const viewer = crypto.getRandomValues(new Uint32Array(1))[0];

$("title").textContent = name;
document.title = `${name} · live`;

function showState(state, message) {
  stage.dataset.state = state;
  $("message").textContent = message;
  if (state !== "playing") {
    $("live").dataset.live = "false";
    const words = {
      reconnecting: "Connection lost",
      paused: "Paused",
      unreachable: "No connection",
      refused: "Not playing",
      unsupported: "Not playing",
    };
    $("latency").textContent = words[state] ?? "Not live yet";
  }
}

// What this browser lacks, in words; empty when it can play.
function missing() {
  const lacks = [];
  if (!window.isSecureContext) lacks.push("a secure (https) address");
  if (!("VideoDecoder" in window)) lacks.push("the video decoder of WebCodecs");
  if (!HTMLCanvasElement.prototype.transferControlToOffscreen) lacks.push("drawing in the background (OffscreenCanvas)");
  return lacks;
}

const WAYS = ["webtransport", "websocket", "whep", "hls"];
const lacks = missing();
if (transport && !WAYS.includes(transport)) {
  cannot(`This page's address asks for transport=${transport}, but there are ${WAYS.join(", ")} only.`);
} else if (transport === "whep" || transport === "hls" || (!transport && lacks.length > 0)) {
  startByBrowser();
} else if (lacks.length > 0) {
  cannot(lacking());
} else {
  start();
}

function lacking() {
  return `This browser cannot play the show: it lacks ${lacks.join(" and ")}. Please use a current Chrome or Edge at the `
    + "page's https address.";
}

// The page's last word.
function cannot(message) {
  showState("unsupported", message);
  window.roadie = {
    stats: async () => ({ state: "unsupported", transport: null, lacks }),
    takeTrace: async () => [],
    takeTicks: async () => [],
  };
}

// By what the browser can do itself: WebRTC where the relay speaks it, else HLS. `otherwise`: what to say where neither is.
async function startByBrowser(otherwise) {
  const config = await fetch("/api/config", { cache: "no-store" }).then((answer) => answer.json()).catch(() => ({}));
  const video = $("video");
  const { Hls } = await import("/assets/hls.js");
  const whep = config.whep && "RTCPeerConnection" in window;
  let player;
  if (whep && transport !== "hls") {
    const { Whep } = await import("/assets/whep.js");
    player = new Whep({ name, ticket, video, tell: showState });
  } else if (transport !== "whep" && Hls.isHere(video)) {
    player = new Hls({ name, ticket, video, tell: showState });
  } else {
    const nor = transport === "hls" ? "This browser does not play HLS by itself." : "There is no WebRTC between this browser and the relay.";
    cannot(otherwise ?? (lacks.length > 0 && !transport ? lacking() : nor));
    return;
  }
  $("picture").hidden = true;
  video.hidden = false;
  window.roadie = { stats: async () => player.stats(), takeTrace: async () => [], takeTicks: async () => [] };
  soundOf(video);
  setInterval(() => {
    const { state, transport, height, frames, stalls } = player.stats();
    if (state !== "playing") return;
    $("live").dataset.live = "true";
    $("latency").textContent = transport === "hls" ? "Live · some seconds behind" : "Live";
    $("stats").textContent = `${height}p · ${frames.painted} pictures · ${stalls} stalls · ${transport.toUpperCase()}`;
  }, 500);
  fullScreen();
}

// A browser plays a video without a gesture if it is silent.
function soundOf(video) {
  const unmute = $("unmute");
  const mute = $("mute");
  const show = () => {
    unmute.hidden = !video.muted || mute.dataset.wanted === "true";
    mute.hidden = !unmute.hidden;
    mute.setAttribute("aria-pressed", String(video.muted));
    mute.textContent = video.muted ? "Unmute" : "Mute";
  };
  unmute.onclick = () => { video.muted = false; };
  mute.onclick = () => {
    mute.dataset.wanted = String(!video.muted);
    video.muted = !video.muted;
  };
  video.onvolumechange = show;
  show();
}

function fullScreen() {
  $("fullscreen").onclick = () => {
    if (document.fullscreenElement) document.exitFullscreen();
    else stage.requestFullscreen?.();
  };
}

function start() {
  const worker = new Worker("/assets/worker.js", { type: "module" });
  const canvas = $("picture").transferControlToOffscreen();

  // Questions to the worker, answered by number.
  const waiting = new Map();
  let asked = 0;
  const ask = (what) => new Promise((resolve) => {
    waiting.set(++asked, resolve);
    worker.postMessage({ type: "ask", id: asked, what });
  });
  window.roadie = {
    stats: () => ask("stats"),
    takeTrace: () => ask("takeTrace"),
    takeTicks: () => ask("takeTicks"),
  };

  worker.onmessage = ({ data }) => {
    switch (data.type) {
      case "answer":
        waiting.get(data.id)?.(data.value);
        waiting.delete(data.id);
        break;
      case "state":
        if (data.state === "unsupported") failed(data.message);
        else showState(data.state, data.message);
        break;
      case "readout":
        showReadout(data);
        break;
    }
  };
  worker.onerror = (event) => {
    failed(`The player could not start (${event.message ?? "its files did not load"}). Please reload the page.`);
  };
  // Another way may do what this one cannot, unless the page's address asks for this one.
  const failed = (message) => {
    worker.terminate();
    clearInterval(telling);
    if (transport) cannot(message);
    else startByBrowser(message);
  };

  worker.postMessage({
    type: "start", name, ticket, transport, canvas, probe, origin: location.origin, navigation: performance.timeOrigin,
  }, [canvas]);

  startSound(worker);
  const telling = setInterval(tellQuality, QUALITY_INTERVAL_MS);
  fullScreen();
}

async function tellQuality() {
  const { state, latency_ms, frames, stalls } = await window.roadie.stats() ?? {};
  if (state !== "playing" || latency_ms.p50 === null) return;
  const report = {
    broadcast: name, viewer, stalls,
    latency_ms: { p50: latency_ms.p50, p95: latency_ms.p95 },
    frames: { painted: frames.painted, late: frames.late },
  };
  // A relay that is away, or keeps no reports, is no trouble of the viewer's.
  const headers = { "content-type": "application/json" };
  if (ticket) headers.authorization = `Bearer ${ticket}`;
  fetch("/api/quality", { method: "POST", headers, body: JSON.stringify(report) }).catch(() => {});
}

function showReadout(data) {
  if (stage.dataset.state === "playing" && data.latency_ms !== null) {
    $("live").dataset.live = "true";
    $("latency").textContent = `Live · ${Math.round(data.latency_ms)} ms behind`;
  }
  const parts = [];
  if (data.painted === 0) return;
  if (data.height) parts.push(`${data.height}p`);
  parts.push(`buffer ${Math.round(data.delay_ms)} ms`, `${data.painted} pictures`);
  if (data.missing) parts.push(`${data.missing} missing`);
  if (data.stalls) parts.push(`${data.stalls} stalls`);
  $("stats").textContent = parts.join(" · ");
}

async function startSound(worker) {
  if (!("AudioContext" in window) || !("AudioWorkletNode" in window)) return;
  const context = new AudioContext({ latencyHint: "interactive", sampleRate: 48000 });
  const unmute = $("unmute");
  const mute = $("mute");
  const gain = new GainNode(context);
  gain.connect(context.destination);

  const showButtons = () => {
    const running = context.state === "running";
    unmute.hidden = running;
    mute.hidden = !running;
  };
  unmute.onclick = () => context.resume();
  mute.onclick = () => {
    const muted = mute.getAttribute("aria-pressed") !== "true";
    mute.setAttribute("aria-pressed", String(muted));
    mute.textContent = muted ? "Unmute" : "Mute";
    gain.gain.value = muted ? 0 : 1;
  };

  await context.audioWorklet.addModule("/assets/audio-worklet.js");
  const node = new AudioWorkletNode(context, "roadie-sound", {
    numberOfInputs: 0, numberOfOutputs: 1, outputChannelCount: [2], processorOptions: { probe },
  });
  node.connect(gain);
  const channel = new MessageChannel();
  node.port.postMessage({ port: channel.port1 }, [channel.port1]);
  worker.postMessage({ type: "audio", port: channel.port2 }, [channel.port2]);

  // Where the sound card is: this context time is heard at that local time.
  const sendTime = () => {
    let { contextTime, performanceTime } = context.getOutputTimestamp();
    if (!(contextTime > 0) || !(performanceTime > 0)) {
      // No device clock: the next block is heard after the context's own latency.
      contextTime = context.currentTime;
      performanceTime = performance.now() + 1000 * (context.outputLatency || context.baseLatency || 0);
    }
    worker.postMessage({
      type: "audio-time", context: contextTime, local: performance.timeOrigin + performanceTime,
      running: context.state === "running",
    });
  };
  context.onstatechange = () => { showButtons(); sendTime(); };
  setInterval(sendTime, 200);
  showButtons();
  // Allowed without a gesture? Then sound starts at once.
  context.resume().catch(() => {});
}
