"""Simulators behind one gymnasium contract."""

import gymnasium

gymnasium.register("slowfast/Tabletop-v0", entry_point="envs.tabletop:TabletopEnv")
