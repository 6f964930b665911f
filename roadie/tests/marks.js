// The marks that are drawn into the test picture: 3 rows of 32 cells of 16 pixels. How bright the cells of a video's
// picture are is read from its pixels; what they say, `media::mark` knows.
const CELL = 16, COLUMNS = 32, ROWS = 3;
const canvas = new OffscreenCanvas(COLUMNS * CELL, ROWS * CELL);
const context = canvas.getContext("2d", { willReadFrequently: true });

function brightness(video) {
  // They shrink with the picture, which is 1280 wide where the uplinks carry it.
  const scale = video.videoWidth / 1280;
  const from = [0, 0, canvas.width * scale, canvas.height * scale];
  context.drawImage(video, ...from, 0, 0, canvas.width, canvas.height);
  const { data } = context.getImageData(0, 0, canvas.width, canvas.height);
  const cells = [];
  for (let row = 0; row < ROWS; row++) {
    for (let column = 0; column < COLUMNS; column++) {
      const at = ((row * CELL + CELL / 2) * canvas.width + column * CELL + CELL / 2) * 4;
      // Luma (BT.709): the picture below shines through in its colours.
      cells.push(Math.round(0.2126 * data[at] + 0.7152 * data[at + 1] + 0.0722 * data[at + 2]));
    }
  }
  return cells;
}

/// Calls `see` with the cells of each picture that is shown, and when that was.
function watchMarks(video, see) {
  const painted = () => {
    see({ cells: brightness(video), time_ms: Date.now() });
    video.requestVideoFrameCallback(painted);
  };
  video.requestVideoFrameCallback(painted);
}
