/* Excerpts for search results. Sphinx fetches each page for them, which a browser refuses to a page
 * on disk; here their texts come with one script, which only the search page loads. */
document.addEventListener("DOMContentLoaded", () => {
  const results = document.getElementById("search-results");
  if (!results) return;
  const terms = (new URLSearchParams(window.location.search).get("q") || "")
    .toLowerCase()
    .split(/[^\p{Letter}\p{Number}_]+/u)
    .filter((term) => term);

  const excerpt = (text, from) => {
    const lower = text.toLowerCase();
    const start = Math.max(0, lower.indexOf(from));
    const places = terms.map((term) => lower.indexOf(term, start)).filter((place) => place >= 0);
    const first = Math.max(start, (places.length ? Math.min(...places) : start) - 120);
    const begin = first ? text.indexOf(" ", first) + 1 : 0;
    const end = text.lastIndexOf(" ", begin + 240);
    const cut = text.slice(begin, begin + 240 < text.length ? end : text.length);
    return (begin ? "…" : "") + cut + (begin + cut.length < text.length ? "…" : "");
  };

  const marked = (text) => {
    const shown = document.createElement("p");
    shown.className = "context";
    const pattern = terms.map((term) => term.replace(/[^\p{Letter}\p{Number}_]/gu, "")).join("|");
    for (const part of text.split(new RegExp(`(${pattern})`, "giu"))) {
      const hit = terms.includes(part.toLowerCase());
      const node = hit ? document.createElement("mark") : document.createTextNode(part);
      if (hit) node.textContent = part;
      shown.append(node);
    }
    return shown;
  };

  const tell = () => {
    for (const item of results.querySelectorAll("li:not([data-told])")) {
      const link = item.querySelector("a");
      if (!link || !window.bookExcerpts) continue;
      item.dataset.told = "";
      const name = link.getAttribute("href").replace(/\.html.*$/, "");
      const text = window.bookExcerpts[name];
      const section = link.lastChild.textContent.split(" > ").pop().toLowerCase();
      if (text && !item.querySelector(":scope > span")) item.append(marked(excerpt(text, section)));
    }
  };

  new MutationObserver(tell).observe(results, { childList: true, subtree: true });
  const texts = document.createElement("script");
  texts.src = `${document.documentElement.dataset.content_root}_static/excerpts.js`;
  texts.onload = tell;
  document.head.append(texts);
});
