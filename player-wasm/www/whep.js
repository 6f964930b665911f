// WHEP (draft-ietf-wish-whep): the show by WebRTC, for browsers without WebCodecs, for pages at a plain http address, and
// where our own player fails. The browser does its own buffering here, and tells no latency.

import { ByBrowser, sleep } from "/assets/by-browser.js";

const FIRST_WAIT_MS = 100;
const LAST_WAIT_MS = 2000;
// A refusal may be over some time: a seat gets free, a ticket's time comes.
const REFUSED_WAIT_MS = 3000;
// A show that is not there is asked for so often.
const ABSENT_WAIT_MS = 500;
const ANSWER_LIMIT_MS = 5000;
const LOOK_MS = 250;
// Without a picture for so long, the viewer is told,
const PAUSE_MS = 1500;
// and then the session is made again.
const SILENCE_MS = 5000;

export class Whep extends ByBrowser {
  constructor(settings) {
    super(settings);
    this.reports = {};
    this.failures = 0;
    // Nobody shall be served who has gone.
    addEventListener("pagehide", () => this.end());
    this.run();
  }

  async run() {
    for (;;) {
      let wait = null;
      try {
        wait = await this.attempt();
      } catch (error) {
        console.warn("roadie", "no session", error);
      }
      if (wait === null) {
        if (this.first !== null && this.state !== "paused") this.set("reconnecting", "Reconnecting…");
        wait = Math.min(FIRST_WAIT_MS * 2 ** Math.min(this.failures, 8), LAST_WAIT_MS);
      }
      this.failures += 1;
      await sleep(wait);
    }
  }

  // One session. Returns how long to wait for the next; `null`: as long as after any failure.
  async attempt() {
    const peer = new RTCPeerConnection();
    this.peer = peer;
    // Each session counts from nothing.
    this.reports = {};
    for (const kind of ["video", "audio"]) peer.addTransceiver(kind, { direction: "recvonly" });
    const stream = new MediaStream();
    peer.ontrack = ({ track }) => stream.addTrack(track);
    try {
      await peer.setLocalDescription();
      // Ours need not be known to the relay: it answers whoever calls its own candidates, which are in the answer.
      const response = await fetch(`/whep/${this.path}`, {
        method: "POST",
        headers: { "content-type": "application/sdp", ...this.authorization() },
        body: peer.localDescription.sdp,
        signal: AbortSignal.timeout(ANSWER_LIMIT_MS),
      });
      if (response.status !== 201) return this.no(response.status, (await response.text()).trim());
      this.session = response.headers.get("location");
      await peer.setRemoteDescription({ type: "answer", sdp: await response.text() });
      this.video.srcObject = stream;
      this.video.play().catch(() => {});
      await this.watch(peer);
      this.reconnects += 1;
      return null;
    } finally {
      this.end();
    }
  }

  // Until no picture comes any more.
  async watch(peer) {
    let [decoded, grew, last] = [0, 0, performance.now()];
    while (peer.connectionState !== "failed" && performance.now() - last < SILENCE_MS) {
      await sleep(LOOK_MS);
      for (const report of (await peer.getStats()).values()) {
        if (report.type === "inbound-rtp") this.reports[report.kind] = report;
      }
      const now = this.reports.video?.framesDecoded ?? 0;
      // A relay sends the running group again to whoever comes anew: that alone is no show that goes on.
      grew = now === decoded ? 0 : grew + 1;
      decoded = now;
      if (grew > 0) last = performance.now();
      if (grew > 1 || (grew > 0 && this.first === null)) {
        this.failures = 0;
        this.playing();
      } else if (this.first !== null && performance.now() - last > PAUSE_MS) {
        this.paused();
      }
    }
  }

  // How long to wait after such an answer.
  no(status, words) {
    if (status === 404) {
      this.absent();
      this.failures = 0;
      return ABSENT_WAIT_MS;
    }
    if (status === 401 || status === 403) {
      this.refused();
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

  authorization() {
    return this.ticket ? { authorization: `Bearer ${this.ticket}` } : {};
  }

  end() {
    this.peer?.close();
    if (this.session) fetch(this.session, { method: "DELETE", keepalive: true }).catch(() => {});
    this.session = null;
  }

  stats() {
    const { video, audio } = this.reports;
    return this.figures("whep", {
      received: video?.framesReceived ?? 0,
      decoded: video?.framesDecoded ?? 0,
      dropped: video?.framesDropped ?? 0,
      stalls: video?.freezeCount ?? 0,
      stalled_ms: Math.round(1000 * (video?.totalFreezesDuration ?? 0)),
      audio: { received: audio?.packetsReceived ?? 0, missing: audio?.packetsLost ?? 0 },
    });
  }
}
