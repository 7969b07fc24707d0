// Puts the page together: one gene, one section, and what follows from them.

const $ = (id) => document.getElementById(id);
const data = JSON.parse($("data").textContent);

function loadImage(uri) {
  return new Promise((done) => {
    const image = new Image();
    image.onload = () => done(image);
    image.onerror = () => done(null);
    image.src = uri;
  });
}

function readSections() {
  for (const section of data.sections) {
    for (const one of [section, section.grid]) {
      if (one) Object.assign(one, { x: readFloats(one.x), y: readFloats(one.y) });
    }
    section.rows = Array.from(section.x, (_, i) => section.first + i);
  }
}

class Page {
  constructor(images) {
    this.tissue = new Tissue($("panels"), data, images);
    this.tissue.onMark = (index, at) => this.tell(index, at);
    this.scatter = $("scatter") && new Scatter($("scatter"));
    this.cache = new Map();
    this.chooser = new Chooser(
      { search: $("gene-search"), list: $("gene-list"), order: $("gene-order"), count: $("gene-none") },
      data.genes.filter((one) => one.packed),
      (name) => this.choose(name),
    );
    this.listen();
  }

  async layersOf(name) {
    if (!this.cache.has(name)) {
      if (this.cache.size > 40) this.cache.delete(this.cache.keys().next().value);
      const { packed, dense: packedDense } = data.genes.find((one) => one.name === name);
      const spots = derive(await unpackGene(data.packing, packed, data.spots));
      const dense = packedDense && derive(await unpackGene(data.densePacking, packedDense, data.points));
      this.cache.set(name, { spots, dense });
    }
    return this.cache.get(name);
  }

  async choose(name) {
    this.wanted = name;
    const { spots, dense } = await this.layersOf(name);
    if (this.wanted !== name) return; // a later choice has overtaken this one
    this.gene = data.genes.find((one) => one.name === name);
    this.spots = spots;
    this.dense = dense;
    this.tissue.colour(spots, dense);
    this.describe();
    $("panels").dataset.gene = name;
  }

  section(name) {
    const section = data.sections.find((one) => one.name === name);
    this.tissue.show(section);
    if (this.spots) this.describe();
    $("panels").dataset.section = name;
  }

  describe() {
    const { section } = this.tissue;
    $("gene-name").textContent = this.gene.name;
    const verdict = $("gene-verdict");
    verdict.className = this.gene.trusted === true ? "verdict yes" : "verdict no";
    verdict.textContent = { true: "Trusted", false: "Not trusted", null: "No verdict" }[String(this.gene.trusted)];
    const known = Number.isFinite(this.gene.pcc ?? NaN);
    const bounds = Number.isFinite(this.gene.pcc_low ?? NaN) ? ` (${say(this.gene.pcc_low)} to ${say(this.gene.pcc_high)})` : "";
    const words = [known ? `Correlation on held-out tissue ${say(this.gene.pcc)}${bounds}.` : "Its correlation is not known."];
    if (this.spots.measured) {
      const here = correlation(this.spots.predicted, this.spots.measured, section.rows);
      words.push(
        Number.isFinite(here)
          ? `In section ${section.name}: ${say(here)}${this.gene.trusted && here <= 0 ? ", against the verdict" : ""}.`
          : `In section ${section.name} it is undefined, because one of the two does not vary.`,
      );
    }
    $("gene-words").textContent = words.join(" ");
    $("panels").setAttribute(
      "aria-label",
      `${this.gene.name} in section ${section.name}. Arrow keys move from spot to spot, plus and minus zoom, 0 shows all.`,
    );
    this.scatter?.draw(this.spots, section.rows);
    this.tell(this.tissue.marked);
  }

