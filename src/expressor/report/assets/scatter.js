// Predicted against measured, spot by spot; the marked spot is ringed.

class Scatter {
  constructor(canvas) {
    this.canvas = canvas;
    this.base = document.createElement("canvas");
  }

  draw({ measured, predicted }, rows) {
    const dense = Math.min(window.devicePixelRatio || 1, 2);
    const size = this.canvas.clientWidth;
    this.size = size;
    if (!size) return;
    for (const one of [this.canvas, this.base]) {
      one.width = one.height = Math.round(size * dense);
      one.getContext("2d").setTransform(dense, 0, 0, dense, 0, 0);
    }
    const style = getComputedStyle(document.documentElement);
    this.ink = (name) => style.getPropertyValue(`--${name}`).trim();
    const [low, high] = valueRange([measured, predicted], 1);
    const [left, bottom, pad] = [26, size - 22, 6];
    this.x = (i) => left + pad + ((measured[i] - low) / (high - low)) * (size - left - 2 * pad);
    this.y = (i) => bottom - pad - ((predicted[i] - low) / (high - low)) * (bottom - 2 * pad);
    const context = this.base.getContext("2d");
    this.drawAxes(context, [left, bottom, pad], [low, high]);
    context.fillStyle = this.ink("accent");
    context.globalAlpha = rows.length > 1500 ? 0.25 : 0.55;
    for (const i of rows) {
      if (!Number.isFinite(measured[i]) || !Number.isFinite(predicted[i])) continue;
      context.beginPath();
      context.arc(this.x(i), this.y(i), 2.1, 0, 2 * Math.PI);
      context.fill();
    }
    this.ring(-1);
  }

  drawAxes(context, [left, bottom, pad], [low, high]) {
    const { size } = this;
    const line = (colour, ...points) => {
      context.strokeStyle = colour;
      context.beginPath();
      points.forEach(([x, y], i) => (i ? context.lineTo(x, y) : context.moveTo(x, y)));
      context.stroke();
    };
    line(this.ink("rule"), [left, 0], [left, bottom], [size, bottom]);
    context.setLineDash([4, 3]);
    line(this.ink("muted"), [left + pad, bottom - pad], [size - pad, pad]);
    context.setLineDash([]);
    context.fillStyle = this.ink("muted");
    context.font = "10px system-ui, sans-serif";
    for (const { value, text } of ticksOf([low, high], 4)) {
      const fraction = (value - low) / (high - low);
      context.textAlign = "center";
      context.fillText(text, left + pad + fraction * (size - left - 2 * pad), size - 9);
      context.textAlign = "right";
      context.fillText(text, left - 5, bottom - pad - fraction * (bottom - 2 * pad) + 3);
    }
  }

  // Shows what was drawn, with a ring around the spot in that row of the values; a row below 0 rings none.
  ring(row) {
    if (!this.size) return;
    const context = this.canvas.getContext("2d");
    context.clearRect(0, 0, this.size, this.size);
    context.drawImage(this.base, 0, 0, this.size, this.size);
    if (row < 0 || !Number.isFinite(this.x(row)) || !Number.isFinite(this.y(row))) return;
    context.beginPath();
    context.arc(this.x(row), this.y(row), 5, 0, 2 * Math.PI);
    context.strokeStyle = this.ink("ink");
    context.lineWidth = 2;
    context.stroke();
  }
}
