(() => {
  const find = (what, place = document) => [...place.querySelectorAll(what)];
  const help = document.getElementById("help");

  // Keys. j and k move among the rows of a page; where there are none, among latents.
  const move = (by) => {
    const rows = find("[data-row]");
    if (!rows.length) return follow(by > 0 ? "next" : "prev");
    const at = rows.indexOf(document.activeElement);
    const next = rows[Math.max(0, Math.min(rows.length - 1, at < 0 ? 0 : at + by))];
    next.focus();
    next.scrollIntoView({ block: "nearest" });
  };
  const follow = (rel) => document.querySelector(`a[rel="${rel}"]`)?.click();
  const keys = {
    j: () => move(1),
    k: () => move(-1),
    n: () => follow("next"),
    p: () => follow("prev"),
    l: () => (document.querySelector("[data-back]") ?? document.querySelector(".bar a")).click(),
    "/": () => document.querySelector("[data-search]")?.focus(),
    "?": () => help.showModal(),
  };
  addEventListener("keydown", (event) => {
    const field = event.target.closest("input, textarea, select");
    if (field && event.key === "Escape") field.blur();
    if (field || help.open || event.ctrlKey || event.metaKey || event.altKey || !Object.hasOwn(keys, event.key)) return;
    event.preventDefault();
    keys[event.key]();
  });
  find("[data-opens]").forEach((button) => button.addEventListener("click", () => help.showModal()));

  // A name that is typed is there in the next form, in this browser only.
  const remember = () => find("[data-remember]").forEach((field) => {
    const key = `interp-${field.dataset.remember}`;
    try {
      field.value ||= localStorage.getItem(key) ?? "";
      field.form.addEventListener("submit", () => localStorage.setItem(key, field.value));
    } catch {
      // without storage the name is typed again
    }
  });
  remember();

  // Of the panels of a text's tokens the chosen one is shown.
  const choose = (link) => {
    find("[data-panels]").forEach((panel) => { panel.hidden = panel.id !== link.dataset.panel; });
    find("[data-panel]").forEach((other) => other.toggleAttribute("aria-current", other === link));
  };
  const choices = () => {
    const links = find("[data-panel]");
    links.forEach((link) => link.addEventListener("focus", () => choose(link)));
    links.forEach((link) => link.addEventListener("click", (event) => { event.preventDefault(); link.focus(); choose(link); }));
    if (links.length) choose(links.at(-1));
  };
  choices();

  const parsed = (text) => new DOMParser().parseFromString(text, "text/html");
  const send = (form, signal) =>
    fetch(form.action, { method: "POST", body: new URLSearchParams(new FormData(form)), signal });

  // A label is sent from here, so that what was typed stays where the server does not answer.
  const unsaved = (form, why) => {
    const button = form.querySelector("button");
    const alert = form.querySelector("[role=alert]") ?? document.createElement("p");
    Object.assign(alert, { className: "banner deny", role: "alert", textContent: `Not saved: ${why}. What you typed is still here.` });
    button.before(alert);
    button.textContent = "Try again";
  };
  const save = async (form) => {
    const answered = async () => {
      const answer = await send(form, AbortSignal.timeout(20_000));
      return [answer.status, answer.ok ? null : parsed(await answer.text())];
    };
    let [status, page] = await answered();
    const token = page?.querySelector("#labels [name=token]")?.value;
    if (status === 403 && token) { // the server was started again, and has another token
      form.elements.token.value = token;
      [status, page] = await answered();
    }
    if (!page) {
      location.hash = "labels";
      return location.reload();
    }
    const labels = page.getElementById("labels");
    if (!labels) return unsaved(form, page.body.textContent.trim());
    document.getElementById("labels").replaceWith(labels);
    remember();
    labels.scrollIntoView();
  };
  document.addEventListener("submit", async (event) => {
    const form = event.target.closest("#labels form");
    if (!form) return;
    event.preventDefault();
    const button = form.querySelector("button");
    button.disabled = true;
    try {
      await save(form);
    } catch {
      unsaved(form, `interp browse does not answer; start it again with --port ${location.port}, then try again`);
    }
    button.disabled = false;
  });

  // What fires follows the typing.
  find("form[data-live]").forEach((form) => {
    const place = document.getElementById(form.dataset.live);
    let waiting, running;
    form.addEventListener("input", () => {
      clearTimeout(waiting);
      waiting = setTimeout(async () => {
        running?.abort();
        if (!form.elements.text.value.trim()) return place.replaceChildren();
        running = new AbortController();
        try {
          const answer = await send(form, running.signal);
          const page = parsed(await answer.text());
          place.replaceChildren(...(page.getElementById(place.id) ?? page.querySelector("main")).childNodes);
          choices();
        } catch (problem) {
          if (problem.name !== "AbortError") place.textContent = `No answer: ${problem.message}. Is interp browse still running?`;
        }
      }, 250);
    });
  });

  // Two replies, as they are written.
  find("output[data-of]").forEach((output) => {
    const field = document.querySelector(`[name="${output.dataset.of}"]`);
    field.addEventListener("input", () => { output.value = Number((field.value * (output.dataset.unit ?? 1)).toPrecision(4)); });
  });
  find("form[data-stream]").forEach((form) => {
    const sides = Object.fromEntries(find("[data-side]").map((place) => [place.dataset.side, place]));
    const fail = (text) => { sides.error.textContent = text; sides.error.hidden = false; };
    let running;
    form.addEventListener("submit", async (event) => {
      event.preventDefault();
      running?.abort();
      running = new AbortController();
      const { signal } = running;
      Object.values(sides).forEach((place) => { place.textContent = ""; });
      sides.error.hidden = true;
      try {
        const answer = await send(form, signal);
        if (!answer.ok) {
          const page = parsed(await answer.text());
          return fail(page.querySelector("[role=alert]")?.textContent ?? page.body.textContent);
        }
        const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
        for (let rest = "", part = await reader.read(); !part.done; part = await reader.read()) {
          const lines = (rest + part.value).split("\n");
          rest = lines.pop();
          for (const [side, text] of lines.map((line) => JSON.parse(line))) side === "error" ? fail(text) : (sides[side].textContent = text);
        }
      } catch (problem) {
        if (problem.name !== "AbortError") fail(`No answer: ${problem.message}. Is interp browse still running?`);
      }
    });
  });
})();
