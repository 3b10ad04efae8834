"""The user interface of Algorithm 1a (line 7): a local page on which a person steers an episode by words."""
