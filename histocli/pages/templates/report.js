"use strict";

// Format a number with four decimals as Python does: an exact tie goes to the even digit.
function format(value) {
  if (!Number.isFinite(value)) return "undefined";
  const exact = value.toFixed(60);
  if (!/^\d+\.\d{4}50*$/.test(exact)) return value.toFixed(4);
  const down = exact.slice(0, exact.indexOf(".") + 5);
  return Number(down.slice(-1)) % 2 ? value.toFixed(4) : down;
}

function thousands(count) {
  return String(count).replace(/\B(?=(\d{3})+$)/g, ",");
}

// The counts and the metrics at a position of the slider; `prevalence` is the assumed one, NaN if there is none.
function valuesAt(points, i, prevalence) {
  const tp = points.tp[i], fp = points.fp[i];
  const fn = points.positives - tp, tn = points.negatives - fp;
  const sensitivity = tp / (tp + fn), specificity = tn / (tn + fp);
  const share = (right, wrong) => right / (right + wrong);
  return {
    counts: { tn, fp, fn, tp },
    metrics: {
      sensitivity, specificity, ppv: share(tp, fp), npv: share(tn, fn), accuracy: share(tp + tn, fp + fn),
      ppv_assumed: share(sensitivity * prevalence, (1 - specificity) * (1 - prevalence)),
      npv_assumed: share(specificity * (1 - prevalence), (1 - sensitivity) * prevalence),
    },
  };
}

// Move the mark of a chart to a threshold; where a rate is undefined there is no mark.
function moveMark(mark, threshold, metrics) {
  const svg = mark.ownerSVGElement, box = (name) => Number(svg.dataset[name]);
  const [x, y] = {
    roc: [1 - metrics.specificity, metrics.sensitivity], pr: [metrics.sensitivity, metrics.ppv], line: [threshold, 0],
  }[mark.dataset.mark];
  mark.style.display = Number.isFinite(x) && Number.isFinite(y) ? "" : "none";
  if (mark.style.display) return;
  const left = box("left") + x * box("width");
  if (mark.dataset.mark === "line") {
    mark.setAttribute("x1", left);
    mark.setAttribute("x2", left);
  } else {
    mark.setAttribute("cx", left);
    mark.setAttribute("cy", box("top") + (1 - y) * box("height"));
  }
}

function nearest(thresholds, value) {
  let best = 0;
  thresholds.forEach((one, i) => { if (Math.abs(one - value) < Math.abs(thresholds[best] - value)) best = i; });
  return best;
}

function setUpThreshold(section) {
  const points = JSON.parse(section.querySelector("script.points").textContent);
  const controls = section.querySelector(".threshold-controls");
  const slider = controls.querySelector("input[type=range]"), number = controls.querySelector("input[type=number]");
  const prevalence = Number(section.querySelector("[data-prevalence]")?.dataset.prevalence);
  const show = (i) => {
    const threshold = points.thresholds[i], { counts, metrics } = valuesAt(points, i, prevalence);
    slider.value = i;
    slider.setAttribute("aria-valuetext", `threshold ${threshold}`);
    number.value = threshold;
    section.querySelectorAll("[data-threshold]").forEach((cell) => { cell.textContent = threshold; });
    section.querySelectorAll("[data-count]").forEach((cell) => { cell.textContent = thousands(counts[cell.dataset.count]); });
    section.querySelectorAll("[data-metric]").forEach((cell) => { cell.textContent = format(metrics[cell.dataset.metric]); });
    section.querySelectorAll("[data-mark]").forEach((mark) => moveMark(mark, threshold, metrics));
  };
  slider.addEventListener("input", () => show(Number(slider.value)));
  number.addEventListener("change", () => {
    const value = number.valueAsNumber;
    show(value >= 0 && value <= 1 ? nearest(points.thresholds, value) : Number(slider.value));
  });
  controls.querySelector("button").addEventListener("click", () => show(points.initial));
  controls.hidden = false;
  show(points.initial);
}

// Sort the rows of a table by a column: first increasing, then decreasing. Cells without a value come last.
function sortBy(table, column, header) {
  const isDescending = header.getAttribute("aria-sort") === "ascending";
  table.querySelectorAll("th[aria-sort]").forEach((one) => one.removeAttribute("aria-sort"));
  header.setAttribute("aria-sort", isDescending ? "descending" : "ascending");
  const isNumber = header.classList.contains("n");
  const valueOf = (row) => row.cells[column].dataset.value ?? row.cells[column].textContent.trim();
  const compare = (a, b) => {
    const [x, y] = [valueOf(a), valueOf(b)];
    if (x === "" || y === "") return (x === "") - (y === "");
    const order = isNumber ? Number(x) - Number(y) : x.localeCompare(y, "en", { numeric: true });
    return isDescending ? -order : order;
  };
  const body = table.tBodies[0];
  body.append(...Array.from(body.rows).sort(compare));
}

function setUpSorting(table) {
  Array.from(table.tHead.rows[0].cells).forEach((header, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...header.childNodes);
    header.append(button);
    button.addEventListener("click", () => sortBy(table, column, header));
  });
}

function setUpFilter(section) {
  const controls = section.querySelector(".filter-controls");
  const [slide, low, high] = controls.querySelectorAll("input");
  const figures = Array.from(section.querySelectorAll(".gallery figure"));
  const filter = () => {
    const text = slide.value.trim().toLowerCase();
    const from = low.value === "" ? 0 : low.valueAsNumber, to = high.value === "" ? 1 : high.valueAsNumber;
    figures.forEach((figure) => {
      const prob = Number(figure.dataset.prob);
      figure.hidden = !(figure.dataset.slide.toLowerCase().includes(text) && prob >= from && prob <= to);
    });
    const count = figures.filter((figure) => !figure.hidden).length;
    controls.querySelector("output").textContent = `${count} of ${figures.length} pictures are shown`;
  };
  controls.addEventListener("input", filter);
  controls.hidden = false;
  filter();
}

// Let the slider of a map enlarge it; what was in the middle of the frame stays there.
function setUpZoom(figure) {
  const controls = figure.querySelector(".zoom-controls"), slider = controls.querySelector("input");
  const frame = figure.querySelector(".frame"), image = frame.querySelector("img");
  slider.addEventListener("input", () => {
    const middle = (start, visible, all) => (start + visible / 2) / all;
    const x = middle(frame.scrollLeft, frame.clientWidth, frame.scrollWidth);
    const y = middle(frame.scrollTop, frame.clientHeight, frame.scrollHeight);
    image.style.width = `${100 * slider.value}%`;
    frame.scrollLeft = x * frame.scrollWidth - frame.clientWidth / 2;
    frame.scrollTop = y * frame.scrollHeight - frame.clientHeight / 2;
    slider.setAttribute("aria-valuetext", `${slider.value} times`);
  });
  controls.hidden = false;
}

document.querySelectorAll(".map").forEach(setUpZoom);
document.querySelectorAll(".evaluation").forEach((section) => {
  if (section.querySelector("script.points")) setUpThreshold(section);
  if (section.querySelector(".filter-controls")) setUpFilter(section);
});
document.querySelectorAll("table.sortable").forEach(setUpSorting);
