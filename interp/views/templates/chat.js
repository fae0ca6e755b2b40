// The front end of `interp.views.chat`: a module of anywidget. The kernel renders and escapes the conversation.
const make = (name, properties = {}, ...children) => {
  const node = Object.assign(document.createElement(name), properties);
  node.append(...children);
  return node;
};

function render({ model, el }) {
  let count = 0;
  const ask = (request) => {
    model.set("request", { ...request, number: `${Date.now()} ${count++}` });
    model.save_changes();
  };
  const root = make("div", { className: "interp-chat" });
  // The copy of the conversation that stays in the notebook is hidden while the widget shows it.
  const hide = make("style", { textContent: `[data-interp-chat="${CSS.escape(model.get("key"))}"] { display: none }` });
  const transcript = make("div");
  const partial = make("div", { className: "sides" });
  partial.setAttribute("aria-hidden", "true");
  const status = make("p");
  status.setAttribute("aria-live", "polite");

  const text = make("textarea", { placeholder: "Say something", rows: 2 });
  text.setAttribute("aria-label", "Your message");
  const send = make("button", { type: "submit", textContent: "Send" });
  const clear = make("button", { type: "button", textContent: "Begin again" });
  const form = make("form", {}, text, send, clear);
  const say = () => {
    if (!text.value.trim() || model.get("busy")) return;
    ask({ do: "say", text: text.value });
    text.value = "";
  };
  form.addEventListener("submit", (event) => { event.preventDefault(); say(); });
  text.addEventListener("keydown", (event) => {
    if (event.key === "Enter" && !event.shiftKey && !event.isComposing) { event.preventDefault(); say(); }
    event.stopPropagation(); // not a shortcut of the notebook
  });
  clear.addEventListener("click", () => ask({ do: "clear" }));

  const heat = make("select", {}, ...model.get("readings").map((name) => make("option", { value: name, textContent: name })));
  heat.addEventListener("change", () => { model.set("reading", heat.value); model.save_changes(); });
  const controls = make("div", { className: "controls" });
  if (heat.options.length) controls.append(make("label", {}, "Shade tokens by", heat));
  const sliders = {};
  for (const name of Object.keys(model.get("strengths"))) {
    const slider = make("input", { type: "range", min: -1, max: 2, step: 0.05 });
    const value = make("output");
    const save = make("button", { type: "button", textContent: "Save as recipe" });
    slider.setAttribute("aria-label", `Strength of ${name}`);
    slider.addEventListener("input", () => { value.textContent = Number(slider.value).toFixed(2); });
    slider.addEventListener("change", () => ask({ do: "strength", side: name, value: Number(slider.value) }));
    save.addEventListener("click", () => ask({ do: "save", side: name }));
    sliders[name] = [slider, value];
    controls.append(make("label", {}, make("b", { textContent: name }), slider, value, save));
  }

  const show = () => {
    transcript.innerHTML = model.get("html");
    status.textContent = model.get("status");
    heat.value = model.get("reading");
    for (const node of [send, clear]) node.disabled = model.get("busy");
    for (const [name, [slider, value]] of Object.entries(sliders)) {
      slider.value = model.get("strengths")[name];
      slider.disabled = model.get("busy");
      value.textContent = Number(slider.value).toFixed(2);
    }
  };
  const stream = () => {
    partial.replaceChildren(...Object.entries(model.get("partial")).map(([name, reply]) =>
      make("div", { className: "side" }, make("div", { className: "who", textContent: name }), reply)));
  };
  for (const name of ["html", "status", "reading", "strengths", "busy"]) model.on(`change:${name}`, show);
  model.on("change:partial", stream);
  root.append(hide, transcript, partial, status, form, controls);
  el.append(root);
  show();
  stream();
}
export default { render };
