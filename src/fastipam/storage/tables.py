"""The databases of a store, each declared once."""

from __future__ import annotations

SCHEMA = 3  # 1, 2: never released
DATABASES = (
    "networks",
    "states",
    "pages",
    "leases",
    "owners",
    "cooldown",
    "reservations",
    "sticky",
    "events",
    "missing",
    "blocks",
)
MAX_DATABASES = 32  # room for those of later schemas
SCHEMA_KEY = b"schema"
DURABILITY_KEY = b"durability"
