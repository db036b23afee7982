// Small charts in the table and large charts in the details, drawn by uPlot (uPlot.iife.min.js).

/* global uPlot */
import {make} from "./dom.js";

const WIDTH = 96, HEIGHT = 22;
const scheme = matchMedia("(prefers-color-scheme: dark)");
const sparks = new Set();

function colour(name) { return getComputedStyle(document.documentElement).getPropertyValue(name).trim(); }

// A chart is made when its place is on the screen, and deleted when it leaves the screen.
const watcher = new IntersectionObserver(entries => {
  for (const {target, isIntersecting} of entries) {
    const spark = target.spark;
    spark.visible = isIntersecting;
    if (isIntersecting) spark.draw(); else spark.drop();
  }
}, {rootMargin: "100px"});

/** The course of a rate without axes. The figure stands beside the chart, so screen readers skip the chart. */
export class Spark {
  constructor() {
    this.element = make("span", "spark");
    this.element.setAttribute("aria-hidden", "true");
    this.element.spark = this;
    this.data = [[], []];
    this.visible = false;
    this.plot = null;
    sparks.add(this);
    watcher.observe(this.element);
  }

  show(times, values) {
    this.data = [times, values];
    if (this.visible) this.draw();
  }

  draw() {
    if (this.data[0].length < 2 || !window.uPlot) return;  // the library may arrive after the page; the next status draws
    if (!this.plot) this.plot = new uPlot(options(), this.data, this.element);
    else this.plot.setData(this.data);
  }

  drop() {
    if (this.plot) this.plot.destroy();
    this.plot = null;
  }

  end() {
    this.drop();
    watcher.unobserve(this.element);
    sparks.delete(this);
  }
}

function fromZero(plot, low, high) { return [0, high > 0 ? 1.1 * high : 1]; }

function options() {
  return {
    width: WIDTH, height: HEIGHT, padding: [2, 0, 1, 0],
    cursor: {show: false}, select: {show: false}, legend: {show: false},
    scales: {x: {time: false}, y: {range: fromZero}},
    axes: [{show: false}, {show: false}],
    series: [{}, {stroke: colour("--accent"), fill: colour("--accent-ground"), width: 1.25, points: {show: false}}],
  };
}

const DASHES = [[], [6, 3], [2, 3], [10, 3, 2, 3]];

/** A chart with axes and one line for each of `names`. Lines differ in colour and in their dashes. */
export class Chart {
  constructor(title, names, unit) {
    this.element = make("figure", "chart");
    this.caption = make("figcaption", "", title);
    this.place = make("div");
    this.place.setAttribute("aria-hidden", "true");
    this.element.append(this.caption, this.place);
    this.names = names;
    this.unit = unit;
    this.plot = null;
  }

  show(times, values) {
    if (times.length < 2 || !window.uPlot) return;
    const now = times.at(-1), data = [times.map(time => time - now), ...values];
    if (!this.plot) this.plot = new uPlot(this.options(), data, this.place);
    else this.plot.setData(data);
    const width = this.place.clientWidth;
    if (width && width !== this.plot.width) this.plot.setSize({width, height: 170});
  }

  options() {
    const axis = {stroke: colour("--dim"), grid: {stroke: colour("--line"), width: 1}, ticks: {show: false}, font: "11px system-ui, sans-serif"};
    const lines = this.names.map((label, number) => ({
      label,
      stroke: colour("--line-" + (number % 6 + 1)),
      dash: DASHES[Math.floor(number / 6) % DASHES.length],
      width: 1.5,
      points: {show: false},
      value: (plot, value) => value === null ? "–" : value.toFixed(1) + " " + this.unit,
    }));
    return {
      width: this.place.clientWidth || 600, height: 170,
      scales: {x: {time: false}, y: {range: fromZero}},
      axes: [
        {...axis, size: 28, values: (plot, marks) => marks.map(mark => mark === 0 ? "now" : Math.round(mark) + " s")},
        {...axis, size: 56},
      ],
      legend: {show: this.names.length > 1, live: false},
      cursor: {drag: {x: false, y: false}},
      series: [{}, ...lines],
    };
  }

  end() {
    if (this.plot) this.plot.destroy();
    this.plot = null;
  }
}

// The colours of a chart are fixed when it is made.
scheme.addEventListener("change", () => {
  for (const spark of sparks) {
    spark.drop();
    if (spark.visible) spark.draw();
  }
});
