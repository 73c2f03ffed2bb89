// Keeps a page fresh: when the host says that something has changed, the page is asked for again, and its live parts
// are put in. Without this script everything works, and is as fresh as the last reload.
"use strict";
(() => {
  const parts = () => document.querySelectorAll("[data-live][id]");
  if (!window.EventSource || parts().length === 0) return;
  let asking = false;
  let again = false;
  const busy = (part) => {
    const chosen = part.querySelector("input:checked");
    return part.contains(document.activeElement) || chosen !== null;
  };
  const opened = (part) => new Set([...part.querySelectorAll("details[open] > summary")].map((one) => one.textContent));
  const refresh = async () => {
    if (asking) { again = true; return; }
    asking = true;
    try {
      const answer = await fetch(location.href, { headers: { accept: "text/html" }, cache: "no-store" });
      // Logged out meanwhile: the page as it is says more than a form in its middle.
      if (answer.ok && !answer.redirected) {
        const page = new DOMParser().parseFromString(await answer.text(), "text/html");
        for (const part of parts()) {
          const fresh = page.getElementById(part.id);
          // What somebody is working with is left alone.
          if (!fresh || busy(part) || fresh.innerHTML === part.innerHTML) continue;
          const open = opened(part);
          part.replaceChildren(...fresh.childNodes);
          for (const summary of part.querySelectorAll("details > summary")) {
            if (open.has(summary.textContent)) summary.parentElement.open = true;
          }
        }
      }
    } catch {
      // The host is away: the stream comes back by itself, and with it the news.
    } finally {
      setTimeout(() => { asking = false; if (again) { again = false; refresh(); } }, 1000);
    }
  };
  let stream;
  const listen = () => {
    stream = new EventSource("/console/live");
    stream.addEventListener("changed", refresh);
    stream.addEventListener("open", () => {
      document.getElementById("liveness").hidden = false;
      // What changed between the page and the stream is told by neither.
      refresh();
    });
    stream.addEventListener("error", () => { document.getElementById("liveness").hidden = true; });
  };
  listen();
  document.addEventListener("visibilitychange", () => {
    if (document.hidden) { stream.close(); } else { listen(); }
  });
  addEventListener("pagehide", () => stream.close());
})();
