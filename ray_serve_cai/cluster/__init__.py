"""Nodes, their state, and the connection to Ray.

Ray reads this variable once, when it is first imported, so it must stand before any module here
imports it. Token authentication is always on: to a Ray without it, a token does no harm.
"""

import os

os.environ.setdefault("RAY_AUTH_MODE", "token")
