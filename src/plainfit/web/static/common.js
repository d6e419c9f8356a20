// Shared by all pages: their texts, asking the server, and building elements without innerHTML.

const problem = document.getElementById("problem");

// The texts by key, in the language of the page; templates/*.json have them in all languages.
export const t = JSON.parse(document.body.dataset.texts);

// A text with its {names} replaced by values.
export const filled = (text, values) => text.replace(/\{(\w+)\}/g, (_, name) => values[name]);

// Ask the server. Errors have a `lang`: those that the pages have no texts for are in English.
export async function ask(path, options) {
  const response = await fetch(path, options).catch((error) => {
    throw error.name === "AbortError" ? error : new Error(t.no_server);
  });
  if (response.ok) {
    problem.hidden = true;
    return response;
  }
  const { detail, untrusted } = await response.json().catch(() => ({ detail: response.statusText }));
  throw Object.assign(refusal(detail), { untrusted });
}

export function refusal(detail) {
  if (t[detail.text]) return new Error(filled(t[detail.text], detail));
  return Object.assign(new Error(typeof detail === "string" ? detail : JSON.stringify(detail)), { lang: "en" });
}

export const get = async (path) => (await ask(path)).json();

export const post = async (path, body) =>
  (await ask(path, body instanceof FormData ? { method: "POST", body } : {
    method: "POST", body: JSON.stringify(body), headers: { "content-type": "application/json" },
  })).json();

// Call a function that asks the server about a run. If that needs code of the run's own that is not
// trusted, name its file, and call again if the user trusts it; else its error is thrown.
export async function trusting(run, call) {
  try {
    return await call();
  } catch (error) {
    if (!error.untrusted || !(await isTrusted(error.untrusted))) throw error;
    await post(`/api/trust/${encodeURIComponent(run)}`, { source: error.untrusted.source });
    return call();
  }
}

function isTrusted({ target, source }) {
  return new Promise((resolve) => {
    const button = (text, value) => element("button", { onclick: () => dialog.close(value) }, text);
    const dialog = element("dialog", { "aria-labelledby": "trust" },
      element("h2", { id: "trust" }, t.trust_title), element("p", {}, t.trust_text),
      element("p", { lang: "en" }, element("b", {}, target), element("br"), source),
      element("p", { class: "buttons" }, button(t.trust_no, ""), button(t.trust_yes, "yes")));
    dialog.addEventListener("close", () => {
      resolve(dialog.returnValue === "yes");
      dialog.remove();
    });
    document.body.append(dialog);
    dialog.showModal();
  });
}

export function show(error, place = problem) {
  place.textContent = error.message;
  place.lang = error.lang ?? document.documentElement.lang;
  place.hidden = false;
}

// element("td", { class: "right" }, "0.5", other): strings become text, never markup.
export function element(name, attributes = {}, ...children) {
  const made = document.createElement(name);
  set(made, attributes, children);
  return made;
}

export function svg(name, attributes = {}, ...children) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", name);
  set(made, attributes, children);
  return made;
}

function set(made, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
    else if (value === true) made.setAttribute(name, "");
    else if (value !== false && value != null) made.setAttribute(name, value);
  }
  made.append(...children);
}

// A command with what it is for, and a button that copies it.
export function copied(what, command) {
  const code = element("code", {}, command);
  const button = element("button", { type: "button", "aria-label": filled(t.copy_of, { what }), onclick: async () => {
    try {
      await navigator.clipboard.writeText(command);
      button.textContent = t.copied;
      setTimeout(() => { button.textContent = t.copy_it; }, 2000);
    } catch { // it is not allowed, or the page is on another machine
      getSelection().selectAllChildren(code);
    }
  } }, t.copy_it);
  return element("div", { class: "command" }, element("span", {}, what), code, button);
}

for (const place of document.querySelectorAll("[data-command]")) {
  place.append(copied(place.dataset.what, place.dataset.command));
}

for (const link of document.querySelectorAll(".languages a")) {
  link.addEventListener("click", () => { // to this page, with what is chosen
    const here = new URL(location);
    here.searchParams.set("lang", link.lang);
    link.href = here;
  });
}
