// The page's one connection, and its requests. An answer is json, or one sentence that says what is wrong.

export function connect(receive, complain) {
  const address = new URL("connect", location.href);
  address.protocol = address.protocol === "https:" ? "wss:" : "ws:";
  address.hash = "";
  const socket = new WebSocket(address);
  let full = false;
  socket.addEventListener("message", (event) => {
    const message = JSON.parse(event.data);
    full ||= message.type === "full";
    receive(message);
  });
  socket.addEventListener("close", () => {
    if (!full && !leaving) {
      complain("The connection to the server was lost, and this page’s episode with it; reload to begin anew. What was saved is kept.");
    }
    receive({ type: "closed" });
  });
  let leaving = false;
  addEventListener("pagehide", () => { leaving = true; socket.close(); });
  addEventListener("pageshow", (event) => { if (event.persisted) location.reload(); }); // its episode is gone
  return {
    send(message) {
      if (socket.readyState === WebSocket.OPEN) socket.send(JSON.stringify(message));
      else complain("The page is not connected to the server; reload it.");
    },
  };
}

export async function answered(path, given = {}) {
  let answer;
  try {
    answer = await fetch(path, given);
  } catch {
    throw new Error("The server does not answer; is it still running?");
  }
  if (answer.ok) return answer;
  const told = await answer.json().catch(() => ({}));
  throw new Error(told.error || `The server answered with ${answer.status}.`);
}

export const ask = async (path, given) => (await answered(path, given)).json();

export const post = (path, body) => ask(path, { method: "POST", body });
