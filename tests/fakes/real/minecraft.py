"""A stand-in for the Minecraft process below MineRL 1.0's real Python: ``launchClient.sh`` runs this file.

It answers MineRL's framed messages over a socket, reads the real mission's xml, walks over a flat plain and, as
Java does, hangs up on what it can't read. ``FAKE_SIMULATOR`` is a json of faults (``exit``: dies at launch with
many words; ``hang_up_at``: a tick), ``FAKE_LOG`` a file that gets a line of json for each mission and tick.
"""

from __future__ import annotations

import json
import math
import os
import socket
import struct
import sys
from xml.etree import ElementTree

NEEDED = ("GuiScale", "GammaSetting", "FOVSetting", "FakeCursorSize")  # without them Java meets a null
FAULTS = json.loads(os.environ.get("FAKE_SIMULATOR", "{}"))


def log(**event) -> None:
    with open(os.environ["FAKE_LOG"], "a") as file:
        file.write(json.dumps(event) + "\n")


class Minecraft:
    """One client: where the agent is, and how large a picture the mission wants."""

    x, z, yaw, pitch, ticks = 8.5, -3.5, 30.0, 0.0, 0

    def mission(self, xml: str, token: str) -> None:
        found = {element.tag.rpartition("}")[2]: element for element in ElementTree.fromstring(xml).iter()}
        lacking = [name for name in NEEDED if name not in found]
        if lacking:
            raise ConnectionError(f"java.lang.NullPointerException: {lacking}")
        self.stats = "ObservationFromFullStats" in found
        self.width, self.height = int(found["Width"].text), int(found["Height"].text)
        told = {name: found[name].text for name in ("PreferredSpawnBiome", "LoadWorldFile") if name in found}
        log(
            event="mission",
            seed=token.split(":")[5:],
            death="DoneOnDeath" in found,
            arguments=sys.argv,
            **told,
        )

    def step(self, commands: str) -> None:
        pressed = {}
        for line in filter(None, commands.split("\n")):
            key, *values = line.split(" ")
            pressed[key] = [float(v) for v in values] if key == "camera" else int(*values)
        self.ticks += 1
        log(event="tick", **pressed)
        if self.ticks == FAULTS.get("hang_up_at"):
            raise ConnectionError("the agent's world is gone")
        down, right = pressed.pop("camera")
        self.pitch, self.yaw = self.pitch + down, self.yaw + right  # never wrapped
        ahead, aside = pressed["forward"] - pressed["back"], pressed["left"] - pressed["right"]
        length = 4.317 / 20 / max(1.0, math.hypot(ahead, aside))
        c, s = math.cos(math.radians(self.yaw)), math.sin(math.radians(self.yaw))
        self.x, self.z = self.x + length * (c * aside - s * ahead), self.z + length * (c * ahead + s * aside)

    def picture(self) -> bytes:
        """Blue above green; the last row comes first."""
        half = self.width * (self.height // 2)
        return bytes((60, 120, 50)) * half + bytes((120, 167, 255)) * half

    def info(self) -> bytes:
        place = {"xpos": self.x, "ypos": 64.0, "zpos": self.z, "yaw": self.yaw, "pitch": self.pitch}
        return json.dumps({"isGuiOpen": False, **(place if self.stats else {})}).encode()


def serve(client: socket.socket, game: Minecraft) -> None:
    """Answer one connection until it ends; raises ConnectionError where Java would hang up."""

    def receive() -> str:
        [size] = struct.unpack("!I", client.recv(4, socket.MSG_WAITALL) or b"\0\0\0\0")
        return client.recv(size, socket.MSG_WAITALL).decode() if size else "<Disconnect/>"

    def send(*messages: bytes) -> None:
        for message in messages:
            client.sendall(struct.pack("!I", len(message)) + message)

    receive()  # hello
    while not (message := receive()).startswith("<Disconnect"):
        if message.startswith("<StepClient"):
            game.step(message.partition(">")[2].rpartition("</")[0])
            send(game.picture(), struct.pack("!dbb", 0.0, 0, 1), game.info())
        elif message.startswith("<Peek"):
            send(game.picture(), game.info(), b"\0")
        elif message.startswith("<MissionInit"):
            game.mission(message, receive())
            send(struct.pack("!I", 1))
        elif message.startswith(("<Quit", "<Exit")):
            send(struct.pack("!I", 1))
            if message.startswith("<Exit"):
                raise SystemExit


def main(port: int) -> None:
    if FAULTS.get("exit"):
        for k in range(500):
            print(f"[main/INFO] line {k} of what Minecraft says", flush=True)
        sys.exit("java.lang.OutOfMemoryError: no heap")
    server, game = socket.create_server(("127.0.0.1", port)), Minecraft()
    print(f"***** Start MalmoEnvServer on port {port}\nCLIENT enter state: DORMANT", flush=True)
    while True:
        client, _ = server.accept()
        with client:
            try:
                serve(client, game)
            except (ConnectionError, ValueError) as error:
                print(error, flush=True)


if __name__ == "__main__":
    main(int(sys.argv[sys.argv.index("-port") + 1]))
