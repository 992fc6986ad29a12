// The two views of one page, by the address's fragment: #call and #presenter.

export class View extends EventTarget {
  #links;

  /** `nav` holds the links; the body's `data-view` follows them. Event: "change" (read `name`). */
  constructor(nav) {
    super();
    this.#links = [...nav.querySelectorAll("a")];
    addEventListener("hashchange", () => this.#follow());
    this.#follow();
  }

  #follow() {
    const named = (link) => link.hash === location.hash;
    const chosen = this.#links.find(named) ?? this.#links[0];
    this.name = chosen.hash.slice(1);
    document.body.dataset.view = this.name;
    for (const link of this.#links) {
      if (link === chosen) link.setAttribute("aria-current", "page");
      else link.removeAttribute("aria-current");
    }
    this.dispatchEvent(new Event("change"));
  }
}

/** The button that lets the stage fill the screen, where the browser can do that; iPhones cannot. */
export function fills(button, stage) {
  button.hidden = !document.fullscreenEnabled;
  button.addEventListener("click", () => {
    if (document.fullscreenElement) document.exitFullscreen();
    else stage.requestFullscreen().catch(() => {});
  });
  document.addEventListener("fullscreenchange", () => {
    button.setAttribute("aria-label", document.fullscreenElement ? "Leave full screen" : "Fill the screen");
  });
}
