"""Simulators behind one gymnasium contract: ``gymnasium.make("envs:slowfast/Tabletop-v0")``, whose ``envs:`` imports
this package first."""

import gymnasium

gymnasium.register("slowfast/Tabletop-v0", entry_point="envs.tabletop:TabletopEnv")
gymnasium.register("slowfast/RLBench-v0", entry_point="envs.rlbench_env:RLBenchEnv")
gymnasium.register("slowfast/Doom-v0", entry_point="envs.doom:DoomEnv")
gymnasium.register("slowfast/MineRL-v0", entry_point="envs.minerl_env:MineRLEnv")
gymnasium.register("slowfast/MineStudio-v0", entry_point="envs.minestudio_env:MineStudioEnv")
