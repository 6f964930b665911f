// What the ways have in common that leave the playing to the browser: a state, a `<video>`, and few figures.

export const sleep = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

export class ByBrowser {
  // `tell(state, message)` is called when the state changes.
  constructor({ name, ticket, video, tell }) {
    Object.assign(this, { ticket, video, tell });
    this.path = name.split("/").map(encodeURIComponent).join("/");
    this.state = null;
    this.first = null;
    this.reconnects = 0;
    this.set("connecting", "Connecting…");
  }

  set(state, message) {
    if (this.state === state) return;
    this.state = state;
    this.tell(state, message);
  }

  playing() {
    this.first ??= performance.now();
    this.set("playing", "");
  }

  paused() {
    this.set("paused", "Nothing comes from the venue at the moment. It goes on here by itself.");
  }

  // The relay has no such show now.
  absent() {
    if (this.first === null) this.set("waiting", "The show has not started. It will play here by itself.");
    else this.set("ended", "The show has stopped. If it goes on, it will play here by itself.");
  }

  refused() {
    this.set("refused", "This show needs a link with a valid ticket. Please ask whoever gave you the link.");
  }

  // What `window.roadie.stats()` tells; no browser tells the latency.
  figures(transport, { received, decoded, dropped, stalls, stalled_ms, audio }) {
    return {
      state: this.state,
      transport,
      version: null,
      codec: null,
      width: this.video.videoWidth,
      height: this.video.videoHeight,
      latency_ms: { p50: null, p95: null, p99: null, max: null, last: null, count: 0 },
      frames: { received, decoded, painted: decoded - dropped, dropped: { browser: dropped } },
      stalls,
      stalled_ms,
      first_frame_ms: this.first,
      audio,
      reconnects: this.reconnects,
    };
  }
}
