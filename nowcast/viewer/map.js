// The map: the cells of one frame, the lines above them, degrees at the edges and a scale bar.

const BAR_KM = [1, 2, 5, 10, 20, 50, 100, 200, 500];

// Draw one frame of a forecast in the canvas of an element that also holds the scale bar.
export function drawMap(place, view, frame) {
  const { told } = view;
  const { width, height } = told.tile;
  place.style.setProperty("--aspect", told.kilometres.across / told.kilometres.up);
  const map = place.querySelector("canvas");
  const pixels = window.devicePixelRatio || 1;
  const size = [Math.round(map.clientWidth * pixels), Math.round(map.clientHeight * pixels)];
  if (map.width !== size[0] || map.height !== size[1]) [map.width, map.height] = size;
  const sheet = frame.observed ? told.observed : { ...told.forecast, file: view.layer.file };
  const column = frame.tile % sheet.columns;
  const row = Math.floor(frame.tile / sheet.columns);
  const context = map.getContext("2d");
  context.fillStyle = "#fff";
  context.fillRect(0, 0, ...size);
  // Cells keep their edges where they are larger than a pixel of the screen.
  context.imageSmoothingEnabled = size[0] < width;
  context.drawImage(view.pictures.get(sheet.file).image, column * width, row * height, width, height, 0, 0, ...size);
  context.imageSmoothingEnabled = true;
  context.imageSmoothingQuality = "high";
  context.drawImage(view.pictures.get(told.lines).image, 0, 0, ...size);
  drawDegrees(context, told.degrees, size, pixels);
  drawBar(place.querySelector(".scale-bar"), told.kilometres.across, map.clientWidth);
}

function drawDegrees(context, degrees, [width, height], pixels) {
  context.font = `${12 * pixels}px system-ui, sans-serif`;
  context.lineWidth = 3 * pixels;
  context.strokeStyle = "#ffffffd9";
  context.fillStyle = "#3a4550";
  const write = (text, x, y) => {
    context.strokeText(text, x, y);
    context.fillText(text, x, y);
  };
  context.textAlign = "center";
  const room = 30 * pixels;
  for (const { at, label } of degrees.south) {
    // The corner at the right belongs to the scale bar.
    if (at * width > room && at * width < width - 5 * room) write(label, at * width, height - 4 * pixels);
  }
  context.textAlign = "left";
  for (const { at, label } of degrees.west) {
    if (at * height > room / 2 && at * height < height - room) write(label, 4 * pixels, at * height + 4 * pixels);
  }
}

function drawBar(bar, across, width) {
  const room = Math.min(110, width / 3);
  const length = BAR_KM.findLast((km) => (km / across) * width <= room) ?? BAR_KM[0];
  bar.querySelector("span").textContent = `${length} km`;
  bar.querySelector("i").style.width = `${(length / across) * width}px`;
}
