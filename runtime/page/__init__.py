"""The web page of a box: cameras, visits and explanations. Only this part needs the extra `page`."""
