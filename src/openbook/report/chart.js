"use strict";
// Draws the page's line charts as SVG from the JSON beside them: two axes, a readout under the pointer, arrow keys, print.
(() => {
  const spec = JSON.parse(document.getElementById("curves").textContent);
  const figures = [...document.querySelectorAll(".chart")];
  let axis = "tokens";

  const svg = (name, attributes, parent) => {
    const node = document.createElementNS("http://www.w3.org/2000/svg", name);
    for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
    if (parent) parent.append(node);
    return node;
  };
  const html = (name, text, parent, className) => {
    const node = document.createElement(name);
    node.textContent = text;
    if (className) node.className = className;
    parent.append(node);
    return node;
  };
  const write = (text, attributes, parent) => { svg("text", attributes, parent).textContent = text; };

  // Numbers and times in few characters; the step between ticks decides on the digits.
  const compact = (value, step) => {
    const [scale, unit] = Math.abs(value) >= 1e9 ? [1e9, " B"] : Math.abs(value) >= 1e6 ? [1e6, " M"] : Math.abs(value) >= 1e4 ? [1e3, " k"] : [1, ""];
    let digits = 0;
    while (digits < 6 && Math.abs((step / scale) * 10 ** digits - Math.round((step / scale) * 10 ** digits)) > 1e-6) digits += 1;
    return (value / scale).toFixed(digits) + unit;
  };
  const clocks = [[172800, 86400, "d"], [7200, 3600, "h"], [120, 60, "min"], [0, 1, "s"]];
  const clock = (seconds) => {
    const [, scale, unit] = clocks.find(([from]) => seconds >= from);
    return (seconds / scale).toFixed(seconds / scale < 10 ? 1 : 0) + " " + unit;
  };
  const niceStep = (span, room) => {
    const rough = span / Math.max(room, 1), power = 10 ** Math.floor(Math.log10(rough));
    return power * [1, 2, 2.5, 5, 10].find((factor) => factor * power >= rough * 0.999);
  };
  const linearTicks = (low, high, room) => {
    const step = niceStep(high - low, room), first = Math.ceil(low / step - 1e-9), ticks = [];
    for (let i = first; i * step <= high + step * 1e-9; i += 1) ticks.push(i * step);
    return { ticks, step };
  };
  const logTicks = (low, high, room) => {
    let all = [];
    for (const factors of [[1], [1, 3], [1, 2, 5], [1, 2, 3, 4, 6, 8], [1, 1.5, 2, 2.5, 3, 3.5, 4, 5, 6, 7, 8, 9]]) {
      const ticks = [];
      for (let power = Math.floor(Math.log10(low)); power <= Math.ceil(Math.log10(high)); power += 1)
        for (const factor of factors) if (factor * 10 ** power >= low && factor * 10 ** power <= high) ticks.push(factor * 10 ** power);
      if (ticks.length <= room || all.length < 2) all = ticks;
    }
    return all.length > 1 ? all : linearTicks(low, high, room).ticks;
  };

  const ends = (chart) => {
    const values = chart.series.flatMap((series) => series.y).filter((value) => value !== null && (chart.scale !== "log" || value > 0));
    let low = Math.min(...values), high = Math.max(...values);
    if (!values.length) [low, high] = [0.1, 1];
    if (low === high) [low, high] = [low * 0.9 - (low === 0), high * 1.1 + (high === 0)];
    if (chart.scale === "log") return [low * 0.96, high * 1.04];
    const pad = (high - low) * 0.06;
    return chart.scale === "zero" ? [Math.min(0, low), high + high * 0.06] : [low - pad, high + pad];
  };
  // How far the axis reaches; what was lost and the time without steps lie on the clock only.
  const reach = () => Object.values(spec.charts).flatMap((chart) => [...chart.series, ...shown(chart)]).flatMap((series) => series[axis])
    .concat(axis === "wall" ? spec.gaps.map((gap) => gap.end) : []).reduce((far, value) => Math.max(far, value), 1e-9);
  // Whether time was lost between two points of the clock; between two abandoned steps, only time without steps counts.
  const lost = (from, to, abandoned) => spec.gaps.some((gap) => gap.begin < to && gap.end > from && !(abandoned && gap.again));
  const shown = (chart) => (chart.branches || []).filter((branch) => axis === "wall" || branch.differs);

  const draw = (figure) => {
    const chart = spec.charts[figure.dataset.chart], plot = figure.querySelector(".plot"), small = figure.classList.contains("small");
    const width = Math.max(240, plot.clientWidth || 720), height = small ? 160 : width < 520 ? 240 : 320;
    const box = { left: 46, right: width - 8, top: 16, bottom: height - 26 }, [low, high] = ends(chart), far = reach();
    const bend = chart.scale === "log" ? Math.log : (value) => value;
    const x = (value) => box.left + (value / far) * (box.right - box.left);
    const y = (value) => box.bottom - ((bend(value) - bend(low)) / (bend(high) - bend(low))) * (box.bottom - box.top);
    const image = svg("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", tabindex: 0, "aria-label": chart.text });
    if (chart.marked) image.classList.add("marked");

    const rows = (box.bottom - box.top) / 32;
    const level = chart.scale === "log" ? { ticks: logTicks(low, high, rows) } : linearTicks(low, high, rows);
    for (const tick of level.ticks) {
      svg("line", { class: "grid", x1: box.left, x2: box.right, y1: y(tick), y2: y(tick) }, image);
      const label = level.step ? compact(tick, level.step) : String(+tick.toPrecision(2));
      write(label, { x: box.left - 8, y: y(tick) + 4, "text-anchor": "end" }, image);
    }
    const [, scale, unit] = axis === "wall" ? clocks.find(([from]) => far >= from) : [0, 1, ""];
    const along = linearTicks(0, far / scale, (box.right - box.left) / (small ? 70 : 95));
    for (const tick of along.ticks) {
      const anchor = x(tick * scale) > box.right - 16 ? "end" : "middle";
      write(tick ? compact(tick, along.step) + (unit && " " + unit) : "0", { x: x(tick * scale), y: height - 8, "text-anchor": anchor }, image);
    }
    svg("line", { class: "axis", x1: box.left, x2: box.right, y1: box.bottom, y2: box.bottom }, image);
    for (const gap of axis === "wall" ? spec.gaps : []) {
      const area = svg("rect", { class: `gap g${gap.style}${gap.again ? " again" : ""}`, x: x(gap.begin), width: Math.max(1, x(gap.end) - x(gap.begin)), y: box.top, height: box.bottom - box.top }, image);
      svg("title", {}, area).textContent = `${gap.cause}: ${clock(gap.end - gap.begin)}`;
    }
    for (const note of spec.notes) {
      const at = x(note[axis]), sign = svg("path", { class: "note", d: `M${at} ${box.bottom}l-5 9h10z` }, image);
      svg("title", {}, sign).textContent = note.text;
    }
    for (const mark of spec.marks) {
      const line = svg("g", { class: "mark" }, image);
      svg("line", { x1: x(mark[axis]), x2: x(mark[axis]), y1: box.top, y2: box.bottom }, line);
      svg("title", {}, line).textContent = mark.text;
      if (!small) write(mark.number, { class: "mark-name", x: x(mark[axis]), y: box.top - 4, "text-anchor": "middle" }, line);
    }
    for (const series of [...shown(chart), ...chart.series]) {
      let path = "", pen = "M";
      series.y.forEach((value, i) => {
        if (value === null || (chart.scale === "log" && value <= 0)) { pen = "M"; return; }
        if (axis === "wall" && !chart.marked && i && lost(series.wall[i - 1], series.wall[i], series.differs !== undefined)) pen = "M";
        path += `${pen}${x(series[axis][i]).toFixed(1)} ${y(value).toFixed(1)}`;
        pen = "L";
      });
      svg("path", { class: `curve ${series.style}${series.differs === undefined ? "" : " branch"}`, d: path }, image);
      if (chart.marked) series.y.forEach((value, i) => value !== null && svg("circle", { class: `dot ${series.style}`, cx: x(series[axis][i]), cy: y(value), r: 3 }, image));
    }
    plot.replaceChildren(image);
    listen(plot, image, chart, { x, y, box, width, height, far });
  };

  // The point of the first series nearest to the pointer, and what every series says there.
  const listen = (plot, image, chart, { x, y, box, width, far }) => {
    const main = chart.series[chart.series.length > 1 && !chart.marked ? 1 : 0];
    const cursor = svg("g", { visibility: "hidden" }, image);
    const readout = html("div", "", plot, "readout");
    readout.hidden = true;
    readout.setAttribute("role", "status");
    let current = main.y.length - 1;
    const nearest = (series, place) => series[axis].reduce((best, value, i) => (Math.abs(value - place) < Math.abs(series[axis][best] - place) ? i : best), 0);
    const show = (index) => {
      current = Math.min(Math.max(index, 0), main.y.length - 1);
      const place = main[axis][current], at = x(place);
      cursor.replaceChildren();
      cursor.setAttribute("visibility", "visible");
      svg("line", { class: "cursor", x1: at, x2: at, y1: box.top, y2: box.bottom }, cursor);
      readout.replaceChildren();
      html("b", `step ${main.step[current].toLocaleString("en")}`, readout);
      html("div", `${compact(main.tokens[current], 1e4)} tokens · ${clock(main.wall[current])}`, readout);
      for (const series of chart.series) {
        const value = series.y[nearest(series, place)];
        if (value === null) continue;
        svg("circle", { class: `dot ${series.style}`, cx: at, cy: y(value), r: 4 }, cursor);
        const line = html("div", "", readout);
        html("span", series.name, line, series.style);
        html("b", value >= 1000 ? Math.round(value).toLocaleString("en") : value.toPrecision(4), line);
      }
      readout.hidden = false;
      readout.style.left = at < width / 2 ? `${((at + 12) / width) * 100}%` : "auto";
      readout.style.right = at < width / 2 ? "auto" : `${((width - at + 12) / width) * 100}%`;
    };
    const hide = () => { readout.hidden = true; cursor.setAttribute("visibility", "hidden"); };
    const follow = (event) => {
      const frame = image.getBoundingClientRect(), inside = ((event.clientX - frame.left) / frame.width) * width;
      show(nearest(main, ((inside - box.left) / (box.right - box.left)) * far));
    };
    image.addEventListener("pointermove", follow);
    image.addEventListener("pointerdown", follow);
    image.addEventListener("pointerleave", hide);
    image.addEventListener("blur", hide);
    image.addEventListener("keydown", (event) => {
      const jump = { ArrowLeft: current - 1, ArrowRight: current + 1, PageUp: current - 20, PageDown: current + 20, Home: 0, End: Infinity }[event.key];
      if (jump !== undefined) { event.preventDefault(); show(jump); } else if (event.key === "Escape") hide();
    });
  };

  const drawAll = () => figures.forEach(draw);
  for (const toggle of document.querySelectorAll(".toggle")) {
    toggle.hidden = false;
    toggle.addEventListener("click", (event) => {
      if (!event.target.dataset.axis) return;
      axis = event.target.dataset.axis;
      for (const button of toggle.querySelectorAll("button")) button.setAttribute("aria-pressed", String(button.dataset.axis === axis));
      drawAll();
    });
  }
  let known = 0;
  new ResizeObserver(() => { if (known !== document.body.clientWidth) { known = document.body.clientWidth; drawAll(); } }).observe(document.body);
  drawAll();

  // The section being read, in the table of contents.
  const links = new Map([...document.querySelectorAll("nav a")].map((link) => [link.hash.slice(1), link]));
  const watch = new IntersectionObserver((entries) => entries.forEach((entry) => links.get(entry.target.id).classList.toggle("here", entry.isIntersecting)), { rootMargin: "-20% 0px -70% 0px" });
  document.querySelectorAll("main section").forEach((section) => watch.observe(section));
})();
