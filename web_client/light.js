// The face lights the wall behind it: the picture, shrunk to a few colours, shines past its frame.

const COLOURS = 5; // a side
const FADE = [[0, 0], [0.1, 0.1], [0.2, 0.45], [0.3, 0.85], [0.4, 1]]; // opacity along the way to the middle

/** Paint the light of `picture` once; drawn here, the blur and the fade cost nothing while a call runs. */
export function shine(picture, canvas) {
  const { width, height } = canvas;
  const light = canvas.getContext("2d");
  light.imageSmoothingQuality = "high";
  light.globalCompositeOperation = "copy";
  light.filter = "saturate(2)";
  light.drawImage(picture, 0, 0, COLOURS, COLOURS);
  light.filter = "none";
  light.drawImage(canvas, 0, 0, COLOURS, COLOURS, 0, 0, width, height);
  light.globalCompositeOperation = "destination-in";
  for (const [x, y] of [[width, 0], [0, height]]) {
    const fade = light.createLinearGradient(0, 0, x, y);
    for (const [stop, alpha] of FADE) {
      fade.addColorStop(stop, `rgb(0 0 0 / ${alpha})`);
      fade.addColorStop(1 - stop, `rgb(0 0 0 / ${alpha})`);
    }
    light.fillStyle = fade;
    light.fillRect(0, 0, width, height);
  }
}
