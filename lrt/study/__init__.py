"""The study: a grid of runs, their logs, and what follows from them."""
