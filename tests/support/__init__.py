"""Worlds, test sessions' settings, and the programs that tests run in a process of their own."""
