"""The testing page at ``/``: pick a model, type a text, see the probabilities, and the call that made them.

One file without a build step, that loads nothing from elsewhere.
"""

from __future__ import annotations

import re
from importlib import resources

from rayclf.serving.headers import page_policy

PAGE = resources.files("rayclf.serving").joinpath("page.html").read_text("utf-8")
POLICY = page_policy(*re.findall(r"<(?:script|style)>(.*?)</(?:script|style)>", PAGE, re.DOTALL))
