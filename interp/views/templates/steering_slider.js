// The front end of the steering slider: a module of anywidget.
function render({ model, el }) {
  const label = document.createElement("label");
  const slider = document.createElement("input");
  const value = document.createElement("output");
  const reply = document.createElement("p");
  Object.assign(slider, { type: "range", min: model.get("low"), max: model.get("high"), step: "any" });
  slider.style.width = "24em";
  reply.style.whiteSpace = "pre-wrap";
  reply.setAttribute("aria-live", "polite");
  label.append(model.get("title") + " ", slider, value);
  const show = () => {
    slider.value = model.get("scale");
    value.textContent = " " + model.get("scale").toFixed(1);
    reply.textContent = model.get("reply");
  };
  slider.addEventListener("change", () => { model.set("scale", Number(slider.value)); model.save_changes(); });
  model.on("change:scale", show);
  model.on("change:reply", show);
  el.append(label, reply);
  show();
}
export default { render };
