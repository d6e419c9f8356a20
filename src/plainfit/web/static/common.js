// Shared by all pages: asking the server, and building elements without innerHTML.

const problem = document.getElementById("problem");

async function answer(response) {
  if (response.ok) {
    problem.hidden = true;
    return response.json();
  }
  const body = await response.json().catch(() => ({ detail: response.statusText }));
  const text = typeof body.detail === "string" ? body.detail : JSON.stringify(body.detail);
  throw new Error(text);
}

export const get = async (path) => answer(await fetch(path));

export const post = async (path, body) =>
  answer(await fetch(path, body instanceof FormData ? { method: "POST", body } : {
    method: "POST", body: JSON.stringify(body), headers: { "content-type": "application/json" },
  }));

export function show(error) {
  problem.textContent = error.message;
  problem.hidden = false;
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

const COPY = { copy: "Copy", copied: "Copied", of: (what) => `Copy: ${what}` };

// A command with what it is for, and a button that copies it.
export function copied(what, command) {
  const code = element("code", {}, command);
  const button = element("button", { type: "button", "aria-label": COPY.of(what), onclick: async () => {
    try {
      await navigator.clipboard.writeText(command);
      button.textContent = COPY.copied;
      setTimeout(() => { button.textContent = COPY.copy; }, 2000);
    } catch { // it is not allowed, or the page is on another machine
      getSelection().selectAllChildren(code);
    }
  } }, COPY.copy);
  return element("div", { class: "command" }, element("span", {}, what), code, button);
}
