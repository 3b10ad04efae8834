"""The planner: decomposes a task, imagines each subgoal, reads actions off the frames and carries them out."""
