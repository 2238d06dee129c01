"use strict";
const data = JSON.parse(document.getElementById("data").textContent);
const find = (id) => document.getElementById(id);

// Names come from outside: they become text, never markup.
function make(tag, content = "", name = "") {
  const element = document.createElement(tag);
  element.textContent = content;
  if (name) element.className = name;
  return element;
}

function picture(index, title) {
  if (index < 0) return make("div", "cannot be read", "none");
  const image = make("img");
  image.src = data.thumbnails[index];
  image.alt = image.title = title;
  return image;
}

for (const slot of document.querySelectorAll("[data-thumb]")) {
  slot.prepend(picture(Number(slot.dataset.thumb), slot.dataset.title));
}

// ---- queries ----------------------------------------------------------------------------------

const PAGE = 10;
let shown = PAGE;

function part() { return data.parts[Number(find("part").value)]; }

function drawPanel([query, thumbnail, identity, , ten]) {
  const panel = make("article", "", "panel"), left = make("div", "", "query");
  left.append(picture(thumbnail, query), make("b", identity), make("span", query, "faint"));
  const list = make("ol", "", "ten");
  for (const [name, index, score, retrieved, hit] of ten) {
    const item = make("li", "", hit === null ? "" : hit ? "hit" : "miss");
    const suffix = hit === null ? "" : hit ? ", a hit" : ", a miss";
    item.append(picture(index, name + suffix), make("em", score.toFixed(3)), make("span", retrieved));
    item.title = retrieved ? `${name}: ${retrieved}${suffix}` : name;
    list.append(item);
  }
  panel.append(left, list);
  return panel;
}

function drawPanels() {
  const order = find("order").value, identity = find("identity").value;
  let panels = part().panels.filter((panel) => !identity || panel[2] === identity);
  if (order === "best") panels = [...panels].reverse();
  if (order === "random") panels = [...panels].sort((a, b) => a[3] - b[3]);
  const option = find("order").selectedOptions[0].textContent;
  find("ordering").textContent =
    order === "random" ? "In random order." : `Ordered ${part().order}: ${option}.`;
  find("panels").replaceChildren(...panels.slice(0, shown).map(drawPanel));
  find("more").hidden = panels.length <= shown;
  find("count").textContent =
    `${Math.min(shown, panels.length)} of ${panels.length} queries` +
    (part().panels.length < part().total ? `, chosen from ${part().total}` : "");
}

function choosePart() {
  const {known, panels} = part();
  find("legend").hidden = !known;
  const [worst, best] = find("order").options;
  worst.textContent = known ? "worst first" : "least similar first";
  best.textContent = known ? "best first" : "most similar first";
  const names = [...new Set(panels.map((panel) => panel[2]).filter(Boolean))].sort();
  find("identity").replaceChildren(new Option("all", ""), ...names.map((n) => new Option(n)));
  find("identity").parentElement.hidden = !names.length;
  shown = PAGE;
  drawPanels();
}

find("part").addEventListener("change", choosePart);
for (const id of ["order", "identity"]) {
  find(id).addEventListener("change", () => { shown = PAGE; drawPanels(); });
}
find("more").addEventListener("click", () => { shown += PAGE; drawPanels(); });
choosePart();

// ---- the map ----------------------------------------------------------------------------------

const SVG = "http://www.w3.org/2000/svg";
const WIDTH = 1000, HEIGHT = 640, EDGE = 24, NEAR = 26;
const SHAPES = [
  "M-5,0a5,5 0 1,0 10,0a5,5 0 1,0 -10,0z", "M-4.4,-4.4h8.8v8.8h-8.8z", "M0,-6L5.6,4.4H-5.6z",
  "M0,-6L6,0L0,6L-6,0z", "M-2,-6h4v4h4v4h-4v4h-4v-4h-4v-4h4z", "M0,6L5.6,-4.4H-5.6z",
];
// The golden angle keeps the hues of any number of identities apart.
const color = (i) => `hsl(${(i * 137.5) % 360} 55% ${50 + 12 * ((i % 3) - 1)}%)`;

function drawShape(domain, fill) {
  const path = document.createElementNS(SVG, "path");
  path.setAttribute("d", SHAPES[domain % SHAPES.length]);
  path.setAttribute("fill", fill);
  return path;
}

function drawMap({identities, domains, points}) {
  const svg = document.createElementNS(SVG, "svg"), tip = find("tip"), figure = find("map");
  svg.setAttribute("viewBox", `0 0 ${WIDTH} ${HEIGHT}`);
  svg.setAttribute("role", "img");
  svg.setAttribute("aria-label", "Map of the embeddings");
  const most = [0, 1].map((axis) => Math.max(...points.map((point) => point[axis]), 1e-9));
  const position = (point) => [
    EDGE + point[0] / most[0] * (WIDTH - 2 * EDGE), EDGE + point[1] / most[1] * (HEIGHT - 2 * EDGE),
  ];
  const dots = points.map((point) => {
    const dot = drawShape(point[4], color(point[3])), [x, y] = position(point);
    dot.setAttribute("transform", `translate(${x.toFixed(1)},${y.toFixed(1)})`);
    svg.append(dot);
    return {point, dot, x, y};
  });
  figure.prepend(svg);
  domains.forEach((domain, i) => {
    const sign = document.createElementNS(SVG, "svg"), label = make("span", ` ${domain}`);
    sign.setAttribute("viewBox", "-7 -7 14 14");
    sign.setAttribute("width", "14");
    sign.append(drawShape(i, "currentColor"));
    label.prepend(sign);
    find("domains").append(label);
  });

  let chosen = "", at = null;
  function mark() {
    for (const {point, dot} of dots) {
      dot.classList.toggle("off", chosen !== "" && identities[point[3]] !== chosen);
    }
  }
  function leave() {
    at?.dot.classList.remove("on");
    at = null;
    tip.style.display = "none";
  }
  function show(event) {
    const box = svg.getBoundingClientRect(), scale = WIDTH / box.width;
    const x = (event.clientX - box.left) * scale, y = (event.clientY - box.top) * scale;
    let nearest = null, least = (NEAR * Math.max(1, scale / 2)) ** 2;
    for (const candidate of dots) {
      if (chosen && identities[candidate.point[3]] !== chosen) continue;
      const far = (candidate.x - x) ** 2 + (candidate.y - y) ** 2;
      if (far < least) [nearest, least] = [candidate, far];
    }
    if (nearest === at) return;
    leave();
    if (!nearest) return;
    at = nearest;
    at.dot.classList.add("on");
    svg.append(at.dot);
    const [, , thumbnail, identity, domain, path] = at.point;
    tip.replaceChildren(
      picture(thumbnail, path), make("b", identities[identity]),
      make("span", `${domains[domain]}, ${path}`, "faint"));
    tip.style.display = "block";
    const left = at.x / scale, top = at.y / scale;
    tip.style.left = `${left + 14 + tip.offsetWidth > box.width ? Math.max(0, left - 14 - tip.offsetWidth) : left + 14}px`;
    tip.style.top = `${Math.max(0, Math.min(top - 20, box.height - tip.offsetHeight))}px`;
  }
  svg.addEventListener("pointermove", show);
  svg.addEventListener("pointerdown", show);
  svg.addEventListener("pointerleave", (event) => { if (event.pointerType === "mouse") leave(); });
  const filter = find("map-identity");
  filter.append(...identities.map((name) => new Option(name)));
  filter.addEventListener("change", () => { chosen = filter.value; leave(); mark(); });
}

if (data.map) drawMap(data.map);
