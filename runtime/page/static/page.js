// What the page does beyond links and forms. Without JavaScript everything can still be read.
"use strict";

const root = document.body.dataset.root;
