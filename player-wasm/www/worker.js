// The worker: loads the player and passes messages between it and the page.
import init, { Player } from "/assets/roadie_player_wasm.js";

const ready = init({ module_or_path: "/assets/roadie_player_wasm_bg.wasm" });
let player = null;

// One after the other: nothing overtakes `start`.
let queue = Promise.resolve();
self.onmessage = ({ data }) => {
  queue = queue.then(() => handle(data)).catch((error) => {
    console.error("roadie", error);
    self.postMessage({ type: "state", state: "unsupported", message: `The player could not start (${error}). Please reload the page.` });
  });
};

async function handle(data) {
  switch (data.type) {
    case "start":
      await ready;
      player = new Player(data, data.canvas, (message) => self.postMessage(message));
      break;
    case "audio":
      player?.setAudioPort(data.port);
      break;
    case "audio-time":
      player?.audioTime(data.context, data.local, data.running);
      break;
    case "ask":
      self.postMessage({ type: "answer", id: data.id, value: player?.[data.what]() ?? null });
      break;
  }
}
