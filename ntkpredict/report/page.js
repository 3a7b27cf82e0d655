// Pictures become figures that answer a pointer; without this script the pictures stay.
(async () => {
  const packed = Uint8Array.from(atob(document.getElementById("plotly").textContent), (c) => c.charCodeAt(0));
  const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("gzip"));
  const script = document.createElement("script");
  script.textContent = await new Response(stream).text();
  document.head.append(script);
  const figures = document.getElementById("figures").textContent;
  const draw = () => {
    const style = getComputedStyle(document.documentElement);
    const ink = style.getPropertyValue("--ink").trim(), faint = style.getPropertyValue("--faint").trim();
    for (const [name, { data, layout }] of Object.entries(JSON.parse(figures.replaceAll(INK, ink)))) {
      const figure = document.getElementById(name), live = figure.querySelector(".live");
      live.hidden = false;
      figure.classList.add("is-live");
      for (const axis of [layout.xaxis, layout.yaxis]) Object.assign(axis, { gridcolor: faint, linecolor: faint });
      Object.assign(layout, {
        paper_bgcolor: "transparent", plot_bgcolor: "transparent",
        font: { color: ink, family: "system-ui, sans-serif", size: 12 },
        hoverlabel: { bgcolor: style.getPropertyValue("--paper").trim(), font: { color: ink } },
      });
      Plotly.react(live, data, layout, { responsive: true, displaylogo: false, displayModeBar: false });
    }
  };
  draw();
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
})();
