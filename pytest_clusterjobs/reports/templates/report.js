"use strict";
// Searches and filters failures, rows and timeline together. What is chosen stands in the address, behind the #.
(() => {
  const form = document.getElementById("filter");
  if (!form) return;
  const rows = Array.from(document.querySelectorAll(".jobs tbody tr"));
  const svg = document.getElementById("timeline");
  const bars = Array.from(svg.querySelectorAll("g"));
  const height = Number(svg.dataset.row);
  const shown = document.getElementById("shown");
  const failures = Array.from(document.querySelectorAll("#failures details"));
  let texts = null;

  function apply() {
    const chosen = Object.fromEntries(new FormData(form));
    const words = (chosen.q || "").toLowerCase().split(/\s+/).filter(Boolean);
    if (words.length && !texts) {
      texts = new Map([...rows, ...failures].map((each) => [each, each.textContent.toLowerCase()]));
    }
    const isFound = (each) => words.every((word) => texts.get(each).includes(word));
    for (const each of failures) {
      each.hidden = !((!chosen.backend || each.dataset.backend === chosen.backend) && isFound(each));
    }
    let count = 0;
    rows.forEach((row, index) => {
      const fits =
        (!chosen.backend || row.cells[1].textContent === chosen.backend) &&
        ["state", "reason"].every((name) => !chosen[name] || row.dataset[name] === chosen[name]) &&
        isFound(row);
      row.hidden = !fits;
      bars[index].style.display = fits ? "" : "none";
      if (fits) bars[index].setAttribute("transform", `translate(0 ${count++ * height})`);
    });
    svg.setAttribute("height", count * height);
    shown.textContent = count === rows.length ? `${count} jobs` : `${count} of ${rows.length} jobs`;
    const address = new URLSearchParams(Object.entries(chosen).filter(([, value]) => value)).toString();
    history.replaceState(null, "", address ? `#${address}` : location.pathname + location.search);
  }

  new URLSearchParams(location.hash.slice(1)).forEach((value, name) => {
    if (form.elements[name]) form.elements[name].value = value;
  });
  form.hidden = false;
  form.addEventListener("input", apply);
  form.addEventListener("submit", (event) => event.preventDefault());
  if (location.hash.length > 1) apply();
})();
