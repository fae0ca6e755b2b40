(() => {
  const { tokens, rows, nodes, links, pinned, groups, clicked } = JSON.parse(document.getElementById("data").textContent);
  const SPACE = 18, ACROSS = 4, GUTTER = 70; // pixels of a node, nodes side by side in a cell, pixels of row names
  const LISTED = 12; // links and results in a list
  const $ = (id) => document.getElementById(id);

  // Elements: texts are appended as text, never as HTML.
  const build = (space) => (name, attributes = {}, ...children) => {
    const element = document.createElementNS(space, name);
    for (const [key, value] of Object.entries(attributes)) {
      if (key.startsWith("on")) element.addEventListener(key.slice(2), value);
      else element.setAttribute(key, value);
    }
    element.append(...children);
    return element;
  };
  const html = build("http://www.w3.org/1999/xhtml"), svg = build("http://www.w3.org/2000/svg");
  const number = (value) => {
    const small = value && Math.abs(value) < 1e-3;
    return String(small ? value.toExponential(1) : Number(value.toPrecision(3))).replaceAll("-", "−");
  };
  const count = (value, noun) => `${value.toLocaleString("en")} ${noun}${value === 1 ? "" : "s"}`;
  const cut = (text, width) => (text.length > width ? `${text.slice(0, width - 1)}…` : text);
  const where = ({ row, position }) => `${rows[row]}, position ${position}, ${JSON.stringify(tokens[position])}`;
  const short = ({ row, position }) => `${rows[row].replace("layer ", "")} · ${cut(tokens[position].trim(), 9)}`;
  const sum = (values) => values.reduce((total, value) => total + value, 0);
  const largest = (values) => values.reduce((high, value) => Math.max(high, Math.abs(value)), 1e-30);

  // Links are sorted: the strongest first, here and in the lists of a node.
  const inputs = nodes.map(() => []), outputs = nodes.map(() => []);
  links.forEach(([source, target, weight]) => {
    inputs[target].push([source, weight]);
    outputs[source].push([target, weight]);
  });
  const heaviest = largest(links.slice(0, 1).map(([, , weight]) => weight));
  const largestEffect = largest(nodes.map((node) => (node.kind === "latent" ? node.measured ?? 0 : 0)));
  const byId = new Map(nodes.map((node, index) => [node.id, index]));

  // What the user chose; the address of the page keeps it.
  let current = byId.get(clicked) ?? null;
  let pins = new Set(), supernodes = [];
  const choose = (ids, named) => {
    const known = (names) => names.map((id) => byId.get(id)).filter((index) => index !== undefined);
    supernodes = named.map(([name, ...members]) => ({ name: String(name), members: known(members) }));
    supernodes = supernodes.filter(({ members }) => members.length);
    pins = new Set([...known(ids), ...supernodes.flatMap(({ members }) => members)]);
  };
  choose(pinned, groups);
  try {
    choose(...JSON.parse(decodeURIComponent(location.hash.slice(1))));
  } catch { /* the address holds no choices of ours */ }
  const keep = () => {
    const ids = [...pins].map((index) => nodes[index].id);
    const named = supernodes.map(({ name, members }) => [name, ...members.map((index) => nodes[index].id)]);
    $("saved").value = JSON.stringify({ pinnedIds: ids, supernodes: named });
    const address = `#${encodeURIComponent(JSON.stringify([ids, named]))}`;
    if (ids.length || location.hash) history.replaceState(null, "", address);
  };

  // Places: a column for each position, a row for each layer, and in a cell lines of at most ACROSS nodes.
  const cells = rows.map(() => tokens.map(() => []));
  nodes.forEach(({ row, position }, index) => cells[row][position].push(index));
  const places = [], inRow = [];
  const layOut = () => {
    const lines = ({ length }) => Math.ceil(length / ACROSS);
    const most = tokens.map((_, position) => Math.max(...cells.map((row) => row[position].length)));
    const widths = most.map((length) => Math.max(46, 12 + SPACE * Math.min(ACROSS, length)));
    const heights = cells.map((row) => Math.max(46, 16 + SPACE * Math.max(...row.map(lines))));
    const spare = Math.max(0, $("canvas").clientWidth - GUTTER - sum(widths)) / tokens.length;
    const height = 8 + sum(heights);
    let left = GUTTER, low = height;
    const columns = widths.map((width) => [left, (left += width + spare)]);
    const bands = heights.map((high) => [(low -= high), high]); // the first row is the lowest
    cells.forEach((row, y) => {
      row.forEach((members, x) => members.forEach((index, place) => {
        const line = Math.floor(place / ACROSS);
        const along = (place % ACROSS) - (Math.min(ACROSS, members.length - ACROSS * line) - 1) / 2;
        const down = line - (lines(members) - 1) / 2;
        places[index] = [sum(columns[x]) / 2 + SPACE * along, bands[y][0] + bands[y][1] / 2 + SPACE * down];
      }));
      inRow[y] = row.flat().sort((a, b) => places[a][0] - places[b][0]);
    });
    return { columns, bands, width: left, height: height + 28 };
  };

  const curve = ([x1, y1], [x2, y2]) => `M${x1} ${y1}C${x1} ${(y1 + y2) / 2} ${x2} ${(y1 + y2) / 2} ${x2} ${y2}`;
  const edge = (from, to, weight, scale) => svg("path", {
    class: weight < 0 ? "edge negative" : "edge", d: curve(from, to), "stroke-width": 0.5 + 4.5 * Math.abs(weight) / scale,
  });
  const shape = (kind, attributes) => {
    if (kind === "latent") return svg("circle", { r: 6, ...attributes });
    const turn = kind === "error" ? { transform: "rotate(45)" } : {};
    return svg("rect", { x: -5, y: -5, width: 10, height: 10, rx: 1, ...turn, ...attributes });
  };
  const marks = [];
  const drawNode = (node, index) => {
    const mark = svg("g", {
      class: "node", role: "button", transform: `translate(${places[index]})`, "aria-label": `${node.label}, ${where(node)}`,
      onclick: () => mark.focus(), ondblclick: () => pin(index),
      onfocus: () => select(index), onkeydown: (event) => press(event, index),
    });
    const title = svg("title", {}, `${node.label}\n${where(node)}`);
    mark.append(title, svg("circle", { r: 9, class: "ring" }), shape(node.kind, { class: "mark" }));
    if (node.measured) {
      // What a node does is the opposite of what its ablation does.
      const opacity = Math.sqrt(Math.min(1, Math.abs(node.measured) / largestEffect));
      mark.append(shape(node.kind, { class: node.measured > 0 ? "fill down" : "fill", opacity }));
    }
    marks[index] = mark;
    return mark;
  };

  let picture;
  const draw = () => {
    const { columns, bands, width, height } = layOut();
    picture = svg("svg", { width, height, role: "group", "aria-label": "Nodes by layer and position" });
    bands.forEach(([y, high], row) => row % 2 && picture.append(svg("rect", { class: "band", y, width, height: high })));
    columns.forEach(([left, right], position) => {
      const text = cut(tokens[position].trim() || tokens[position], Math.floor((right - left) / 8));
      const title = svg("title", {}, `position ${position}: ${JSON.stringify(tokens[position])}`);
      picture.append(svg("text", { class: "column", x: (left + right) / 2, y: height - 8 }, text, title));
    });
    picture.append(svg("g", { id: "edges" }), svg("g", { id: "own" }), svg("g", {}, ...nodes.map(drawNode)));
    const gutter = svg("g", {}, svg("rect", { class: "gutter", width: GUTTER - 12, height }));
    bands.forEach(([y, high], row) => gutter.append(svg("text", { x: 8, y: y + high / 2 + 4 }, rows[row])));
    picture.append(gutter);
    $("canvas").replaceChildren(picture);
    $("canvas").onscroll = () => gutter.setAttribute("transform", `translate(${$("canvas").scrollLeft})`);
    drawEdges();
    mark();
  };
  const amounts = [0, 50, 100, 200, 400, 800, 1600, 3200].filter((amount) => amount < links.length);
  if (links.length <= 6400) amounts.push(links.length);
  const drawEdges = () => {
    const amount = amounts[$("amount").value], drawn = links.slice(0, amount).reverse();
    const [shown, hidden] = [amount, links.length - amount].map((value) => value.toLocaleString("en"));
    $("drawn").textContent = `the ${shown} strongest of ${count(links.length, "link")}; ${hidden} hidden`;
    $("edges").replaceChildren(...drawn.map(([from, to, weight]) => edge(places[from], places[to], weight, heaviest)));
  };

  // The state of the nodes, and the links of the current one.
  const mark = () => {
    const strongest = (lists) => (current === null ? [] : lists[current].slice(0, 4 * LISTED));
    const into = strongest(inputs), out = strongest(outputs);
    const near = new Set([...into, ...out].map(([other]) => other));
    $("own").replaceChildren(
      ...into.map(([other, weight]) => edge(places[other], places[current], weight, heaviest)),
      ...out.map(([other, weight]) => edge(places[current], places[other], weight, heaviest)));
    picture.classList.toggle("chosen", current !== null);
    const hits = new Set(results());
    marks.forEach(({ classList }, index) => {
      classList.toggle("current", index === current);
      classList.toggle("near", near.has(index));
      classList.toggle("pinned", pins.has(index));
      classList.toggle("hit", hits.has(index));
      marks[index].setAttribute("aria-pressed", pins.has(index));
      marks[index].setAttribute("tabindex", index === (current ?? inRow.at(-1)[0]) ? 0 : -1);
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
  const changed = () => {
    mark();
    describe();
    drawPins();
    keep();
  };
  const pin = (index) => {
    if (!pins.delete(index)) pins.add(index);
    supernodes.forEach((group) => { group.members = group.members.filter((member) => pins.has(member)); });
    supernodes = supernodes.filter(({ members }) => members.length);
    changed();
  };
  const press = (event, index) => {
    const { row } = nodes[index], along = inRow[row].indexOf(index);
    const distance = (other) => Math.abs(places[other][0] - places[index][0]);
    const nearest = (others = []) => [...others].sort((a, b) => distance(a) - distance(b))[0];
    const action = {
      ArrowLeft: () => go(inRow[row][along - 1]), ArrowRight: () => go(inRow[row][along + 1]),
      ArrowUp: () => go(nearest(inRow[row + 1])), ArrowDown: () => go(nearest(inRow[row - 1])),
      i: () => go(inputs[index][0]?.[0]), o: () => go(outputs[index][0]?.[0]),
      Enter: () => pin(index), " ": () => pin(index),
      Escape: () => { marks[index].blur(); select(null); },
    }[event.key];
    if (!action || event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault();
    action();
  };

  // The panel of the current node.
  const link = (index) => {
    const attributes = { class: "link", type: "button", title: where(nodes[index]), onclick: () => go(index) };
    return html("button", attributes, nodes[index].label);
  };
  const weights = (title, list) => {
    const lines = list.slice(0, LISTED).map(([index, weight]) => html("tr", {},
      html("td", {}, link(index)), html("td", { class: "nowrap" }, short(nodes[index])),
      html("td", { class: `number ${weight < 0 ? "down" : "up"}` }, number(weight))));
    const more = list.length > LISTED ? [html("p", { class: "muted" }, `and ${list.length - LISTED} weaker`)] : [];
    return list.length ? [html("h3", {}, title), html("table", {}, html("tbody", {}, ...lines)), ...more] : [];
  };
  const describe = () => {
    if (current === null) {
      const hint = "Choose a node of the graph to see what it reads and writes. Pin it with a double click or Enter.";
      $("node").replaceChildren(html("h2", {}, "Node"), html("p", { class: "muted" }, hint));
      return;
    }
    const node = nodes[current], strongest = largest(node.top.flat().map(([, activation]) => activation));
    const facts = [
      ["activation", node.activation], ["cumulative influence", node.influence],
      ["measured effect of ablation", node.measured], ["predicted effect", node.predicted],
    ].filter(([, value]) => value !== null).map(([name, value]) => [name, number(value)]);
    const named = [["node", node.id], ["place", where(node)], ...facts];
    const lines = named.flatMap(([name, value]) => [html("dt", {}, name), html("dd", {}, value)]);
    const top = node.top.map((tokens) => html("li", {}, ...tokens.map(([text, activation]) => html("span", {
      class: activation > 0 ? "token on" : "token", style: `--share:${Math.max(0, activation / strongest)}`,
      title: `activation ${number(activation)}`,
    }, text))));
    const button = { type: "button", "aria-pressed": pins.has(current), onclick: () => pin(current) };
    $("node").replaceChildren(
      html("h2", {}, node.label), html("dl", { class: "values" }, ...lines),
      html("button", button, pins.has(current) ? "Unpin" : "Pin"),
      ...(top.length ? [html("h3", {}, "Most active on"), html("ul", { class: "examples" }, ...top)] : []),
      ...weights("Inputs", inputs[current]), ...weights("Outputs", outputs[current]));
  };

  // Pinned nodes, and supernodes with the sums of the weights between their members.
  const drawPins = () => {
    const grouped = new Set(supernodes.flatMap(({ members }) => members));
    const single = [...pins].filter((index) => !grouped.has(index));
    const boxes = single.map((index) => [html("input", { type: "checkbox" }), index]);
    const name = html("input", { "aria-label": "Name of the supernode", placeholder: "name of a supernode", maxlength: 60 });
    $("group").onsubmit = (event) => {
      event.preventDefault();
      const members = boxes.filter(([box]) => box.checked).map(([, index]) => index);
      if (!members.length) return;
      supernodes.push({ name: name.value.trim() || nodes[members[0]].label, members });
      changed();
    };
    const ungroup = (group) => {
      supernodes = supernodes.filter((other) => other !== group);
      changed();
    };
    const empty = "Nothing is pinned. Pinned nodes are drawn here with the links between them; several become one supernode.";
    $("group").replaceChildren(
      ...(pins.size ? [] : [html("span", { class: "muted" }, empty)]),
      ...boxes.map(([box, index]) => html("label", {}, box, `${nodes[index].label} (${short(nodes[index])})`)),
      ...(single.length ? [name, html("button", {}, "Group the checked")] : []),
      ...supernodes.map((group) => html("button", { type: "button", onclick: () => ungroup(group) }, `Ungroup ${group.name}`)));
    const named = ({ name, members }) => ({ name, members, group: true, place: count(members.length, "node") });
    const alone = (index) => ({ name: nodes[index].label, members: [index], place: short(nodes[index]) });
    drawSubgraph([...supernodes.map(named), ...single.map(alone)]);
  };
  const drawSubgraph = (parts) => {
    if (!parts.length) return $("subgraph").replaceChildren();
    const WIDE = 160, HIGH = supernodes.length ? 84 : 56, GAP = 34;
    const mean = (part, name) => sum(part.members.map((index) => nodes[index][name])) / part.members.length;
    const levels = new Map();
    parts.sort((a, b) => mean(a, "position") - mean(b, "position")).forEach((part) => {
      const level = Math.round(mean(part, "row"));
      levels.set(level, [...(levels.get(level) ?? []), part]);
    });
    const fromTop = [...levels.keys()].sort((a, b) => b - a).map((level) => levels.get(level));
    const width = 20 + (WIDE + 20) * Math.max(...fromTop.map((level) => level.length));
    fromTop.forEach((level, down) => level.forEach((part, along) => {
      part.at = [width / 2 + (along - (level.length - 1) / 2) * (WIDE + 20), GAP / 2 + HIGH / 2 + down * (HIGH + GAP)];
    }));
    const owner = new Map(parts.flatMap((part) => part.members.map((index) => [index, part])));
    const sums = new Map(parts.map((part) => [part, new Map()]));
    links.forEach(([source, target, weight]) => {
      const from = owner.get(source), to = owner.get(target);
      if (from && to && from !== to) sums.get(from).set(to, (sums.get(from).get(to) ?? 0) + weight);
    });
    const scale = largest([...sums.values()].flatMap((weights) => [...weights.values()]));
    const edges = [...sums].flatMap(([from, weights]) => [...weights].map(([to, weight]) => {
      const path = edge([from.at[0], from.at[1] - HIGH / 2], [to.at[0], to.at[1] + HIGH / 2], weight, scale);
      path.append(svg("title", {}, `${from.name} to ${to.name}: ${number(weight)}`));
      return path;
    }));
    const boxes = parts.map(({ name, members, group, place, at }) => {
      const effects = members.map((index) => nodes[index].measured).filter((value) => value !== null);
      const effect = effects.length ? [`effect ${number(sum(effects))}`] : [];
      if (effects.length > 1) effect.push("sum of single ablations;", "not measured together");
      return svg("g", { class: group ? "group" : "", transform: `translate(${at})` },
        svg("rect", { class: "box", x: -WIDE / 2, y: -HIGH / 2, width: WIDE, height: HIGH, rx: 8 }),
        ...[cut(name, 20), place, ...effect].map((line, down) => svg("text", { y: 18 + 15 * down - HIGH / 2 }, line)),
        svg("title", {}, name));
    });
    const label = "Pinned nodes and supernodes with the sums of the weights between them";
    const height = levels.size * (HIGH + GAP);
    $("subgraph").replaceChildren(svg("svg", { width, height, role: "img", "aria-label": label }, ...edges, ...boxes));
  };

  const drawEffects = () => {
    const both = nodes.map((node, index) => [index, node.measured, node.predicted]);
    const pairs = both.filter(([, measured, predicted]) => measured !== null && predicted !== null);
    $("measured").hidden = $("filled").hidden = !pairs.length;
    const embedded = ([index]) => nodes[index].kind === "token";
    $("scatter").replaceChildren(
      ...scatter("Latents and errors", pairs.filter((pair) => !embedded(pair))),
      ...scatter("Tokens", pairs.filter(embedded)));
    const strongest = pairs.sort((a, b) => Math.abs(b[1]) - Math.abs(a[1])).slice(0, 10);
    $("largest").replaceChildren(...strongest.map(([index, measured, predicted]) => html("tr", {},
      html("td", {}, link(index), html("small", {}, where(nodes[index]))),
      html("td", { class: "number" }, number(measured)), html("td", { class: "number" }, number(predicted)))));
  };
  const scatter = (title, pairs) => {
    if (!pairs.length) return [];
    const high = largest(pairs.map(([, measured]) => measured)), wide = largest(pairs.map(([, , predicted]) => predicted));
    const across = (value) => 170 + 140 * value / wide, down = (value) => 170 - 140 * value / high;
    const equal = Math.min(high, wide);
    const points = pairs.map(([index, measured, predicted]) => svg("circle", {
      class: "point", cx: across(predicted), cy: down(measured), r: 4, onclick: () => go(index),
    }, svg("title", {}, `${nodes[index].label}: measured ${number(measured)}, predicted ${number(predicted)}`)));
    const label = `${title}: measured effects against predicted ones`;
    const plot = svg("svg", { viewBox: "0 0 340 340", width: "100%", role: "img", "aria-label": label },
      svg("path", { class: "axis", d: "M20 170H320M170 20V320" }), svg("path", { class: "equal", d: `M${across(-equal)} ${down(-equal)}L${across(equal)} ${down(equal)}` }),
      svg("text", { x: 262, y: 186 }, "predicted"), svg("text", { x: 176, y: 26 }, "measured"),
      svg("text", { x: 24, y: 186 }, number(-wide)), svg("text", { x: 176, y: 318 }, number(-high)), ...points);
    return [html("h3", {}, title), html("div", { class: "canvas" }, plot)];
  };

  const results = () => {
    const words = $("find").value.trim().toLowerCase();
    const matches = ({ label, position, id }) => `${label}\n${tokens[position]}\n${id}`.toLowerCase().includes(words);
    return words ? nodes.flatMap((node, index) => (matches(node) ? [index] : [])) : [];
  };
  $("find").addEventListener("input", () => {
    const all = results(), rest = all.length - LISTED;
    const more = rest > 0 ? [html("li", { class: "muted" }, `and ${rest} more, marked in the graph`)] : [];
    $("results").replaceChildren(...all.slice(0, LISTED).map((index) => html("li", {}, link(index))), ...more);
    mark();
  });
  $("amount").max = amounts.length - 1;
  $("amount").value = amounts.findLastIndex((amount) => amount <= 400);
  $("amount").addEventListener("input", drawEdges);
  draw();
  // The outputs are at the last position.
  $("canvas").scrollLeft = places[current ?? inRow.at(-1)[0]][0] - $("canvas").clientWidth / 2;
  describe();
  drawPins();
  drawEffects();
  keep();
  let known = innerWidth;
  addEventListener("resize", () => {
    if (innerWidth !== known) draw();
    known = innerWidth;
  });
})();