  // What is known of the marked spot: in the sidebar, and beside the pointer.
  tell(index, at) {
    const tip = $("tip");
    const { section } = this.tissue;
    if (index < 0 || !this.spots) {
      tip.hidden = true;
      $("spot").textContent = "Point at a spot, or use the arrow keys on the tissue.";
    } else {
      const row = section.first + index;
      const { measured, predicted, lower, upper, error } = this.spots;
      const lines = [];
      if (measured) lines.push(["measured", say(measured[row])]);
      lines.push(["predicted", say(predicted[row])]);
      if (lower) lines.push(["interval", `${say(lower[row])} to ${say(upper[row])}`]);
      if (error) lines.push(["error", say(error[row])]);
      const id = section.ids ? section.ids[index] : String(index);
      $("spot").textContent = `Spot ${id}: ${lines.map((one) => one.join(" ")).join(", ")}`;
      this.tip(tip, id, lines, at);
    }
    if (this.spots) this.scatter?.ring(index < 0 ? -1 : section.first + index);
  }

  tip(tip, id, lines, at) {
    this.pointed = Boolean(at);
    if (!at) {
      const { panels } = this.tissue;
      const box = panels[0].canvas.getBoundingClientRect();
      const [x, y] = this.tissue.place(panels[0], this.tissue.section.x[this.tissue.marked], this.tissue.section.y[this.tissue.marked]);
      at = [box.left + x, box.top + y];
    }
    const title = document.createElement("strong");
    title.textContent = id;
    const list = document.createElement("dl");
    for (const [term, value] of lines) {
      const [dt, dd] = [document.createElement("dt"), document.createElement("dd")];
      dt.textContent = term;
      dd.textContent = value;
      list.append(dt, dd);
    }
    tip.replaceChildren(title, list);
    tip.hidden = false;
    const box = tip.getBoundingClientRect();
    const x = at[0] + 16 + box.width > window.innerWidth ? at[0] - 16 - box.width : at[0] + 16;
    const y = Math.max(4, Math.min(at[1] + 16, window.innerHeight - box.height - 4));
    tip.style.transform = `translate(${Math.max(4, x)}px, ${y}px)`;
  }

  listen() {
    for (const one of document.querySelectorAll("input[name=section]")) {
      one.addEventListener("change", () => this.section(one.value));
    }
    $("section-select")?.addEventListener("change", (event) => this.section(event.target.value));
    const { look } = this.tissue;
    $("opacity").addEventListener("input", (event) => {
      look.opacity = event.target.value / 100;
      $("opacity-value").textContent = `${event.target.value} %`;
      this.tissue.draw();
    });
    for (const name of ["stain", "own", "dense"]) {
      $(name)?.addEventListener("change", (event) => {
        look[name] = event.target.checked;
        if (this.spots) this.tissue.colour(this.spots, this.dense);
      });
    }
    $("zoom-in").addEventListener("click", () => this.tissue.zoom(1.6));
    $("zoom-out").addEventListener("click", () => this.tissue.zoom(1 / 1.6));
    $("zoom-all").addEventListener("click", () => this.tissue.zoom(0));
    for (const button of document.querySelectorAll("#gene-table button[data-show]")) {
      button.addEventListener("click", () => {
        $("gene-search").value = "";
        this.chooser.build();
        this.chooser.choose(button.closest("tr").dataset.gene);
        $("tissue").scrollIntoView({ behavior: matchMedia("(prefers-reduced-motion: reduce)").matches ? "auto" : "smooth" });
      });
    }
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.spots && this.describe());
    window.addEventListener("beforeprint", () => {
      for (const one of document.querySelectorAll("details")) one.open = true;
    });
    // The page moves under a resting pointer, so its tip goes; a tip called by the keyboard goes along with its spot.
    const follow = () => {
      if ($("tip").hidden) return;
      if (this.pointed) $("tip").hidden = true;
      else this.tell(this.tissue.marked);
    };
    window.addEventListener("scroll", follow, { passive: true });
  }
}

async function start() {
  readSections();
  const images = new Map();
  for (const section of data.sections) {
    if (section.image) images.set(section.name, await loadImage(section.image));
  }
  const page = new Page(images);
  page.section(data.sections[0].name);
  page.chooser.choose(page.chooser.found[0].name);
  new GeneTable(
    $("gene-table"),
    { filter: $("table-filter"), trusted: $("table-trusted"), count: $("table-count"), download: $("table-csv") },
    data.genes,
  );
  document.body.dataset.ready = "true";
}

start().catch((error) => {
  $("trouble").hidden = false;
  $("trouble").textContent = `The interactive part could not start (${error.message}). A browser from 2023 or later is needed.`;
  throw error;
});
