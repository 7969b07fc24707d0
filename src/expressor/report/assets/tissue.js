// The linked panels: one view (centre and zoom), one marked spot, one gene, drawn on every panel.

const parseHex = (hex) => [1, 3, 5].map((at) => parseInt(hex.slice(at, at + 2), 16));

function colourLookup(stops) {
  const colours = stops.map(parseHex);
  return Array.from({ length: 256 }, (_, i) => {
    const place = (i / 255) * (colours.length - 1);
    const below = Math.min(Math.floor(place), colours.length - 2);
    const mix = colours[below].map((one, c) => Math.round(one + (colours[below + 1][c] - one) * (place - below)));
    return `rgb(${mix.join(",")})`;
  });
}

const colourOf = (lookup, value, [low, high]) =>
  lookup[Math.max(0, Math.min(255, Math.round(((value - low) / (high - low)) * 255)))];

class Panel {
  constructor(element, lookup) {
    this.element = element;
    this.kind = element.dataset.kind;
    this.lookup = lookup;
    this.canvas = element.querySelector("canvas");
    this.legend = element.querySelector(".legend");
    this.base = document.createElement("canvas");
  }

  resize() {
    const dense = Math.min(window.devicePixelRatio || 1, 2);
    const box = this.canvas.getBoundingClientRect();
    this.width = box.width;
    this.height = box.height;
    for (const one of [this.canvas, this.base]) {
      one.width = Math.max(1, Math.round(box.width * dense));
      one.height = Math.max(1, Math.round(box.height * dense));
      one.getContext("2d").setTransform(dense, 0, 0, dense, 0, 0);
    }
  }

  // The legend: the colours themselves, ticks in the stated unit.
  label(range, stops) {
    if (!this.legend) return;
    this.legend.querySelector(".bar").style.backgroundImage = `linear-gradient(to right, ${stops.join(",")})`;
    const ticks = ticksOf(range).map(({ value, text }) => {
      const tick = document.createElement("span");
      tick.style.left = `${(100 * (value - range[0])) / (range[1] - range[0])}%`;
      tick.textContent = text;
      return tick;
    });
    this.legend.querySelector(".ticks").replaceChildren(...ticks);
  }
}

class Tissue {
  constructor(root, data, images) {
    this.root = root;
    this.data = data;
    this.images = images;
    this.panels = [...root.querySelectorAll(".panel")].map(
      (one) => new Panel(one, data.stops[one.dataset.kind] && colourLookup(data.stops[one.dataset.kind])),
    );
    this.look = { opacity: 1, stain: false, own: false, dense: false };
    this.marked = -1;
    this.onMark = () => {};
    this.listen();
  }

  show(section) {
    this.section = section;
    this.marked = -1;
    const [left, top, right, bottom] = section.box;
    this.home = { x: (left + right) / 2, y: (top + bottom) / 2, zoom: 1 };
    this.view = { ...this.home };
    const aspect = Math.max(0.6, Math.min(1.8, (right - left) / (bottom - top)));
    this.root.style.setProperty("--aspect", aspect.toFixed(4));
    this.resize();
  }

  colour(layers, dense) {
    this.layers = layers;
    this.denseLayers = dense;
    const own = this.look.own ? valueRange([layers.predicted]) : null;
    const shared = valueRange([layers.measured, layers.predicted]);
    this.ranges = {
      measured: shared,
      predicted: own || shared,
      width: layers.width && widthRange(layers.width),
      error: layers.error && errorRange(layers.error),
    };
    const constant = layers.width ? constantWidth(layers.width) : null;
    for (const note of this.root.querySelectorAll(".same")) {
      note.textContent = constant === null ? "" : `, ${say(constant)} in every spot`;
    }
    for (const panel of this.panels) {
      if (this.ranges[panel.kind]) panel.label(this.ranges[panel.kind], this.data.stops[panel.kind]);
    }
    this.draw();
  }

  resize() {
    for (const panel of this.panels) panel.resize();
    this.draw();
  }

  scale(panel) {
    const [left, top, right, bottom] = this.section.box;
    return Math.min(panel.width / (right - left), panel.height / (bottom - top)) * this.view.zoom;
  }

  place(panel, x, y) {
    const scale = this.scale(panel);
    return [(x - this.view.x) * scale + panel.width / 2, (y - this.view.y) * scale + panel.height / 2];
  }

