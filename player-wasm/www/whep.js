// WHEP (draft-ietf-wish-whep): the show by WebRTC, for browsers without WebCodecs, for pages at a plain http address, and
// where our own player fails. The browser does its own buffering here, and tells no latency.

const FIRST_WAIT_MS = 100;
const LAST_WAIT_MS = 2000;
// A refusal may be over some time: a seat gets free, a ticket's time comes.
const REFUSED_WAIT_MS = 3000;
const ANSWER_LIMIT_MS = 5000;
const LOOK_MS = 250;
// Without a picture for so long, the session is made again.
const SILENCE_MS = 5000;

const sleep = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

export class Whep {
  // `tell(state, message)` is called when the state changes.
  constructor({ name, ticket, video, tell }) {
    Object.assign(this, { name, ticket, video, tell });
    this.state = "connecting";
    this.first = null;
    this.reconnects = 0;
    this.reports = {};
    this.stream = null;
    this.failures = 0;
    // Nobody shall be served who has gone.
    addEventListener("pagehide", () => this.end());
    this.run();
  }

  set(state, message) {
    if (this.state === state) return;
    this.state = state;
    this.tell(state, message);
  }

  async run() {
    this.tell("connecting", "Connecting…");
    for (;;) {
      let wait = null;
      try {
        wait = await this.attempt();
      } catch (error) {
        console.warn("roadie", "no session", error);
      }
      if (wait === null) {
        if (this.first !== null) this.set("reconnecting", "Reconnecting…");
        wait = Math.min(FIRST_WAIT_MS * 2 ** Math.min(this.failures, 8), LAST_WAIT_MS);
      }
      this.failures += 1;
      this.reconnects += 1;
      await sleep(wait);
    }
  }

  // One session. Returns how long to wait for the next; `null`: as long as after any failure.
  async attempt() {
    const peer = new RTCPeerConnection();
    this.peer = peer;
    for (const kind of ["video", "audio"]) peer.addTransceiver(kind, { direction: "recvonly" });
    const stream = new MediaStream();
    peer.ontrack = ({ track }) => stream.addTrack(track);
    try {
      await peer.setLocalDescription();
      // Ours need not be known to the relay: it answers whoever calls its own candidates, which are in the answer.
      const response = await fetch(this.address(), {
        method: "POST",
        headers: { "content-type": "application/sdp", ...this.authorization() },
        body: peer.localDescription.sdp,
        signal: AbortSignal.timeout(ANSWER_LIMIT_MS),
      });
      if (response.status !== 201) return this.refused(response.status, (await response.text()).trim());
      this.session = response.headers.get("location");
      await peer.setRemoteDescription({ type: "answer", sdp: await response.text() });
      this.stream = stream;
      this.video.srcObject = stream;
      this.video.play().catch(() => {});
      await this.watch(peer);
      return null;
    } finally {
      this.end();
    }
  }

  // Until no picture comes any more.
  async watch(peer) {
    let decoded = 0;
    let last = performance.now();
    while (peer.connectionState !== "failed" && performance.now() - last < SILENCE_MS) {
      await sleep(LOOK_MS);
      for (const report of (await peer.getStats()).values()) {
        if (report.type === "inbound-rtp") this.reports[report.kind] = report;
      }
      const now = this.reports.video?.framesDecoded ?? 0;
      if (now !== decoded) {
        decoded = now;
        last = performance.now();
        this.first ??= last;
        this.failures = 0;
        this.set("playing", "");
      }
    }
  }

  refused(status, words) {
    if (status === 404) {
      if (this.first === null) this.set("waiting", "The show has not started. It will play here by itself.");
      else this.set("ended", "The show has stopped. If it goes on, it will play here by itself.");
      this.failures = 0;
      return 500;
    }
    if (status === 401 || status === 403) {
      this.set("refused", "This show needs a link with a valid ticket. Please ask whoever gave you the link.");
    } else if (status === 429) {
      this.set("refused", "This link is in use as often as it may be. It will play here when a place gets free.");
    } else if (status === 406) {
      this.set("unsupported", `This browser cannot play the show: ${words}.`);
    } else {
      console.warn("roadie", status, words);
      return null;
    }
    return REFUSED_WAIT_MS;
  }

  address() {
    return `/whep/${this.name.split("/").map(encodeURIComponent).join("/")}`;
  }

  authorization() {
    return this.ticket ? { authorization: `Bearer ${this.ticket}` } : {};
  }

  end() {
    this.peer?.close();
    if (this.session) fetch(this.session, { method: "DELETE", keepalive: true }).catch(() => {});
    this.session = null;
  }

  // What `window.roadie.stats()` tells.
  stats() {
    const { video, audio } = this.reports;
    const unknown = { p50: null, p95: null, p99: null, max: null, last: null, count: 0 };
    return {
      state: this.state,
      transport: "whep",
      version: null,
      codec: null,
      width: this.video.videoWidth,
      height: this.video.videoHeight,
      latency_ms: unknown,
      frames: {
        received: video?.framesReceived ?? 0,
        decoded: video?.framesDecoded ?? 0,
        painted: (video?.framesDecoded ?? 0) - (video?.framesDropped ?? 0),
        dropped: { browser: video?.framesDropped ?? 0 },
      },
      stalls: video?.freezeCount ?? 0,
      stalled_ms: Math.round(1000 * (video?.totalFreezesDuration ?? 0)),
      first_frame_ms: this.first,
      audio: { received: audio?.packetsReceived ?? 0, missing: audio?.packetsLost ?? 0 },
      reconnects: this.reconnects,
    };
  }
}
