"""Things to play with: page parts that live in a notebook's output and on the site alike, without kernel or server."""