  unplace(panel, px, py) {
    const scale = this.scale(panel);
    return [(px - panel.width / 2) / scale + this.view.x, (py - panel.height / 2) / scale + this.view.y];
  }

  draw() {
    if (!this.section || !this.layers) return;
    for (const panel of this.panels) {
      if (panel.width > 0) this.drawPanel(panel);
    }
    this.paint();
  }

  drawPanel(panel) {
    const context = panel.base.getContext("2d");
    context.globalAlpha = 1;
    context.fillStyle = "#fff";
    context.fillRect(0, 0, panel.width, panel.height);
    const image = this.images.get(this.section.name);
    if (image) {
      const [left, top, right, bottom] = this.section.box;
      const [x, y] = this.place(panel, left, top);
      const scale = this.scale(panel);
      context.globalAlpha = this.look.stain || panel.kind === "tissue" ? 1 : 5 / 9;
      context.drawImage(image, x, y, (right - left) * scale, (bottom - top) * scale);
    }
    context.globalAlpha = this.look.opacity;
    if (panel.kind !== "tissue") this.drawValues(context, panel);
    context.globalAlpha = 1;
    this.drawScaleBar(context, panel);
  }

  drawValues(context, panel) {
    const grid = this.section.grid;
    const dense = this.look.dense && grid && this.denseLayers && this.denseLayers[panel.kind];
    const values = dense ? this.denseLayers[panel.kind] : this.layers[panel.kind];
    if (!values) return;
    const { x, y, first } = dense ? grid : this.section;
    const size = (dense ? grid.spacing : this.section.drawn) * this.scale(panel);
    const radius = Math.max(size / 2, 0.8);
    for (let i = 0; i < x.length; i++) {
      const [px, py] = this.place(panel, x[i], y[i]);
      if (px < -size || py < -size || px > panel.width + size || py > panel.height + size) continue;
      const value = values[first + i];
      if (Number.isFinite(value)) context.fillStyle = colourOf(panel.lookup, value, this.ranges[panel.kind]);
      if (dense) {
        if (Number.isFinite(value)) context.fillRect(px - radius, py - radius, size + 0.6, size + 0.6);
        continue;
      }
      context.beginPath();
      context.arc(px, py, radius, 0, 2 * Math.PI);
      if (Number.isFinite(value)) context.fill();
      else this.outline(context, "#8a8499", 1);
    }
  }

  outline(context, colour, width) {
    context.strokeStyle = colour;
    context.lineWidth = width;
    context.stroke();
  }

  drawScaleBar(context, panel) {
    const microns = this.section.umPerPx;
    if (!microns) return;
    const scale = this.scale(panel) / microns;
    const most = (panel.width * 0.28) / scale;
    const power = 10 ** Math.floor(Math.log10(most));
    const length = [5, 2, 1].map((one) => one * power).find((one) => one <= most);
    const [left, bottom] = [12, panel.height - 12];
    context.fillStyle = "#221d30";
    context.fillRect(left, bottom - 2, length * scale, 2);
    context.font = "11px system-ui, sans-serif";
    context.fillText(length >= 1000 ? `${length / 1000} mm` : `${length} \u00b5m`, left, bottom - 7);
  }

  // Copies the drawn panels to the screen, with the marked spot ringed in all of them.
  paint() {
    for (const panel of this.panels) {
      if (!(panel.width > 0)) continue;
      const context = panel.canvas.getContext("2d");
      context.drawImage(panel.base, 0, 0, panel.width, panel.height);
      if (this.marked < 0) continue;
      const [x, y] = this.place(panel, this.section.x[this.marked], this.section.y[this.marked]);
      const radius = Math.max((this.section.drawn * this.scale(panel)) / 2, 2) + 2;
      for (const [colour, width] of [["#fff", 4.5], ["#221d30", 2]]) {
        context.beginPath();
        context.arc(x, y, radius, 0, 2 * Math.PI);
        this.outline(context, colour, width);
      }
    }
  }

  mark(index, at) {
    this.marked = index;
    this.paint();
    this.onMark(index, at);
  }

