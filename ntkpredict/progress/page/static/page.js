"use strict";

const find = (id) => document.getElementById(id);
const token = () => location.hash.slice(1);
const source = new EventSource("events");
let latest = { status: "", ended: false };
let heard = Date.now();
let told = -1;

source.onmessage = (event) => {
  heard = Date.now();
  latest = JSON.parse(event.data);
  if (latest.ended) source.close();
  showStatus(latest.status);
  find("title").textContent = latest.title;
  if (latest.state) showState(latest.state);
  showButton();
};
source.onerror = () => showStatus("The run does not answer; trying again");
find("cancel").onclick = () => find("dialog").showModal();
find("dialog").onclose = (event) => event.target.returnValue === "stop" && cancel();
addEventListener("hashchange", showButton);
setInterval(showAge, 1000);
showButton();

function showStatus(text) {
  if (find("status").textContent !== text) find("status").textContent = text; // read out once
}

function showState(state) {
  const [remaining] = state.rows.filter(([label]) => label === "Remaining");
  find("remaining").textContent = remaining[1];
  const others = state.rows.filter((row) => row !== remaining);
  find("rows").replaceChildren(...others.flatMap(([label, text]) => [
    element("dt", label), element("dd", text),
  ]));
  showDone(state.done, remaining[1]);
  find("figure").hidden = state.curve === null;
  if (state.curve !== null) showCurve(state.curve);
}

function showDone(done, remaining) {
  if (done === null) return;
  const percent = Math.round(100 * done);
  find("bar").value = done;
  find("done").textContent = `${percent} %`;
  document.title = `${percent} %, ${remaining}: ${latest.title}`;
  if (Math.floor(percent / 10) !== told) { // what is read out now and then
    told = Math.floor(percent / 10);
    find("news").textContent = `${percent} % done, ${remaining} remaining`;
  }
}

function showCurve(curve) {
  for (const name of ["values", "middle", "band"]) find(name).setAttribute("d", curve[name]);
  find("stop").setAttribute("d", `M${curve.stop} 0V1000`);
  find("grid").setAttribute("d", curve.y.map(([at]) => `M0 ${10 * at}H1000`).join(""));
  find("metric").textContent = curve.metric;
  find("plot").setAttribute("aria-label", curve.words);
  for (const [axis, side] of [["x", "left"], ["y", "top"]]) {
    find(axis).replaceChildren(...curve[axis].map(([at, text]) => {
      const tick = element("span", text);
      tick.style[side] = `${at}%`;
      return tick;
    }));
  }
}

function showButton() {
  find("cancelling").hidden = !latest.cancellable;
  find("cancel").disabled = latest.ended || token() === "" || latest.status.startsWith("Cancel");
  find("hint").hidden = token() !== "";
}

function showAge() {
  const seconds = Math.round((Date.now() - heard) / 1000);
  find("age").textContent = seconds > 4 && !latest.ended ? `as of ${seconds} s ago` : "";
}

async function cancel() {
  const headers = { Authorization: `Bearer ${token()}` };
  const answer = await fetch("cancel", { method: "POST", headers }).catch(() => null);
  if (!answer?.ok) showStatus(`Not cancelled: ${answer ? await answer.text() : "no answer"}`);
}

function element(name, text) {
  const made = document.createElement(name);
  made.textContent = text;
  return made;
}
