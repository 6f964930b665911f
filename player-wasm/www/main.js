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

const lacks = missing();
if (lacks.length > 0) {
  showState("unsupported",
    `This browser cannot play the show: it lacks ${lacks.join(" and ")}. Please use a current Chrome or Edge `
    + "at the page's https address.");
  window.roadie = {
    stats: async () => ({ state: "unsupported", transport: null, lacks }),
    takeTrace: async () => [],
    takeTicks: async () => [],
  };
} else {
  start();
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
        showState(data.state, data.message);
        break;
      case "readout":
        showReadout(data);
        break;
    }
  };
  worker.onerror = (event) => {
    showState("unsupported", `The player could not start (${event.message ?? "its files did not load"}). Please reload the page.`);
  };

  worker.postMessage({
    type: "start", name, ticket, transport, canvas, probe, origin: location.origin, navigation: performance.timeOrigin,
  }, [canvas]);

  startSound(worker);
  setInterval(tellQuality, QUALITY_INTERVAL_MS);
  $("fullscreen").onclick = () => {
    if (document.fullscreenElement) document.exitFullscreen();
    else stage.requestFullscreen?.();
  };
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