  // The spot nearest to a place, if it is near enough to be meant.
  nearest(x, y, reach = 0.75 * this.section.pitch) {
    let [best, distance] = [-1, reach ** 2];
    for (let i = 0; i < this.section.x.length; i++) {
      const d = (this.section.x[i] - x) ** 2 + (this.section.y[i] - y) ** 2;
      if (d < distance) [best, distance] = [i, d];
    }
    return best;
  }

  // The next spot in a direction: the nearest inside a cone of 45 degrees to either side.
  step(dx, dy) {
    const { x, y } = this.section;
    if (this.marked < 0) return this.nearest(this.view.x, this.view.y, Infinity);
    let [best, distance] = [this.marked, Infinity];
    for (let i = 0; i < x.length; i++) {
      const [ax, ay] = [x[i] - x[this.marked], y[i] - y[this.marked]];
      const along = ax * dx + ay * dy;
      const aside = Math.abs(ax * dy) + Math.abs(ay * dx);
      if (along > 1e-6 && aside <= along && along + 2 * aside < distance) [best, distance] = [i, along + 2 * aside];
    }
    return best;
  }

  zoom(factor, x = this.view.x, y = this.view.y) {
    const zoom = Math.max(1, Math.min(12, this.view.zoom * factor));
    const kept = this.view.zoom / zoom;
    this.view = { x: x + (this.view.x - x) * kept, y: y + (this.view.y - y) * kept, zoom };
    if (zoom === 1) this.view = { ...this.home };
    this.clamp();
    this.draw();
  }

  clamp() {
    const [left, top, right, bottom] = this.section.box;
    this.view.x = Math.max(left, Math.min(right, this.view.x));
    this.view.y = Math.max(top, Math.min(bottom, this.view.y));
    this.root.classList.toggle("zoomed", this.view.zoom > 1);
  }

  listen() {
    const keys = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
    this.root.addEventListener("keydown", (event) => {
      if (event.ctrlKey || event.metaKey || event.altKey) return;
      if (keys[event.key]) this.mark(this.step(...keys[event.key]));
      else if (event.key === "+" || event.key === "=") this.zoom(1.5, ...this.focus());
      else if (event.key === "-") this.zoom(1 / 1.5, ...this.focus());
      else if (event.key === "0") this.zoom(0);
      else if (event.key === "Escape") this.mark(-1);
      else return;
      event.preventDefault();
    });
    for (const panel of this.panels) this.listenPanel(panel);
    new ResizeObserver(() => this.section && this.resize()).observe(this.root);
  }

  focus() {
    return this.marked < 0 ? [this.view.x, this.view.y] : [this.section.x[this.marked], this.section.y[this.marked]];
  }

  listenPanel(panel) {
    const { canvas } = panel;
    let drag = null;
    const at = (event) => {
      const box = canvas.getBoundingClientRect();
      return [event.clientX - box.left, event.clientY - box.top];
    };
    canvas.addEventListener("pointermove", (event) => {
      const [px, py] = at(event);
      if (drag && this.view.zoom > 1) {
        const scale = this.scale(panel);
        this.view.x -= (px - drag[0]) / scale;
        this.view.y -= (py - drag[1]) / scale;
        drag = [px, py];
        this.clamp();
        this.draw();
        return;
      }
      const index = this.nearest(...this.unplace(panel, px, py));
      if (index !== this.marked || index >= 0) this.mark(index, [event.clientX, event.clientY]);
    });
    canvas.addEventListener("pointerdown", (event) => {
      drag = at(event);
      if (this.view.zoom > 1) canvas.setPointerCapture(event.pointerId);
    });
    for (const end of ["pointerup", "pointercancel"]) canvas.addEventListener(end, () => (drag = null));
    canvas.addEventListener("pointerleave", (event) => event.pointerType === "mouse" && this.mark(-1));
    canvas.addEventListener("dblclick", (event) => this.zoom(event.shiftKey ? 0.5 : 2, ...this.unplace(panel, ...at(event))));
    canvas.addEventListener(
      "wheel",
      (event) => {
        // A plain wheel scrolls the page; with Ctrl or Command (or a pinch) it zooms the tissue.
        if (!event.ctrlKey && !event.metaKey) return;
        event.preventDefault();
        this.zoom(Math.exp(-event.deltaY * 0.004), ...this.unplace(panel, ...at(event)));
      },
      { passive: false },
    );
  }
}
