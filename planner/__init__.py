"""The planner: decomposes a task, imagines each subgoal, reads actions off frames, carries them out."""
