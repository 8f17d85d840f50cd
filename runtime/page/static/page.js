// What the page does beyond links and forms. Without JavaScript everything can still be read and sent.
"use strict";

// A picture that is dropped onto the page, or pasted, is sent as if it had been chosen.
const picture = document.querySelector(".drop input[type=file]");
if (picture) {
  const send = (files) => {
    if (files.length === 0) return;
    picture.files = files;
    picture.form.requestSubmit();
  };
  const zone = picture.form;
  addEventListener("dragover", (event) => {
    event.preventDefault();
    zone.classList.add("over");
  });
  addEventListener("dragleave", () => zone.classList.remove("over"));
  addEventListener("drop", (event) => {
    event.preventDefault();
    send(event.dataTransfer.files);
  });
  addEventListener("paste", (event) => send(event.clipboardData.files));
}
