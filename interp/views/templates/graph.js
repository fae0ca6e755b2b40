(() => {
  const { tokens, rows, nodes, links, pinned, groups, clicked } = JSON.parse(document.getElementById("data").textContent);
  const [SPACE, ACROSS, GUTTER, LISTED] = [18, 4, 70, 12]; // pixels of a node, nodes side by side, row names, links listed
  const $ = (id) => document.getElementById(id);
  const build = (space) => (name, attributes = {}, ...children) => {
    const element = document.createElementNS(space, name);
    for (const [key, value] of Object.entries(attributes)) {
      if (key.startsWith("on")) element.addEventListener(key.slice(2), value);
      else if (value !== null && value !== false) element.setAttribute(key, value);
    }
    element.append(...children); // texts are appended as text, never as HTML
    return element;
  };
  const html = build("http://www.w3.org/1999/xhtml"), svg = build("http://www.w3.org/2000/svg");
  const number = (value) => {
    const text = value && Math.abs(value) < 1e-3 ? value.toExponential(1) : Number(value.toPrecision(3)).toString();
    return text.replaceAll("-", "−");
  };
  const cut = (text, width) => (text.length > width ? `${text.slice(0, width - 1)}…` : text);
  const sign = (value) => (value < 0 ? "edge negative" : "edge");
  const inputs = nodes.map(() => []), outputs = nodes.map(() => []); // strongest first, as links are
  links.forEach(([source, target, weight]) => {
    inputs[target].push([source, weight]);
    outputs[source].push([target, weight]);
  });
  const heaviest = Math.max(...links.slice(0, 1).map(([, , weight]) => Math.abs(weight)), 1e-30);
  const largest = Math.max(...nodes.map((node) => Math.abs(node.measured ?? 0)), 1e-30);
  const byId = new Map(nodes.map((node, index) => [node.id, index]));
  const where = ({ row, position }) => `${rows[row]}, position ${position}, ${JSON.stringify(tokens[position])}`;

  const short = ({ row, position }) => `${rows[row].replace("layer ", "")} · ${cut(tokens[position].trim(), 9)}`;

  // What the user chose; the address of the page holds it.
  let current = byId.get(clicked) ?? null;
  let pins = new Set(), supers = [];
  const choose = (ids, named) => {
    pins = new Set(ids.map((id) => byId.get(id)).filter((index) => index !== undefined));
    supers = named.map(([name, ...members]) => ({ name: String(name), members: members.map((id) => byId.get(id)).filter((index) => index !== undefined) }));
    supers = supers.filter(({ members }) => members.length);
    supers.forEach(({ members }) => members.forEach((index) => pins.add(index)));
  };
  choose(pinned, groups);
  try {
    const [ids, named] = JSON.parse(decodeURIComponent(location.hash.slice(1)));
    choose(ids, named);
  } catch { /* no choices of ours in the address */ }
  const saved = () => {
    const named = supers.map(({ name, members }) => [name, ...members.map((index) => nodes[index].id)]);
    const ids = [...pins].map((index) => nodes[index].id);
    $("saved").value = JSON.stringify({ pinnedIds: ids, supernodes: named });
    if (ids.length || location.hash) history.replaceState(null, "", `#${encodeURIComponent(JSON.stringify([ids, named]))}`);
  };

  // Places: a column for each position, a row for each layer, and in a cell lines of at most ACROSS nodes.
  const cells = new Map();
  nodes.forEach((node, index) => {
    const cell = `${node.row} ${node.position}`;
    cells.set(cell, [...(cells.get(cell) ?? []), index]);
  });
  const places = [], inRow = rows.map(() => []);
  const layOut = () => {
    const counts = (row, position) => (cells.get(`${row} ${position}`) ?? []).length;
    const widths = tokens.map((_, position) => Math.max(46, 12 + SPACE * Math.min(ACROSS, Math.max(...rows.map((_, row) => counts(row, position))))));
    const heights = rows.map((_, row) => Math.max(46, 16 + SPACE * Math.max(...tokens.map((_, position) => Math.ceil(counts(row, position) / ACROSS)))));
    const spare = ($("canvas").clientWidth - GUTTER - widths.reduce((a, b) => a + b, 0)) / tokens.length;
    const lefts = [GUTTER], tops = [8];
    widths.forEach((width, position) => lefts.push(lefts[position] + width + Math.max(0, spare)));
    [...heights].reverse().forEach((height, line) => tops.push(tops[line] + height));
    tops.reverse(); // the first row is the lowest
    inRow.forEach((row) => row.splice(0));
    for (const [cell, members] of cells) {
      const [row, position] = cell.split(" ").map(Number);
      members.forEach((index, place) => {
        const across = Math.min(ACROSS, members.length - ACROSS * Math.floor(place / ACROSS));
        const x = (lefts[position] + lefts[position + 1]) / 2 + SPACE * ((place % ACROSS) - (across - 1) / 2);
        const lines = Math.ceil(members.length / ACROSS) - 1;
        places[index] = [x, (tops[row] + tops[row + 1]) / 2 + SPACE * (Math.floor(place / ACROSS) - lines / 2)];
        inRow[row].push(index);
      });
    }
    inRow.forEach((row) => row.sort((a, b) => places[a][0] - places[b][0]));
    return { lefts, tops, width: lefts.at(-1), height: tops[0] + 28 };
  };

  const curve = ([x1, y1], [x2, y2]) => `M${x1} ${y1}C${x1} ${(y1 + y2) / 2} ${x2} ${(y1 + y2) / 2} ${x2} ${y2}`;
  const edge = (from, to, weight) => svg("path", { class: sign(weight), d: curve(from, to), "stroke-width": 0.5 + 4 * Math.abs(weight) / heaviest });
  const shape = (kind, size, attributes) => {
    if (kind === "latent") return svg("circle", { r: size, ...attributes });
    const turn = kind === "error" ? { transform: "rotate(45)" } : {};
    return svg("rect", { x: -size * 0.85, y: -size * 0.85, width: size * 1.7, height: size * 1.7, rx: 1, ...turn, ...attributes });
  };
  const marks = [];
  const drawNode = (node, index) => {
    const mark = svg("g", {
      class: "node", tabindex: -1, role: "button", transform: `translate(${places[index]})`,
      "aria-label": `${node.label}, ${where(node)}`,
      onclick: () => mark.focus(), ondblclick: () => pin(index), onfocus: () => select(index), onkeydown: (event) => press(event, index),
    }, svg("title", {}, `${node.label}\n${where(node)}`), svg("circle", { r: 9, class: "ring" }), shape(node.kind, 6, { class: "mark" }));
    if (node.measured) {
      // The effect of ablating a node is the opposite of what the node does.
      const attributes = { class: node.measured > 0 ? "fill down" : "fill", opacity: Math.sqrt(Math.abs(node.measured) / largest) };
      mark.append(shape(node.kind, 6, attributes));
    }
    marks[index] = mark;
    return mark;
  };

  let picture;
  const draw = () => {
    const { lefts, tops, width, height } = layOut();
    picture = svg("svg", { width, height, viewBox: `0 0 ${width} ${height}`, role: "group", "aria-label": "Nodes by layer and position" });
    rows.forEach((_, row) => row % 2 && picture.append(svg("rect", { class: "band", x: 0, y: tops[row + 1], width, height: tops[row] - tops[row + 1] })));
    tokens.forEach((token, position) => {
      const room = Math.floor((lefts[position + 1] - lefts[position]) / 7);
      const name = svg("text", { x: (lefts[position] + lefts[position + 1]) / 2, y: height - 8, "text-anchor": "middle" }, cut(token.trim() || token, room));
      name.append(svg("title", {}, `position ${position}: ${JSON.stringify(token)}`));
      picture.append(name);
    });
    picture.append(svg("g", { id: "edges" }), svg("g", { id: "own" }), svg("g", {}, ...nodes.map(drawNode)));
    const gutter = svg("g", {}, svg("rect", { class: "gutter", width: GUTTER - 12, height }));
    rows.forEach((name, row) => gutter.append(svg("text", { x: 8, y: (tops[row] + tops[row + 1]) / 2 + 4 }, name)));
    picture.append(gutter);
    $("canvas").replaceChildren(picture);
    $("canvas").onscroll = () => gutter.setAttribute("transform", `translate(${$("canvas").scrollLeft})`);
    drawEdges();
    mark();
  };
  const amounts = [0, 50, 100, 200, 400, 800, 1600, 3200].filter((amount) => amount < links.length).concat(links.length <= 6400 ? [links.length] : []);
  const drawEdges = () => {
    const amount = amounts[$("amount").value];
    $("drawn").textContent = `the ${amount.toLocaleString("en")} strongest of ${links.length.toLocaleString("en")}; ${(links.length - amount).toLocaleString("en")} hidden`;
    $("edges").replaceChildren(...links.slice(0, amount).reverse().map(([source, target, weight]) => edge(places[source], places[target], weight)));
  };

  // The state of marks, and the links of the current node.
  const mark = () => {
    const near = new Set();
    const own = [];
    if (current !== null) {
      for (const [other, weight] of inputs[current].slice(0, 4 * LISTED)) own.push(edge(places[other], places[current], weight)), near.add(other);
      for (const [other, weight] of outputs[current].slice(0, 4 * LISTED)) own.push(edge(places[current], places[other], weight)), near.add(other);
    }
    $("own").replaceChildren(...own.reverse());
    picture.classList.toggle("chosen", current !== null);
    const words = $("find").value.trim().toLowerCase();
    marks.forEach((element, index) => {
      element.classList.toggle("current", index === current);
      element.classList.toggle("near", near.has(index));
      element.classList.toggle("pinned", pins.has(index));
      element.classList.toggle("hit", Boolean(words) && matches(nodes[index], words));
      element.setAttribute("aria-pressed", pins.has(index));
      element.setAttribute("tabindex", index === (current ?? inRow.at(-1)[0]) ? 0 : -1);
    });
  };
  const select = (index) => {
    current = index;
    mark();
    describe();
  };
  const go = (index) => {
    if (index === undefined) return;
    marks[index].focus({ preventScroll: true });
    marks[index].scrollIntoView({ block: "nearest", inline: "center" });
  };
  const pin = (index) => {
    if (!pins.delete(index)) pins.add(index);
    supers.forEach((group) => { group.members = group.members.filter((member) => pins.has(member)); });
    supers = supers.filter(({ members }) => members.length);
    changed();
  };
  const changed = () => {
    mark();
    describe();
    drawPins();
    saved();
  };
  const press = (event, index) => {
    const { row } = nodes[index];
    const along = inRow[row].indexOf(index);
    const nearest = (others) => [...others].sort((a, b) => Math.abs(places[a][0] - places[index][0]) - Math.abs(places[b][0] - places[index][0]))[0];
    const actions = {
      ArrowLeft: () => go(inRow[row][along - 1]), ArrowRight: () => go(inRow[row][along + 1]),
      ArrowUp: () => row + 1 < rows.length && go(nearest(inRow[row + 1])), ArrowDown: () => row > 0 && go(nearest(inRow[row - 1])),
      i: () => go(inputs[index][0]?.[0]), o: () => go(outputs[index][0]?.[0]),
      Enter: () => pin(index), " ": () => pin(index),
      Escape: () => { marks[index].blur(); select(null); },
    };
    if (event.ctrlKey || event.metaKey || event.altKey || !(event.key in actions)) return;
    event.preventDefault();
    actions[event.key]();
  };

  // The panel of the current node.
  const link = (index) => html("button", { class: "link", type: "button", title: where(nodes[index]), onclick: () => go(index) }, nodes[index].label);
  const weights = (title, list) => list.length === 0 ? [] : [
    html("h3", {}, title),
    html("table", {}, html("tbody", {}, ...list.slice(0, LISTED).map(([index, weight]) => html("tr", {},
      html("td", {}, link(index)),
      html("td", { class: "nowrap" }, short(nodes[index])),
      html("td", { class: `number ${weight < 0 ? "down" : "up"}` }, number(weight)))))),
    ...(list.length > LISTED ? [html("p", { class: "muted" }, `and ${list.length - LISTED} weaker`)] : []),
  ];
  const describe = () => {
    if (current === null) {
      $("node").replaceChildren(html("h2", {}, "Node"), html("p", { class: "muted" }, "Choose a node of the graph to see what it reads and writes. Pin it with a double click or Enter."));
      return;
    }
    const node = nodes[current];
    const values = [["place", where(node)], ["activation", node.activation], ["cumulative influence", node.influence], ["measured effect of ablation", node.measured], ["predicted effect", node.predicted]];
    const facts = values.filter(([, value]) => value !== null);
    const strongest = Math.max(...node.top.map(([, activation]) => activation), 1e-30);
    $("node").replaceChildren(
      html("h2", {}, node.label),
      html("dl", { class: "values" }, ...facts.flatMap(([name, value]) => [html("dt", {}, name), html("dd", {}, typeof value === "string" ? value : number(value))])),
      html("button", { type: "button", "aria-pressed": pins.has(current), onclick: () => pin(current) }, pins.has(current) ? "Unpin" : "Pin"),
      ...(node.top.length ? [html("h3", {}, "Most active on"), html("p", { class: "chips" }, ...node.top.map(([text, activation]) =>
        html("span", { class: "token on", style: `--share:${Math.max(0, activation / strongest)}`, title: `activation ${number(activation)}` }, text)))] : []),
      ...weights("Inputs", inputs[current]), ...weights("Outputs", outputs[current]));
  };

  // Pinned nodes, and supernodes with the sums of the weights between their members.
  const drawPins = () => {
    const grouped = new Set(supers.flatMap(({ members }) => members));
    const single = [...pins].filter((index) => !grouped.has(index));
    const name = html("input", { type: "text", "aria-label": "Name of the supernode", placeholder: "name of a supernode", maxlength: 60 });
    const boxes = single.map((index) => [html("input", { type: "checkbox" }), index]);
    const join = (event) => {
      event.preventDefault();
      const members = boxes.filter(([box]) => box.checked).map(([, index]) => index);
      if (!members.length) return;
      supers.push({ name: name.value.trim() || nodes[members[0]].label, members });
      changed();
    };
    $("group").onsubmit = join;
    $("group").replaceChildren(
      ...(pins.size ? [] : [html("span", { class: "muted" }, "Nothing is pinned. Pinned nodes are drawn here with the links between them; several become one supernode.")]),
      ...boxes.map(([box, index]) => html("label", {}, box, `${nodes[index].label} (${short(nodes[index])})`)),
      ...(single.length ? [name, html("button", {}, "Group the checked")] : []),
      ...supers.map((group) => html("button", { type: "button", onclick: () => { supers = supers.filter((other) => other !== group); changed(); } }, `Ungroup ${group.name} (${group.members.length})`)));
    drawSubgraph([...supers, ...single.map((index) => ({ name: nodes[index].label, members: [index], single: true }))]);
  };
  const drawSubgraph = (parts) => {
    if (!parts.length) return $("subgraph").replaceChildren();
    const mean = (part, value) => part.members.reduce((sum, index) => sum + value(nodes[index]), 0) / part.members.length;
    const lines = new Map();
    parts.forEach((part) => {
      const line = Math.round(mean(part, (node) => node.row));
      lines.set(line, [...(lines.get(line) ?? []), part]);
    });
    const [WIDE, HIGH, GAP] = [150, 56, 34];
    const order = [...lines.keys()].sort((a, b) => b - a);
    const width = Math.max(...[...lines.values()].map((line) => line.length)) * (WIDE + 20) + 20;
    const height = order.length * (HIGH + GAP) + GAP;
    order.forEach((line, down) => lines.get(line).sort((a, b) => mean(a, (node) => node.position) - mean(b, (node) => node.position)).forEach((part, along, all) => {
      Object.assign(part, { x: width / 2 + (along - (all.length - 1) / 2) * (WIDE + 20), y: GAP / 2 + 8 + down * (HIGH + GAP) + HIGH / 2 });
    }));
    const owner = new Map(parts.flatMap((part, place) => part.members.map((index) => [index, place])));
    const sums = new Map();
    links.forEach(([source, target, weight]) => {
      const [from, to] = [owner.get(source), owner.get(target)];
      if (from !== undefined && to !== undefined && from !== to) sums.set(`${from} ${to}`, (sums.get(`${from} ${to}`) ?? 0) + weight);
    });
    const strongest = Math.max(...[...sums.values()].map(Math.abs), 1e-30);
    const edges = [...sums].map(([key, weight]) => {
      const [from, to] = key.split(" ").map((place) => parts[place]);
      const path = svg("path", { class: sign(weight), opacity: 0.7, d: curve([from.x, from.y - HIGH / 2], [to.x, to.y + HIGH / 2]), "stroke-width": 1 + 5 * Math.abs(weight) / strongest });
      path.append(svg("title", {}, `${from.name} to ${to.name}: ${number(weight)}`));
      return path;
    });
    const boxes = parts.map((part) => {
      const effects = part.members.map((index) => nodes[index].measured).filter((value) => value !== null);
      const effect = effects.length ? `effect ${number(effects.reduce((a, b) => a + b, 0))}${effects.length > 1 ? " in sum" : ""}` : "";
      const place = part.single ? short(nodes[part.members[0]]) : `${part.members.length} node${part.members.length > 1 ? "s" : ""}`;
      return svg("g", { class: part.single ? "" : "group", transform: `translate(${part.x} ${part.y})` },
        svg("rect", { class: "box", x: -WIDE / 2, y: -HIGH / 2, width: WIDE, height: HIGH, rx: 8 }), svg("text", { y: -10 }, cut(part.name, 20)), svg("text", { y: 6 }, place), svg("text", { y: 21 }, effect), svg("title", {}, part.name));
    });
    $("subgraph").replaceChildren(svg("svg", { width, height, role: "img", "aria-label": "Pinned nodes and supernodes with the sums of the weights between them" }, ...edges, ...boxes));
  };

  const drawEffects = () => {
    const both = nodes.map((node, index) => [index, node.predicted, node.measured]).filter(([, predicted, measured]) => predicted !== null && measured !== null);
    $("measured").hidden = $("filled").hidden = both.length === 0;
    if (!both.length) return;
    const limit = Math.max(...both.flatMap(([, x, y]) => [Math.abs(x), Math.abs(y)]), 1e-30);
    const at = (value) => 170 + 140 * value / limit;
    const points = both.map(([index, x, y]) => svg("circle", { class: "node", cx: at(x), cy: 340 - at(y), r: 4, fill: "var(--accent)", "fill-opacity": 0.55, onclick: () => go(index) }, svg("title", {}, `${nodes[index].label}: measured ${number(y)}, predicted ${number(x)}`)));
    $("scatter").replaceChildren(svg("svg", { viewBox: "0 0 340 340", width: "100%", role: "img", "aria-label": "Measured effects against predicted ones" },
      svg("path", { class: "axis", d: "M20 170H320M170 20V320" }), svg("path", { class: "equal", d: "M30 310L310 30" }),
      svg("text", { x: 320, y: 186, "text-anchor": "end" }, "predicted"), svg("text", { x: 176, y: 26 }, "measured"),
      svg("text", { x: 24, y: 186 }, number(-limit)), svg("text", { x: 176, y: 318 }, number(-limit)), ...points));
    const top = [...both].sort((a, b) => Math.abs(b[2]) - Math.abs(a[2])).slice(0, 10);
    $("largest").replaceChildren(...top.map(([index, predicted, measured]) => html("tr", {}, html("td", {}, link(index), html("small", {}, where(nodes[index]))),
      html("td", { class: "number" }, number(measured)), html("td", { class: "number" }, number(predicted)))));
  };

  const matches = (node, words) => `${node.label}\n${tokens[node.position]}\n${node.id}`.toLowerCase().includes(words);
  $("find").addEventListener("input", () => {
    const words = $("find").value.trim().toLowerCase();
    const found = words ? nodes.map((_, index) => index).filter((index) => matches(nodes[index], words)) : [];
    const more = found.length > LISTED ? [html("li", { class: "muted" }, `and ${found.length - LISTED} more, marked in the graph`)] : [];
    $("results").replaceChildren(...found.slice(0, LISTED).map((index) => html("li", {}, link(index))), ...more);
    mark();
  });
  $("amount").max = amounts.length - 1;
  $("amount").value = Math.max(0, amounts.findLastIndex((amount) => amount <= 400));
  $("amount").addEventListener("input", drawEdges);
  draw();
  $("canvas").scrollLeft = places[current ?? inRow.at(-1)[0]][0] - $("canvas").clientWidth / 2; // the last position, where the outputs are
  describe();
  drawPins();
  drawEffects();
  saved();
  let width = innerWidth;
  addEventListener("resize", () => { if (innerWidth !== width) { width = innerWidth; draw(); } });
})();
