// The gene table: sorted by its headings, filtered by name and trust, saved as CSV.

class GeneTable {
  constructor(table, { filter, trusted, count, download }, genes) {
    this.rows = [...table.tBodies[0].rows];
    Object.assign(this, { table, filter, trusted, count, genes });
    for (const button of table.querySelectorAll("thead button")) {
      button.addEventListener("click", () => this.sort(button.closest("th")));
    }
    filter.addEventListener("input", () => this.sift());
    trusted?.addEventListener("change", () => this.sift());
    download.addEventListener("click", () => this.save());
    this.sift();
  }

  sort(heading) {
    const column = [...heading.parentNode.cells].indexOf(heading);
    // A first click puts names from A and numbers from the best end; the next click turns the order round.
    const first = heading.dataset.first;
    const now = heading.getAttribute("aria-sort");
    const ascending = now ? now !== "ascending" : first === "ascending";
    for (const one of heading.parentNode.cells) one.removeAttribute("aria-sort");
    heading.setAttribute("aria-sort", ascending ? "ascending" : "descending");
    const key = (row) => row.cells[column].dataset.sort ?? row.cells[column].textContent;
    const numeric = heading.dataset.kind === "number";
    const compare = (a, b) => {
      if (!numeric) return key(a).localeCompare(key(b), "en", { numeric: true }) * (ascending ? 1 : -1);
      const [x, y] = [parseFloat(key(a)), parseFloat(key(b))];
      // What is not known comes last either way.
      if (Number.isNaN(x) || Number.isNaN(y)) return Number.isNaN(x) - Number.isNaN(y);
      return (x - y) * (ascending ? 1 : -1);
    };
    this.rows.sort(compare);
    this.table.tBodies[0].append(...this.rows);
  }

  sift() {
    const wanted = this.filter.value.trim().toLowerCase();
    let shown = 0;
    for (const row of this.rows) {
      const fits = row.dataset.gene.toLowerCase().includes(wanted) && (!this.trusted?.checked || row.dataset.trusted === "true");
      row.hidden = !fits;
      shown += fits;
    }
    this.count.textContent = shown === this.rows.length ? `${shown} genes` : `${shown} of ${this.rows.length} genes`;
  }

  csv() {
    const columns = ["gene", "pcc", "pcc_low", "pcc_high", "p_value", "q_value", "trusted", "here"];
    const quote = (value) => (/[",\n\r]/.test(value) ? `"${value.replaceAll('"', '""')}"` : value);
    const byName = new Map(this.genes.map((one) => [one.name, one]));
    const line = (row) => {
      const gene = byName.get(row.dataset.gene);
      return columns.map((name) => quote(String((name === "gene" ? gene.name : gene[name]) ?? ""))).join(",");
    };
    return [columns.join(","), ...this.rows.filter((row) => !row.hidden).map(line)].join("\r\n") + "\r\n";
  }

  save() {
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob([this.csv()], { type: "text/csv" }));
    link.download = "genes.csv";
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 1000);
  }
}
