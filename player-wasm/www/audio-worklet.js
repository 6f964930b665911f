// Plays sound at its capture time. Gets {planes, capture_us, rate} and {map_us} by its port; `map_us`
// is the capture time that is due at context time 0 (broadcast clock minus the playout delay).

// Sound that waits: two seconds. More than the largest playout delay; what is beyond is dropped.
const MAX_WAITING_US = 2_000_000;
// Off by more than this: jump. Below: glide by playing a little faster or slower.
const JUMP_US = 40_000;
// Off by less than this: leave it alone.
const DEAD_ZONE_US = 1_000;
// The fastest glide. Two percent is not heard as another pitch in a show.
const MAX_GLIDE = 0.02;
// A hole between two packets that is longer than this is silence; a shorter one is rounding.
const HOLE_US = 2_000;
// Reports per second.
const REPORTS = 4;
// Probe: a tick is a sample above this after so many seconds below it.
const TICK_LEVEL = 0.2;
const TICK_QUIET_SECONDS = 0.3;
const MAX_TICKS = 64;

class Sound extends AudioWorkletProcessor {
  constructor({ processorOptions }) {
    super();
    this.probe = processorOptions.probe;
    this.blocks = [];      // {planes, start, end (µs), length}
    this.offset = 0;       // position in blocks[0], in samples, with a fraction
    this.map = null;
    this.playing = false;  // in the middle of sound
    this.underruns = 0;
    this.resyncs = 0;
    this.drift = null;
    this.driftSmooth = null;
    this.ticks = [];
    this.quietSince = 0;
    this.untilReport = 0;
    this.port.onmessage = ({ data }) => {
      this.out = data.port;
      this.out.onmessage = ({ data }) => this.receive(data);
    };
  }

  receive(data) {
    if ("map_us" in data) {
      this.map = data.map_us;
      return;
    }
    const length = data.planes[0].length;
    const end = data.capture_us + (length / data.rate) * 1e6;
    const last = this.blocks.at(-1);
    if (last && data.capture_us < last.start) return;
    this.blocks.push({ planes: data.planes, start: data.capture_us, end, length, rate: data.rate });
    while (this.blocks.at(-1).end - this.blocks[0].start > MAX_WAITING_US) this.next();
  }

  next() {
    this.blocks.shift();
    this.offset = 0;
  }

  // Capture time of the next sample to be played.
  position() {
    const block = this.blocks[0];
    return block && block.start + (this.offset / block.rate) * 1e6;
  }

  // Drops what should have been heard before `due`.
  skipTo(due) {
    while (this.blocks.length > 0 && this.blocks[0].end <= due) this.next();
    const block = this.blocks[0];
    if (block && block.start < due) this.offset = ((due - block.start) / 1e6) * block.rate;
  }

  process(_, [output]) {
    const frames = output[0].length;
    if (this.map !== null) this.render(output, frames, this.map + currentTime * 1e6);
    this.untilReport -= frames;
    if (this.untilReport <= 0 && this.out) {
      this.untilReport = sampleRate / REPORTS;
      this.report();
    }
    return true;
  }

  render(output, frames, due) {
    let step = 1;
    if (this.playing && this.blocks.length > 0) {
      // Positive: we are behind.
      const error = due - this.position();
      this.driftSmooth = this.driftSmooth === null ? error : this.driftSmooth + (error - this.driftSmooth) * 0.02;
      this.drift = this.driftSmooth / 1000;
      if (Math.abs(error) > JUMP_US) {
        this.resyncs++;
        this.playing = false;
        this.driftSmooth = null;
      } else if (Math.abs(this.driftSmooth) > DEAD_ZONE_US) {
        step += Math.max(-MAX_GLIDE, Math.min(MAX_GLIDE, this.driftSmooth / 1e6));
      }
    }
    if (!this.playing) this.skipTo(due);
    let at = 0;
    if (!this.playing && this.blocks.length > 0) {
      // Wait for the sample at which the first sound is due.
      at = Math.ceil(((this.position() - due) / 1e6) * sampleRate);
      if (at >= frames) return;
      at = Math.max(at, 0);
      this.playing = true;
      this.driftSmooth = null;
    }
    if (!this.playing) return;
    for (; at < frames; at++) {
      const block = this.blocks[0];
      if (!block) {
        this.playing = false;
        this.underruns++;
        return;
      }
      this.sample(output, at, block);
      this.offset += step * (block.rate / sampleRate);
      if (this.offset >= block.length) {
        const over = this.offset - block.length;
        const following = this.blocks[1];
        this.next();
        if (following && following.start - block.end > HOLE_US) {
          // A lost packet: silence until the next one is due.
          this.playing = false;
          return;
        }
        this.offset = over;
      }
    }
  }

  // One sample, between its two neighbours when the position has a fraction.
  sample(output, at, block) {
    const index = Math.floor(this.offset);
    const part = this.offset - index;
    for (let channel = 0; channel < output.length; channel++) {
      const plane = block.planes[Math.min(channel, block.planes.length - 1)];
      const a = plane[index];
      const b = index + 1 < block.length ? plane[index + 1] : (this.blocks[1]?.planes[Math.min(channel, block.planes.length - 1)][0] ?? a);
      output[channel][at] = a + (b - a) * part;
    }
    if (this.probe) this.listen(output[0][at], at, block);
  }

  listen(value, at, block) {
    if (Math.abs(value) < TICK_LEVEL) return;
    const now = currentTime + at / sampleRate;
    if (now - this.quietSince > TICK_QUIET_SECONDS && this.ticks.length < MAX_TICKS) {
      this.ticks.push({
        capture_us: block.start + (this.offset / block.rate) * 1e6,
        // When it is heard, less the playout delay: equal to the capture time when nothing drifts.
        heard_us: this.map + now * 1e6,
      });
    }
    this.quietSince = now;
  }

  report() {
    const waiting = this.blocks.length > 0 ? this.blocks.at(-1).end - this.position() : 0;
    this.out.postMessage({
      underruns: this.underruns, resyncs: this.resyncs, drift_ms: this.drift, playing: this.playing,
      buffered_ms: waiting / 1000, ticks: this.ticks,
    });
    this.ticks = [];
  }
}

registerProcessor("roadie-sound", Sound);
