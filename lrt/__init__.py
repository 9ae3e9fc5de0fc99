"""Listener-rewarded thinking for image preferences (arXiv 2506.22832), small enough to watch and measure."""

__version__ = "0.1.0"
