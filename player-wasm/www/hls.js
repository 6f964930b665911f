// HLS, by browsers that play it themselves: the last resort, some seconds behind. They tell little, and what they cannot play
// they refuse in words of their own.

const FIRST_WAIT_MS = 500;
const LAST_WAIT_MS = 4000;
const LOOK_MS = 500;
// Without progress for so long, it is begun again at the live edge.
const SILENCE_MS = 10000;

const sleep = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

export class Hls {
  // Whether this browser plays HLS.
  static isHere(video) {
    return video.canPlayType("application/vnd.apple.mpegurl") !== "";
  }

  // `tell(state, message)` is called when the state changes.
  constructor({ name, ticket, video, tell }) {
    const query = ticket ? `?jwt=${encodeURIComponent(ticket)}` : "";
    this.address = `/hls/${name.split("/").map(encodeURIComponent).join("/")}/index.m3u8${query}`;
    Object.assign(this, { video, tell });
    this.state = "connecting";
    this.first = null;
    this.reconnects = 0;
    this.stalls = 0;
    video.addEventListener("waiting", () => { if (this.state === "playing") this.stalls += 1; });
    this.run();
  }

  set(state, message) {
    if (this.state === state) return;
    this.state = state;
    this.tell(state, message);
  }

  async run() {
    this.tell("connecting", "Connecting…");
    for (let failures = 0; ; this.reconnects += 1) {
      const status = await fetch(this.address, { cache: "no-store" }).then((answer) => answer.status, () => 0);
      if (status === 200 && await this.play()) failures = 0;
      else failures += 1;
      if (status === 401 || status === 403) {
        this.set("refused", "This show needs a link with a valid ticket. Please ask whoever gave you the link.");
      } else if (this.first !== null) {
        this.set("reconnecting", "Waiting for the show to go on…");
      } else if (status === 404) {
        this.set("waiting", "The show has not started. It will play here by itself.");
      } else if (this.video.error) {
        console.warn("roadie", this.video.error.message);
      }
      await sleep(Math.min(FIRST_WAIT_MS * 2 ** Math.min(failures, 8), LAST_WAIT_MS));
    }
  }

  // Until nothing moves any more. Returns whether anything did.
  async play() {
    const { video } = this;
    video.src = this.address;
    video.play().catch(() => {});
    let [at, moved, last] = [video.currentTime, false, performance.now()];
    while (!video.error && performance.now() - last < SILENCE_MS) {
      await sleep(LOOK_MS);
      if (video.currentTime === at) continue;
      at = video.currentTime;
      last = performance.now();
      // The first step is the jump to the live edge.
      if (moved && video.readyState >= HTMLMediaElement.HAVE_CURRENT_DATA) {
        this.first ??= last;
        this.set("playing", "");
      }
      moved = true;
    }
    return moved;
  }

  // What `window.roadie.stats()` tells.
  stats() {
    const { video } = this;
    const quality = video.getVideoPlaybackQuality?.();
    const decoded = quality?.totalVideoFrames ?? 0;
    const dropped = quality?.droppedVideoFrames ?? 0;
    return {
      state: this.state,
      transport: "hls",
      version: null,
      codec: null,
      width: video.videoWidth,
      height: video.videoHeight,
      latency_ms: { p50: null, p95: null, p99: null, max: null, last: null, count: 0 },
      frames: { received: decoded, decoded, painted: decoded - dropped, dropped: { browser: dropped } },
      stalls: this.stalls,
      stalled_ms: null,
      first_frame_ms: this.first,
      audio: null,
      reconnects: this.reconnects,
    };
  }
}
