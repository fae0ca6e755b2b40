// Draws the figures of the document in place of their tables; plotly.js is unpacked when there is one to draw.
(() => {
  let plotly;
  const unpack = async () => {
    const packed = document.querySelector("[data-interp-plotly]").dataset.interpPlotly;
    const bytes = Uint8Array.from(atob(packed), (letter) => letter.charCodeAt(0));
    const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
    const script = document.createElement("script");
    // Hidden from module loaders, which would keep plotly.js to themselves.
    script.textContent = `((module, exports, define) => {${await new Response(stream).text()}})()`;
    document.head.append(script);
    return window.Plotly;
  };
  window.drawInterpFigures = async () => {
    const waiting = [...document.querySelectorAll("[data-interp-figure]:not([data-drawn])")];
    for (const host of waiting) host.dataset.drawn = "";
    if (!waiting.length) return;
    const { newPlot } = await (plotly ??= unpack());
    for (const host of waiting) {
      const { data, layout } = JSON.parse(host.dataset.interpFigure);
      const figure = document.createElement("div");
      Object.assign(figure.style, { height: `${layout.height}px`, minWidth: `${layout.meta?.least_width ?? 0}px` });
      const { color, fontFamily: family } = getComputedStyle(host);
      host.replaceChildren(figure);
      const shown = { ...layout, font: { ...layout.font, color, family }, autosize: true };
      newPlot(figure, data, shown, { responsive: true, displayModeBar: false });
    }
  };
  window.drawInterpFigures();
})();
