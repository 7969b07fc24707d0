// The gene chooser: a search field above a list; the arrow keys move through what the search leaves.

class Chooser {
  constructor({ search, list, order, count }, genes, onChoose) {
    Object.assign(this, { search, list, order, count, genes, onChoose });
    this.current = null;
    this.build();
    search.addEventListener("input", () => this.build());
    order.addEventListener("change", () => this.build());
    search.addEventListener("keydown", (event) => this.key(event));
    list.addEventListener("keydown", (event) => this.key(event));
    list.addEventListener("click", (event) => {
      const item = event.target.closest("[role=option]");
      if (item) this.choose(item.dataset.gene);
    });
  }

  build() {
    const wanted = this.search.value.trim().toLowerCase();
    this.found = this.genes.filter((one) => one.name.toLowerCase().includes(wanted));
    if (this.order.value === "name") this.found.sort((a, b) => a.name.localeCompare(b.name, "en", { numeric: true }));
    this.list.replaceChildren(...this.found.map((one) => this.item(one)));
    this.count.textContent = this.found.length ? "" : "No gene of that name is here.";
    this.select();
  }

  item(gene) {
    const item = document.createElement("li");
    item.setAttribute("role", "option");
    item.id = `gene-${gene.index}`;
    item.dataset.gene = gene.name;
    const mark = document.createElement("span");
    mark.className = `mark ${gene.trusted === true ? "yes" : gene.trusted === false ? "no" : "unknown"}`;
    const name = document.createElement("span");
    name.className = "name";
    name.textContent = gene.name;
    const value = document.createElement("span");
    value.className = "number";
    value.textContent = say(gene.pcc ?? NaN);
    item.setAttribute("aria-label", `${gene.name}, correlation ${say(gene.pcc ?? NaN)}, ${trustWords(gene.trusted)}`);
    item.append(mark, name, value);
    return item;
  }

  key(event) {
    const at = this.found.findIndex((one) => one.name === this.current);
    const moves = { ArrowDown: at + 1, ArrowUp: at - 1, PageDown: at + 10, PageUp: at - 10 };
    if (event.target === this.list) Object.assign(moves, { Home: 0, End: this.found.length - 1 });
    let to = moves[event.key];
    if (event.key === "Enter" && this.found.length) to = at < 0 ? 0 : at;
    if (to === undefined || !this.found.length) return;
    event.preventDefault();
    this.choose(this.found[Math.max(0, Math.min(this.found.length - 1, to))].name);
  }

  choose(name) {
    this.current = name;
    this.select();
    this.onChoose(name);
  }

  select() {
    let active = "";
    for (const item of this.list.children) {
      const chosen = item.dataset.gene === this.current;
      item.setAttribute("aria-selected", String(chosen));
      if (chosen) {
        active = item.id;
        // Scrolls the list alone, never the page.
        const [top, bottom] = [item.offsetTop, item.offsetTop + item.offsetHeight];
        if (top < this.list.scrollTop) this.list.scrollTop = top;
        else if (bottom > this.list.scrollTop + this.list.clientHeight) this.list.scrollTop = bottom - this.list.clientHeight;
      }
    }
    for (const one of [this.list, this.search]) {
      if (active) one.setAttribute("aria-activedescendant", active);
      else one.removeAttribute("aria-activedescendant");
    }
  }
}

const trustWords = (trusted) => (trusted === true ? "trusted" : trusted === false ? "not trusted" : "no verdict");
