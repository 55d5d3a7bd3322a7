"""The demo, ``scripts/demo``: it shows what fastipam does, and leaves its store for inspection."""
