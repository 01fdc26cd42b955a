"""How parameters move: arenas, engines, updates, rollback."""
