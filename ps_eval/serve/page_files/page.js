"use strict";
// Whatever comes from the gateway is set as text, never as markup.
const SECONDS = 2;
const ROWS = 25;
const at = (id) => document.getElementById(id);
const number = (value, digits = 0) =>
  value === null || value === undefined ? "–" : value.toLocaleString("en", { maximumFractionDigits: digits });
const small = (value) => (value === null || value === undefined ? "–" : value.toPrecision(3));
const percent = (value) => `${(100 * value).toFixed(1)}%`;

function node(tag, text, attributes = {}) {
  const made = document.createElement(tag);
  if (text !== null) made.textContent = text;
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  return made;
}

function badges(status) {
  const all = [
    [`upstream ${status.upstream}`, status.upstream === "reachable" ? "good" : "bad"],
    [{ 1: "budgets are obeyed", 0: "budgets are not obeyed" }[status.enforced] ?? "budgets not checked",
      { 1: "good", 0: "bad" }[status.enforced] ?? ""],
    [`${number(status.in_flight)} in flight`, ""],
    [`${number(status.over_budget)} over budget`, status.over_budget ? "bad" : ""],
    [`${number(status.empty_answers)} empty answers`, status.empty_answers ? "bad" : ""],
    [`${number(status.unbudgeted)} without a budget`, ""],
  ];
  if (status.draining) all.push(["stopping", "bad"]);
  if (status.observing) all.push(["only observing", ""]);
  if (status.overdue) all.push(["predictor overdue", "bad"]);
  if (status.explored) all.push([`${number(status.explored)} explored`, ""]);
  at("badges").replaceChildren(...all.map(([text, kind]) => node("li", text, { class: kind })));
}

function figure(name, value, note) {
  const box = node("div", null);
  const shown = node("dd", value);
  if (note) shown.append(node("small", note));
  box.append(node("dt", name), shown);
  return box;
}

function rule(one) {
  const box = node("article", null, { class: "rule" });
  const kind = one.enabled ? (one.predicting ? "" : ": uniform, no predictor") : ": passed as it is";
  box.append(node("h3", one.name + kind));
  const list = node("dl", null, { class: "figures" });
  const off = one.held === null ? "" : `: ${one.held < one.target ? "−" : "+"}${percent(Math.abs(one.held / one.target - 1))}`;
  list.append(
    figure("price, right answers a token", small(one.price)),
    figure("mean held", number(one.held, 1), `target ${number(one.target, 1)}${off}`),
    figure("mean of every request", number(one.mean, 1), `${number(one.requests)} requests`),
  );
  const saved = one.savings;
  if (saved) {
    const needed = saved.uniform_needed;
    list.append(
      figure("tokens saved against uniform", (needed === null ? "≥ " : "") + number(saved.saved),
        needed === null ? "no uniform budget would be right as often"
          : `uniform would need ${number(needed, 1)} instead of ${number(saved.granted, 1)}`),
      figure("right, as predicted", percent(saved.predicted_right),
        `uniform, same tokens: ${percent(saved.uniform_right)}`),
    );
  }
  box.append(list);
  return box;
}

function histogram(bars) {
  const last = bars.findLastIndex((bar) => bar.count);
  const most = Math.max(1, ...bars.map((bar) => bar.count));
  const rows = bars.slice(0, last + 1).map((bar, i) => {
    const from = i ? bars[i - 1].upto + 1 : 0;
    const name = bar.upto === null ? `${from} and more` : from >= bar.upto ? `${bar.upto}` : `${from} to ${bar.upto}`;
    const row = node("div", null, { class: "bar" });
    const line = node("i", null);
    line.style.width = `${(100 * bar.count) / most}%`;
    const cell = node("div", null);
    if (bar.count) cell.append(line);
    row.append(node("span", name), cell, node("span", number(bar.count)));
    return row;
  });
  at("histogram").replaceChildren(...(rows.length ? rows : [node("p", "None yet.", { class: "soft" })]));
}

function prices(last) {
  const values = last.map((one) => one.price).filter((price) => price > 0).reverse();
  at("price").replaceChildren();
  if (values.length < 2) {
    at("price-range").textContent = "Not enough yet.";
    return;
  }
  const low = Math.min(...values), high = Math.max(...values);
  at("price-range").textContent = `${values.length} decisions, from ${small(low)} to ${small(high)}.`;
  const space = "http://www.w3.org/2000/svg";
  const svg = document.createElementNS(space, "svg");
  svg.setAttribute("viewBox", "0 0 100 100");
  svg.setAttribute("preserveAspectRatio", "none");
  svg.setAttribute("role", "img");
  svg.setAttribute("aria-label", at("price-range").textContent);
  const line = document.createElementNS(space, "polyline");
  const y = (price) => (high > low ? 92 - (84 * (price - low)) / (high - low) : 50);
  line.setAttribute("points", values.map((p, i) => `${(100 * i) / (values.length - 1)},${y(p)}`).join(" "));
  svg.append(line);
  at("price").append(svg);
}

function counts(id, table) {
  const entries = Object.entries(table).filter(([, count]) => count).sort((a, b) => b[1] - a[1]);
  const rows = entries.flatMap(([name, count]) => [node("dt", name.replaceAll("_", " ")), node("dd", number(count))]);
  at(id).replaceChildren(...(rows.length ? rows : [node("dt", "none"), node("dd", "0")]));
}

function decisions(last) {
  const rows = last.slice(0, ROWS).map((one) => {
    const how = [one.outcome, one.fallback, one.explored ? "explored" : null].filter(Boolean).join(", ");
    const cells = {
      time: new Date(1000 * one.time).toLocaleTimeString("en-GB"), request: one.id, rule: `${one.rule}, ${one.route}`,
      granted: one.sequences > 1 ? `${one.sequences} × ${number(one.granted)}` : number(one.granted),
      used: number(one.used), price: small(one.price), seconds: number(one.seconds, 2), outcome: how,
    };
    const row = node("tr", null);
    for (const [name, text] of Object.entries(cells)) {
      const cell = node("td", null, { "data-name": name });
      cell.append(node("span", text));
      row.append(cell);
    }
    return row;
  });
  at("last").replaceChildren(...rows);
}

async function refresh() {
  try {
    const response = await fetch("status.json", { cache: "no-store" });
    if (!response.ok) throw new Error(`it answers ${response.status}`);
    const status = await response.json();
    badges(status);
    at("rules").replaceChildren(...status.rules.map(rule));
    histogram(status.granted);
    prices(status.last);
    counts("fallbacks", status.fallbacks);
    counts("outcomes", status.outcomes);
    decisions(status.last);
    at("main").hidden = false;
    at("state").className = "";
    at("state").textContent = `As of ${new Date(1000 * status.time).toLocaleTimeString("en-GB")}, every ${SECONDS} seconds.`;
  } catch (error) {
    at("state").className = "bad";
    at("state").textContent = `The gateway cannot be asked: ${error.message}. What stands below is old.`;
  }
}

async function keepRefreshing() {
  if (!document.hidden) await refresh();
  setTimeout(keepRefreshing, 1000 * SECONDS);
}
document.addEventListener("visibilitychange", () => document.hidden || refresh());
keepRefreshing();
