// HLS, by browsers that play it themselves: the last resort, some seconds behind. They tell little, and what they cannot play
// they refuse in words of their own.

import { ByBrowser, sleep } from "/assets/by-browser.js";

const FIRST_WAIT_MS = 500;
const LAST_WAIT_MS = 4000;
const LOOK_MS = 500;
// Without progress for so long, it is begun again at the live edge.
const SILENCE_MS = 10000;

export class Hls extends ByBrowser {
  // Whether this browser plays HLS.
  static isHere(video) {
    return video.canPlayType("application/vnd.apple.mpegurl") !== "";
  }

  constructor(settings) {
    super(settings);
    const query = this.ticket ? `?jwt=${encodeURIComponent(this.ticket)}` : "";
    this.address = `/hls/${this.path}/index.m3u8${query}`;
    this.stalls = 0;
    this.video.addEventListener("waiting", () => { if (this.state === "playing") this.stalls += 1; });
    this.run();
  }

  async run() {
    for (let failures = 0; ;) {
      const status = await fetch(this.address, { cache: "no-store" }).then((answer) => answer.status, () => 0);
      if (status === 200 && await this.play()) {
        failures = 0;
        this.reconnects += 1;
      } else {
        failures += 1;
      }
      if (status === 401 || status === 403) {
        this.refused();
      } else if (status === 404) {
        this.absent();
      } else if (this.first !== null) {
        this.set("reconnecting", "Reconnecting…");
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
        this.playing();
      }
      moved = true;
    }
    return moved;
  }

  stats() {
    const quality = this.video.getVideoPlaybackQuality?.();
    const decoded = quality?.totalVideoFrames ?? 0;
    const dropped = quality?.droppedVideoFrames ?? 0;
    return this.figures("hls", { received: decoded, decoded, dropped, stalls: this.stalls, stalled_ms: null, audio: null });
  }
}
