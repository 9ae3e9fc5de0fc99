"""Listener-rewarded thinking for image preferences (arXiv 2506.22832), small enough to watch and measure."""

import os

__version__ = "0.1.0"
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")  # TRL reports every trainer that is built, unless told not to
