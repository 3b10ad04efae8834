"""A user's own videos as training data: folders of mp4 with captions, and LeRobotDataset v3.0 folders."""
