// Conveniences beyond links and forms. Everything can be read and sent without JavaScript, too.
"use strict";

// Dropping or pasting a picture has the same effect as choosing a file.
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
