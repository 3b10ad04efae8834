"""The handlers that a path_retrace specification needs, as named values."""

from xml.etree import ElementTree


class Handler:
    def __init__(self, *values):
        self.values = values


class POVObservation(Handler):
    def __init__(self, video_resolution, include_depth=False):
        self.values = video_resolution


class ObservationFromCurrentLocation(Handler): ...


class IsGuiOpen(Handler): ...


class GuiScale(Handler): ...


class PreferredSpawnBiome(Handler):
    def __init__(self, biome):
        self.values = (biome,)


class LoadWorldAgentStart(Handler):
    def __init__(self, filename):
        self.values = (ElementTree.fromstring(f"<LoadWorldFile>{filename}</LoadWorldFile>").text,)


class DoneOnDeath(Handler): ...


class DefaultWorldGenerator(Handler):
    def __init__(self, force_reset=True, generator_options=""):
        self.values = (force_reset,)


class ServerQuitWhenAnyAgentFinishes(Handler): ...
