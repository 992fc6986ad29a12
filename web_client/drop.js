// Files dropped anywhere on the page.

const carriesFile = (event) => event.dataTransfer?.types.includes("Files");
const dropping = (over) => document.body.classList.toggle("dropping", over);

/** `take(file)` gets what is dropped. */
export function takesDrops(take) {
  addEventListener("dragover", (event) => {
    if (!carriesFile(event)) return;
    event.preventDefault(); // else the browser opens the photo in place of the page
    dropping(true);
  });
  addEventListener("dragleave", (event) => {
    if (!event.relatedTarget) dropping(false);
  });
  addEventListener("drop", (event) => {
    dropping(false);
    if (!carriesFile(event)) return;
    event.preventDefault();
    const [file] = event.dataTransfer.files;
    if (file) take(file);
  });
}
