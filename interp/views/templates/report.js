(() => {
  const PAPER = 640; // width between the margins, in pixels, for A4 and Letter
  const root = document.documentElement;
  const figures = [...document.querySelectorAll("[data-figure]")];
  const colour = (name) => getComputedStyle(root).getPropertyValue(`--${name}`).trim();

  const themed = (layout) => {
    const update = {
      "font.color": colour("ink"),
      "hoverlabel.font.color": colour("ink"),
      "hoverlabel.bgcolor": colour("panel"),
      "hoverlabel.bordercolor": colour("muted"),
    };
    for (const axis of Object.keys(layout).filter((key) => /^[xy]axis\d*$/.test(key))) {
      for (const part of ["gridcolor", "linecolor", "tickcolor"]) update[`${axis}.${part}`] = colour("line");
    }
    return update;
  };
  const restyle = (size) => figures.forEach((figure) => Plotly.relayout(figure, { ...themed(figure.layout), ...size }));

  for (const figure of figures) {
    const { data, layout } = JSON.parse(document.getElementById(figure.dataset.figure).textContent);
    // A matrix of many columns scrolls within the page instead of shrinking to the width of a phone.
    figure.style.minWidth = `${layout.meta?.least_width ?? 0}px`;
    const options = { responsive: true, displayModeBar: false };
    Plotly.newPlot(figure, data, { ...layout, autosize: true }, options);
    if (layout.meta?.from_end) figure.parentElement.scrollLeft = figure.scrollWidth;
  }
  restyle({});
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => restyle({}));
  addEventListener("beforeprint", () => {
    root.classList.add("printing");
    document.querySelectorAll("details").forEach((details) => { details.open = true; });
    restyle({ width: PAPER });
  });
  addEventListener("afterprint", () => {
    root.classList.remove("printing");
    restyle({ width: null, autosize: true });
  });
})();
