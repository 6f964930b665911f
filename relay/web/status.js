// The relay's status page: asks /api/status once a second and shows what it says, with rates and a curve made of the
// answers so far. Nothing is kept beyond the page.

const INTERVAL_MS = 1000;

// The curve goes back ten minutes, and shows a minute at least.
const POINTS = 600;
const FEWEST = 60;

// Losses are counted over a minute.
const MINUTE = 60;

// The ticket of whoever looks, where this relay asks for one; the links to the shows carry it on.
const ticket = new URLSearchParams(location.search).get("jwt");

const shows = new Map();
const $ = (id) => document.getElementById(id);

const megabits = (bytes, seconds) => `${(bytes * 8e-6 / seconds).toFixed(1)} Mb/s`;
const count = (number, one, many) => `${number} ${number === 1 ? one : many}`;

class Show {
  constructor(name) {
    this.node = $("show").content.firstElementChild.cloneNode(true);
    const link = this.node.querySelector("a");
    link.textContent = name;
    link.href = ticket ? `/${name}?jwt=${encodeURIComponent(ticket)}` : `/${name}`;
    this.points = [];
    this.losses = [];
    this.before = null;
  }

  set(selector, text, mood) {
    const node = this.node.querySelector(selector);
    node.textContent = text;
    node.classList.toggle("good", mood === "good");
    node.classList.toggle("bad", mood === "bad");
  }

  update(status, at) {
    const before = this.before;
    const seconds = before ? (at - before.at) / 1000 : 0;
    const rate = (now, then) => seconds > 0 && now >= then ? megabits(now - then, seconds) : "–";
    this.set(".state", status.live ? "● on the air" : "✕ nothing comes", status.live ? "good" : "bad");
    this.set(".rate", rate(status.media_bytes, before?.status.media_bytes));

    this.losses.push(status.lost);
    if (this.losses.length > MINUTE) this.losses.shift();
    const lost = Math.max(0, status.lost - this.losses[0]);
    this.set(".lost", count(lost, "frame", "frames"), lost > 0 ? "bad" : undefined);

    const quality = status.quality;
    this.set(".p95", quality ? `${Math.round(quality.latency_ms.p95)} ms` : "nobody tells");
    this.set(".stalls", quality ? String(quality.stalls) : "–", quality?.stalls > 0 ? "bad" : undefined);
    this.points.push(quality ? quality.latency_ms.p95 : null);
    if (this.points.length > POINTS) this.points.shift();
    this.curve(status.quality_viewers);

    this.uplinks(status.uplinks, before?.status.uplinks ?? {}, seconds);
    this.keep(status.keep);
    this.before = { status, at };
  }

  curve(viewers) {
    const known = this.points.filter((point) => point !== null);
    const top = Math.max(200, ...known);
    const span = Math.max(FEWEST, this.points.length) - 1;
    const line = this.points.flatMap((point, n) =>
      point === null ? [] : [`${n * 600 / span},${100 - 95 * point / top}`]);
    const svg = this.node.querySelector("svg");
    svg.querySelector("polyline").setAttribute("points", line.join(" "));
    const caption = known.length === 0
      ? "No viewer's page tells its latency yet."
      : `P95 of the slowest of ${count(viewers, "viewer", "viewers")} since this page was opened, at most ten minutes;`
        + ` the top is ${Math.round(top)} ms.`;
    this.node.querySelector("figcaption").textContent = caption;
    svg.setAttribute("aria-label", caption);
  }

  uplinks(now, before, seconds) {
    const rows = Object.entries(now).map(([path, uplink]) => {
      const bytes = uplink.bytes - (before[path]?.bytes ?? uplink.bytes);
      return { ...uplink, rate: seconds > 0 ? Math.max(0, bytes) * 8e-6 / seconds : 0 };
    });
    const most = Math.max(1, ...rows.map((row) => row.rate));
    const items = rows.map((row) => {
      const item = document.createElement("li");
      const name = document.createElement("span");
      name.textContent = row.name;
      name.title = row.name;
      const bar = document.createElement("meter");
      bar.max = most;
      bar.value = row.rate;
      bar.setAttribute("aria-label", `${row.name}, ${row.rate.toFixed(1)} Mb/s`);
      const state = document.createElement("span");
      state.className = row.connected ? "rate" : "rate bad";
      state.textContent = row.connected ? `${row.rate.toFixed(1)} Mb/s` : "✕ away";
      item.append(name, bar, state);
      return item;
    });
    this.node.querySelector(".uplinks").replaceChildren(...items);
  }

  keep(keep) {
    if (!keep) return this.set(".keep", "This relay keeps no copy of the show (--keep DIR).");
    if (keep.failed) return this.set(".keep", `The copy here is not written: ${keep.failed}`, "bad");
    const healed = keep.healed > 0 ? `, ${keep.healed} of them healed` : "";
    const missing = keep.missing > 0 ? `, ${keep.missing} still missing` : "";
    const whole = keep.whole ? " The copy is whole." : "";
    this.set(".keep", `Kept here: ${count(keep.kept, "group", "groups")}${healed}${missing}, `
      + `${(keep.bytes / 1e6).toFixed(1)} MB.${whole}`);
  }
}

async function look() {
  const headers = ticket ? { authorization: `Bearer ${ticket}` } : {};
  const response = await fetch("/api/status", { cache: "no-store", headers });
  if (!response.ok) {
    const refusal = await response.json().catch(() => null);
    const ticketed = response.status === 401 ? ": open this page as /?jwt=TICKET" : "";
    throw new Error((refusal?.message ?? `it answers ${response.status}`) + ticketed);
  }
  const status = await response.json();
  const at = performance.now();
  const names = Object.keys(status.broadcasts).sort();
  for (const name of names) {
    if (!shows.has(name)) shows.set(name, new Show(name));
    shows.get(name).update(status.broadcasts[name], at);
  }
  for (const name of shows.keys()) if (!names.includes(name)) shows.delete(name);
  const nodes = names.map((name) => shows.get(name).node);
  const main = $("shows");
  if (nodes.length !== main.children.length || nodes.some((node, n) => node !== main.children[n])) {
    main.replaceChildren(...nodes);
  }
  const relay = $("relay");
  relay.className = "";
  relay.textContent = names.length === 0
    ? "No show is on the air."
    : count(names.length, "show", "shows") + (status.viewers === null ? "" : `, ${count(status.viewers, "viewer", "viewers")} now, `
      + `${status.viewers_total} since the relay was started`);
}

async function run() {
  try {
    await look();
  } catch (error) {
    const relay = $("relay");
    relay.className = "bad";
    const old = shows.size > 0 ? " What stands below is old." : "";
    relay.textContent = `The relay tells nothing: ${error.message}.${old}`;
  }
  setTimeout(run, INTERVAL_MS);
}

run();
