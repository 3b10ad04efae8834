"""Episodic memories of the world model; one file each."""
